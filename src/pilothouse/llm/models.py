"""Pydantic AI models from references such as `openai:gpt-...`; one SDK client a provider, made when first needed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx2
from anthropic import AsyncAnthropic
from openai import AsyncAzureOpenAI, AsyncOpenAI
from pydantic import SecretStr
from pydantic_ai.models import Model, infer_model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.azure import AzureProvider
from pydantic_ai.providers.openai import OpenAIProvider

from pilothouse.errors import StartupError
from pilothouse.settings import Settings

__all__ = ["Credentials", "Models", "credentials_for", "split_reference"]

_OPENAI_URL = "https://api.openai.com/v1"
_ANTHROPIC_URL = "https://api.anthropic.com"
_ALIASES = {"openai-chat": "openai"}


@dataclass(frozen=True)
class Credentials:
    """How to reach a provider, and the variables a person sets to change it."""

    provider: str
    base_url: str
    key: str = field(repr=False)
    key_name: str
    url_name: str
    api_version: str | None = None
    needs_key: bool = True


def split_reference(reference: str) -> tuple[str, str]:
    """The provider and the name in `provider:name`; the provider is empty where none is named."""
    provider, colon, name = reference.partition(":")
    if not colon:
        return "", reference
    return _ALIASES.get(provider, provider), name


def credentials_for(provider: str, settings: Settings, environ: Mapping[str, str]) -> Credentials | None:
    """Settings of a provider we build clients for, completed by its usual variables; `None` for other providers.

    Raises:
        StartupError: Azure has no endpoint.
    """
    if provider == "openai":
        base_url = settings.openai.base_url or environ.get("OPENAI_BASE_URL")
        return Credentials(
            provider,
            (base_url or _OPENAI_URL).rstrip("/"),
            _secret(settings.openai.api_key, environ.get("OPENAI_API_KEY")),
            "PILOTHOUSE_OPENAI_API_KEY (or OPENAI_API_KEY)",
            "PILOTHOUSE_OPENAI_BASE_URL",
            needs_key=base_url is None,
        )
    if provider == "anthropic":
        base_url = settings.anthropic.base_url or environ.get("ANTHROPIC_BASE_URL") or _ANTHROPIC_URL
        return Credentials(
            provider,
            base_url.rstrip("/"),
            _secret(settings.anthropic.api_key, environ.get("ANTHROPIC_API_KEY")),
            "PILOTHOUSE_ANTHROPIC_API_KEY (or ANTHROPIC_API_KEY)",
            "PILOTHOUSE_ANTHROPIC_BASE_URL",
        )
    return _azure_credentials(settings, environ) if provider == "azure" else None


class Models:
    """Builds models, each once.

    The clients share `http_client` and never retry by themselves.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str], *, http_client: httpx2.AsyncClient) -> None:
        self._settings = settings
        self._environ = environ
        self._http_client = http_client
        self._models: dict[str, Model] = {}
        self._openai: OpenAIProvider | None = None
        self._anthropic: AnthropicProvider | None = None
        self._azure: AzureProvider | None = None

    def get(self, reference: str | Model) -> Model:
        """The model of a reference; a model given as such is given back as it is.

        Raises:
            StartupError: its provider has no key.
            pydantic_ai.exceptions.UserError: nobody knows the reference.
        """
        if isinstance(reference, Model):
            return reference
        model = self._models.get(reference)
        if model is None:
            model = self._models[reference] = self._build(reference)
        return model

    def credentials(self, provider: str) -> Credentials | None:
        """As `credentials_for`."""
        return credentials_for(provider, self._settings, self._environ)

    def _build(self, reference: str) -> Model:
        provider, name = split_reference(reference)
        credentials = self.credentials(provider)
        if credentials is None:
            return infer_model(reference)
        if credentials.needs_key and not credentials.key:
            raise StartupError(f"The model {reference} needs a key: set {credentials.key_name}.")
        if provider == "anthropic":
            return AnthropicModel(name, provider=self._anthropic_provider(credentials))
        if provider == "azure":
            return OpenAIChatModel(name, provider=self._azure_provider(credentials))
        return OpenAIChatModel(name, provider=self._openai_provider(credentials))

    def _openai_provider(self, credentials: Credentials) -> OpenAIProvider:
        if self._openai is None:
            client = AsyncOpenAI(
                api_key=credentials.key or "none",
                base_url=credentials.base_url,
                http_client=self._http_client,
                max_retries=0,
            )
            self._openai = OpenAIProvider(openai_client=client)
        return self._openai

    def _anthropic_provider(self, credentials: Credentials) -> AnthropicProvider:
        if self._anthropic is None:
            client = AsyncAnthropic(
                api_key=credentials.key,
                base_url=credentials.base_url,
                http_client=self._http_client,
                max_retries=0,
            )
            self._anthropic = AnthropicProvider(anthropic_client=client)
        return self._anthropic

    def _azure_provider(self, credentials: Credentials) -> AzureProvider:
        if self._azure is None:
            if credentials.api_version is None:
                provider = AzureProvider(
                    azure_endpoint=credentials.base_url, api_key=credentials.key, http_client=self._http_client
                )
                provider.client.max_retries = 0
            else:
                client = AsyncAzureOpenAI(
                    azure_endpoint=credentials.base_url,
                    api_key=credentials.key,
                    api_version=credentials.api_version,
                    http_client=self._http_client,
                    max_retries=0,
                )
                provider = AzureProvider(openai_client=client)
            self._azure = provider
        return self._azure


def _azure_credentials(settings: Settings, environ: Mapping[str, str]) -> Credentials:
    endpoint = settings.azure.endpoint or environ.get("AZURE_OPENAI_ENDPOINT")
    if not endpoint:
        raise StartupError("Azure models need an endpoint: set PILOTHOUSE_AZURE_ENDPOINT (or AZURE_OPENAI_ENDPOINT).")
    version = settings.azure.api_version or environ.get("OPENAI_API_VERSION")
    endpoint = endpoint.rstrip("/")
    if version is None and not endpoint.endswith("/v1"):
        endpoint += "/v1" if endpoint.endswith(".models.ai.azure.com") else "/openai/v1"
    return Credentials(
        "azure",
        endpoint,
        _secret(settings.azure.api_key, environ.get("AZURE_OPENAI_API_KEY")),
        "PILOTHOUSE_AZURE_API_KEY (or AZURE_OPENAI_API_KEY)",
        "PILOTHOUSE_AZURE_ENDPOINT",
        api_version=version,
    )


def _secret(configured: SecretStr | None, plain: str | None) -> str:
    return configured.get_secret_value() if configured is not None else plain or ""
