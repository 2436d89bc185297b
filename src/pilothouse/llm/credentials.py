"""How providers are reached: our settings, completed by the providers' usual variables."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx2
from pydantic import SecretStr

from pilothouse.errors import StartupError
from pilothouse.settings import Settings

__all__ = ["Credentials", "credentials_for", "split_reference"]

_OPENAI_HOST = "api.openai.com"
_OPENAI_URL = f"https://{_OPENAI_HOST}/v1"
_ANTHROPIC_URL = "https://api.anthropic.com"
_ALIASES = {"openai-chat": "openai", "openai-responses": "openai", "azure-responses": "azure"}


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

    @property
    def is_openai_itself(self) -> bool:
        """Whether this is OpenAI, in any of its regions, and not an endpoint compatible with it."""
        host = httpx2.URL(self.base_url).host
        return self.provider == "openai" and (host == _OPENAI_HOST or host.endswith(f".{_OPENAI_HOST}"))


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
