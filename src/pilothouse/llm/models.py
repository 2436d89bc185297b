"""Pydantic AI models from references such as `openai:gpt-...`; one SDK client a provider, made when first needed."""

from collections.abc import Mapping
from typing import Protocol

import httpx2
from pydantic_ai.models import Model, infer_model

from pilothouse.errors import StartupError
from pilothouse.kit.caches import keep
from pilothouse.llm.adopt import adopt
from pilothouse.llm.credentials import Credentials, credentials_for, split_reference
from pilothouse.settings import Settings

__all__ = ["MOST_MODELS", "Credentials", "Models", "credentials_for", "split_reference"]

MOST_MODELS = 256
"""Callers name models too, where they fork runs: so many are kept ready."""


class _Maker(Protocol):
    """Makes the models of one provider."""

    def make(self, name: str, *, responses: bool) -> Model: ...


class Models:
    """Builds models, each once.

    `openai:` is OpenAI's Responses, as in Pydantic AI, but chat completions where a base URL leads to a compatible
    endpoint (Ollama, vLLM, llama.cpp, OpenRouter), for those all speak that. `openai-responses:` and `openai-chat:`
    are what they say everywhere. `azure:` is chat completions and `azure-responses:` Responses, as in Pydantic AI.

    The clients share `http_client` and never retry by themselves.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str], *, http_client: httpx2.AsyncClient) -> None:
        self._settings = settings
        self._environ = environ
        self._http_client = http_client
        self._models: dict[str, Model] = {}
        self._makers: dict[str, _Maker] = {}
        # With the models given, so that no other gets the id of one while it is a key here.
        self._taken_over: dict[int, tuple[Model, Model | None]] = {}

    def get(self, reference: str | Model) -> Model:
        """The model of a reference; for a model given as such, an equal one over our connections or the same.

        Raises:
            StartupError: its provider has no key.
            pydantic_ai.exceptions.UserError: nobody knows the reference.
        """
        if isinstance(reference, Model):
            return self.taken_over(reference) or reference
        model = self._models.get(reference)
        if model is None:
            model = keep(self._models, reference, self._build(reference), most=MOST_MODELS)
        return model

    def taken_over(self, model: Model) -> Model | None:
        """As `adopt`, once for each model; `None` for one that keeps its own connections."""
        if id(model) not in self._taken_over:
            self._taken_over[id(model)] = (model, adopt(model, self._http_client))
        return self._taken_over[id(model)][1]

    def credentials(self, provider: str) -> Credentials | None:
        """As `credentials_for`."""
        return credentials_for(provider, self._settings, self._environ)

    def _build(self, reference: str) -> Model:
        provider, name = split_reference(reference)
        credentials = self.credentials(provider)
        if credentials is None:
            model = infer_model(reference)
            return adopt(model, self._http_client) or model
        if credentials.needs_key and not credentials.key:
            raise StartupError(f"The model {reference} needs a key: set {credentials.key_name}.")
        maker = self._makers.get(provider)
        if maker is None:
            maker = self._makers[provider] = _maker(credentials, self._http_client)
        prefix = reference.partition(":")[0]
        responses = prefix.endswith("-responses") or (prefix == "openai" and credentials.is_openai_itself)
        return maker.make(name, responses=responses)


def _maker(credentials: Credentials, http_client: httpx2.AsyncClient) -> _Maker:
    if credentials.provider == "anthropic":
        from pilothouse.llm.sdk_anthropic import AnthropicModels  # noqa: PLC0415 - each SDK only where it is used

        return AnthropicModels(credentials, http_client)
    from pilothouse.llm.sdk_openai import OpenAIModels  # noqa: PLC0415 - as above

    return OpenAIModels(credentials, http_client)
