"""Models over OpenAI's SDK. Loaded with the first such model: the SDK costs a second and 20 MB."""

from typing import Any

import httpx2
from openai import AsyncAzureOpenAI, AsyncOpenAI
from openai.resources.chat.completions import AsyncCompletions
from openai.resources.responses import AsyncResponses
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.azure import AzureProvider
from pydantic_ai.providers.openai import OpenAIProvider

from pilothouse.llm.credentials import Credentials
from pilothouse.llm.plain_body import plain_body


class OpenAIModels:
    """Models of one endpoint, over one client that never retries by itself."""

    def __init__(self, credentials: Credentials, http_client: httpx2.AsyncClient) -> None:
        make = _azure if credentials.provider == "azure" else _openai
        self._provider = make(credentials, http_client)
        with_plain_bodies(self._provider.client)

    def make(self, name: str, *, responses: bool) -> Model:
        """The model of a name, over Responses or chat completions."""
        kind = OpenAIResponsesModel if responses else OpenAIChatModel
        return kind(name, provider=self._provider)


class _PlainCompletions(AsyncCompletions):
    def create(self, *, messages: Any, extra_body: Any = None, **rest: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        sdk: Any = super()
        return sdk.create(messages=[], extra_body=plain_body({"messages": messages}, rest, extra_body), **rest)


class _PlainResponses(AsyncResponses):
    def create(self, *, input: Any = None, extra_body: Any = None, **rest: Any) -> Any:  # noqa: A002  # pyright: ignore[reportIncompatibleMethodOverride]
        sdk: Any = super()
        given = {} if input is None else {"input": input}
        return sdk.create(extra_body=plain_body(given, rest, extra_body), **rest)


def with_plain_bodies(client: AsyncOpenAI) -> None:
    """Make this client send messages, input and tools as they are given. Copies of it don't inherit that."""
    client.chat.__dict__["completions"] = _PlainCompletions(client)
    client.__dict__["responses"] = _PlainResponses(client)


def _openai(credentials: Credentials, http_client: httpx2.AsyncClient) -> OpenAIProvider:
    client = AsyncOpenAI(
        api_key=credentials.key or "none",
        base_url=credentials.base_url,
        http_client=http_client,
        max_retries=0,
    )
    return OpenAIProvider(openai_client=client)


def _azure(credentials: Credentials, http_client: httpx2.AsyncClient) -> AzureProvider:
    if credentials.api_version is None:
        provider = AzureProvider(azure_endpoint=credentials.base_url, api_key=credentials.key, http_client=http_client)
        provider.client.max_retries = 0
        return provider
    client = AsyncAzureOpenAI(
        azure_endpoint=credentials.base_url,
        api_key=credentials.key,
        api_version=credentials.api_version,
        http_client=http_client,
        max_retries=0,
    )
    return AzureProvider(openai_client=client)
