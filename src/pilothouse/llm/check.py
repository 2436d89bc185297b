"""Asking providers whether they take our credentials."""

import asyncio
from collections.abc import Iterable

import httpx2
from pydantic_ai.models import Model

from pilothouse.errors import StartupError
from pilothouse.llm.adopt import SDKClient, client_of
from pilothouse.llm.credentials import Credentials

__all__ = ["can_check", "check_credentials", "check_models"]

_SECONDS = 5.0
_REFUSED = frozenset({401, 403})
_OFF = "PILOTHOUSE_MODELS_CHECK=false turns this check off."
# Where the models are listed, and what a person sets. Other providers may answer a list of models as they like.
_KNOWN = {
    "OpenAIProvider": ("/models", "OPENAI_API_KEY", "OPENAI_BASE_URL"),
    "AzureProvider": ("/models", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT"),
    "AnthropicProvider": ("/v1/models", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"),
}


async def check_credentials(credentials: Credentials, http_client: httpx2.AsyncClient) -> None:
    """Ask a provider that we build clients for.

    Raises:
        StartupError: the key is missing or refused, or the provider can't be reached.
    """
    if credentials.needs_key and not credentials.key:
        raise StartupError(f"There is no key for {credentials.provider}: set {credentials.key_name}. {_OFF}")
    url, headers = _models_request(credentials)
    try:
        async with asyncio.timeout(_SECONDS):
            response = await http_client.get(url, headers=headers)
    except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
        raise StartupError(
            f"{credentials.provider} can't be reached at {_without_secrets(credentials.base_url)}: check the "
            f"network and {credentials.url_name}. {_OFF}"
        ) from error
    if response.status_code in _REFUSED:
        raise StartupError(
            f"{credentials.provider} refused the key (status {response.status_code}): "
            f"check {credentials.key_name}. {_OFF}"
        )


def can_check(model: Model) -> bool:
    """Whether there is a way to ask about a model that was taken over."""
    return client_of(model) is not None and type(model.provider).__name__ in _KNOWN


async def check_models(models: Iterable[Model]) -> None:
    """Ask the providers of models that were taken over, each once for an address and a key.

    Raises:
        StartupError: a key is refused, or a provider can't be reached.
    """
    found: dict[tuple[str, str | int], tuple[Model, SDKClient]] = {}
    for model in models:
        client = client_of(model)
        if client is not None and can_check(model):
            # A key that is fetched when it is needed is empty here.
            found.setdefault((str(client.base_url), client.api_key or id(client)), (model, client))
    await asyncio.gather(*(_check_model(model, client) for model, client in found.values()))


async def _check_model(model: Model, client: SDKClient) -> None:
    path, key_name, url_name = _KNOWN[type(model.provider).__name__]
    name = f"{model.system}:{model.model_name}"
    try:
        async with asyncio.timeout(_SECONDS):
            await client.get(path, cast_to=httpx2.Response)
    except Exception as error:
        # Each SDK has errors of its own: they have a status, or the transport's error is their cause.
        status: object = getattr(error, "status_code", None)
        if status in _REFUSED:
            raise StartupError(
                f"The key of an agent's model {name} was refused (status {status}): "
                f"check {key_name}, or the key in your code. {_OFF}"
            ) from error
        if isinstance(error, TimeoutError) or isinstance(error.__cause__, httpx2.HTTPError | httpx2.InvalidURL):
            raise StartupError(
                f"The provider of an agent's model {name} can't be reached at "
                f"{_without_secrets(str(client.base_url))}: check the network and {url_name}, "
                f"or the address in your code. {_OFF}"
            ) from error
        if status is None:
            raise


def _models_request(credentials: Credentials) -> tuple[str, dict[str, str]]:
    """Where a provider lists its models, and the headers that ask as we do."""
    base, key = credentials.base_url, credentials.key
    if credentials.provider == "anthropic":
        return f"{base}/v1/models", {"x-api-key": key, "anthropic-version": "2023-06-01"}
    if credentials.provider == "azure":
        if credentials.api_version is not None:
            return f"{base}/openai/models?api-version={credentials.api_version}", {"api-key": key}
        return f"{base}/models", {"api-key": key}
    return f"{base}/models", {"Authorization": f"Bearer {key}"} if key else {}


def _without_secrets(url: str) -> str:
    parsed = httpx2.URL(url)
    return str(parsed.copy_with(userinfo=b"", query=None))
