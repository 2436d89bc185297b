"""Pydantic AI models from references such as `openai:gpt-...`; one SDK client a provider, made when first needed."""

from collections.abc import Mapping
from typing import Protocol

import httpx2
from pydantic_ai.models import Model, infer_model

from pilothouse.errors import StartupError
from pilothouse.llm.credentials import Credentials, credentials_for, split_reference
from pilothouse.settings import Settings

__all__ = ["Credentials", "Models", "credentials_for", "split_reference"]


class _Maker(Protocol):
    """Makes the models of one provider."""

    def make(self, name: str) -> Model: ...


class Models:
    """Builds models, each once.

    The clients share `http_client` and never retry by themselves.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str], *, http_client: httpx2.AsyncClient) -> None:
        self._settings = settings
        self._environ = environ
        self._http_client = http_client
        self._models: dict[str, Model] = {}
        self._makers: dict[str, _Maker] = {}

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
        maker = self._makers.get(provider)
        if maker is None:
            maker = self._makers[provider] = _maker(credentials, self._http_client)
        return maker.make(name)


def _maker(credentials: Credentials, http_client: httpx2.AsyncClient) -> _Maker:
    if credentials.provider == "anthropic":
        from pilothouse.llm.sdk_anthropic import AnthropicModels  # noqa: PLC0415 - each SDK only where it is used

        return AnthropicModels(credentials, http_client)
    from pilothouse.llm.sdk_openai import OpenAIModels  # noqa: PLC0415 - as above

    return OpenAIModels(credentials, http_client)
