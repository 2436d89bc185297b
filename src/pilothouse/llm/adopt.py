"""Models that agents bring, such as that of `Agent("openai:...")`, taken over to the process's own connections.

Only models whose HTTP client nobody chose or changed are taken over; what a person set up on purpose is left alone.
Classes are told by their names: importing them would load the SDKs of providers that nobody uses.
"""

from collections.abc import Mapping
from copy import copy
from typing import Any, Protocol, Self, cast

import httpx2
from pydantic_ai.models import Model, create_async_httpx2_client
from pydantic_ai.providers import Provider

__all__ = ["SDKClient", "adopt", "client_of"]

_MODELS = frozenset(
    {
        "pydantic_ai.models.anthropic.AnthropicModel",
        "pydantic_ai.models.openai._chat_model.OpenAIChatModel",
        "pydantic_ai.models.openai._responses_model.OpenAIResponsesModel",
    }
)
_CLIENTS = frozenset({"anthropic.AsyncAnthropic", "openai.AsyncOpenAI", "openai.lib.azure.AsyncAzureOpenAI"})
# What an SDK makes for itself where it is given no HTTP client.
_SDK_HTTP_CLIENTS = frozenset(
    {"anthropic._base_client.AsyncHttpxClientWrapper", "openai._base_client.AsyncHttpxClientWrapper"}
)
_USUAL_HEADERS = frozenset({"accept", "accept-encoding", "connection", "user-agent"})
# A cap on timeouts, and the guard of keys on redirects.
_USUAL_HOOKS = frozenset({"pydantic_ai._http", "openai.lib.azure"})
# Ways of signing in that need more than a key, and strictness that copies of a client lose.
_UNUSUAL = ("workload_identity", "_provider", "_strict_response_validation")


class SDKClient(Protocol):
    """What the clients of the SDKs have in common."""

    api_key: str | None
    max_retries: int

    @property
    def base_url(self) -> httpx2.URL: ...
    @property
    def custom_auth(self) -> httpx2.Auth | None: ...
    @property
    def default_headers(self) -> Mapping[str, Any]: ...
    def with_options(self, *, http_client: httpx2.AsyncClient, max_retries: int) -> Self: ...
    async def get(self, path: str, *, cast_to: type[httpx2.Response]) -> httpx2.Response: ...


def adopt(model: Model, http_client: httpx2.AsyncClient) -> Model | None:
    """An equal model over `http_client` that never retries by itself; `None` for one that is to be left alone.

    Equal are its name, profile, settings, base URL, headers and credentials. The model given is not changed.
    Left alone are subclasses, wrappers and models with an HTTP client, a transport, hooks or a way of signing in that
    somebody chose.
    """
    client, provider = client_of(model), model.provider
    if client is None or provider is None or not _is_plain(client, provider):
        return None
    own = client.with_options(http_client=http_client, max_retries=0)
    if _name(own).startswith("openai."):
        from pilothouse.llm.sdk_openai import with_plain_bodies  # noqa: PLC0415 - loads the SDK, which is loaded here

        with_plain_bodies(cast("Any", own))
    twin_provider = copy(provider)
    vars(twin_provider).update(_client=own, _own_http_client=None, _http_client_factory=None, _entered_count=0)
    # Belongs to the loop that the other one was used on.
    vars(twin_provider).pop("_enter_lock", None)
    twin = copy(model)
    vars(twin)["_provider"] = twin_provider
    if "_websocket" in vars(twin):
        # Copies of a model share their sockets, which are over the client.
        vars(twin)["_websocket"] = type(vars(twin)["_websocket"])()
    return twin if client_of(twin) is own else None


def client_of(model: Model) -> SDKClient | None:
    """The SDK client of a model that may be taken over by its class."""
    provider = model.provider
    if provider is None or _name(model) not in _MODELS or not _is_of_pydantic_ai(provider):
        return None
    client: object = provider.client
    return cast("SDKClient", client) if _name(client) in _CLIENTS else None


def _is_plain(client: SDKClient, provider: Provider[Any]) -> bool:
    if client.custom_auth is not None or any(vars(client).get(name) for name in _UNUSUAL):
        return False
    http_client: object = vars(client).get("_client")
    own = vars(provider).get("_own_http_client")
    if own is None:
        made_for_it = _name(http_client) in _SDK_HTTP_CLIENTS
    else:
        # Providers that sign requests by hooks have factories of their own.
        factory = vars(provider).get("_http_client_factory")
        made_for_it = http_client is own and factory is create_async_httpx2_client
    return made_for_it and isinstance(http_client, httpx2.AsyncClient) and _is_as_made(http_client)


def _is_as_made(http_client: httpx2.AsyncClient) -> bool:
    hooks = http_client.event_hooks
    return (
        type(vars(http_client).get("_transport")) is httpx2.AsyncHTTPTransport
        and all(getattr(hook, "__module__", "") in _USUAL_HOOKS for hook in hooks["request"])
        and not hooks["response"]
        and set(http_client.headers) <= _USUAL_HEADERS
        and http_client.auth is None
        and not http_client.cookies
        and not http_client.params
    )


def _name(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _is_of_pydantic_ai(thing: object) -> bool:
    return type(thing).__module__.startswith("pydantic_ai.")
