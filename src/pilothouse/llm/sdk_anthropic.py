"""Models over Anthropic's SDK. Loaded with the first such model: the SDK costs two seconds and 40 MB."""

import httpx2
from anthropic import AsyncAnthropic
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.providers.anthropic import AnthropicProvider

from pilothouse.llm.credentials import Credentials


class AnthropicModels:
    """Models of one endpoint, over one client that never retries by itself."""

    def __init__(self, credentials: Credentials, http_client: httpx2.AsyncClient) -> None:
        client = AsyncAnthropic(
            api_key=credentials.key,
            base_url=credentials.base_url,
            http_client=http_client,
            max_retries=0,
        )
        self._provider = AnthropicProvider(anthropic_client=client)

    def make(self, name: str, *, responses: bool) -> Model:  # noqa: ARG002 - there is one wire only
        """The model of a name."""
        return AnthropicModel(name, provider=self._provider)
