"""Models over OpenAI's SDK. Loaded with the first such model: the SDK costs a second and 20 MB."""

import httpx2
from openai import AsyncAzureOpenAI, AsyncOpenAI
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.azure import AzureProvider
from pydantic_ai.providers.openai import OpenAIProvider

from pilothouse.llm.credentials import Credentials


class OpenAIModels:
    """Models of one endpoint, over one client that never retries by itself."""

    def __init__(self, credentials: Credentials, http_client: httpx2.AsyncClient) -> None:
        make = _azure if credentials.provider == "azure" else _openai
        self._provider = make(credentials, http_client)

    def make(self, name: str) -> Model:
        """The model of a name."""
        return OpenAIChatModel(name, provider=self._provider)


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
