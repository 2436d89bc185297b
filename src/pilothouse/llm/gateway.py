"""The gateway: every model of the process, over one pool of connections, with one way of failing."""

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence

import httpx2
from pydantic_ai.models import Model

from pilothouse.errors import StartupError
from pilothouse.kit.caches import keep
from pilothouse.llm.bounds import AnswerLimits
from pilothouse.llm.check import can_check, check_credentials, check_models
from pilothouse.llm.models import MOST_MODELS, Models, split_reference
from pilothouse.llm.resilient import ResilientModel, Retries
from pilothouse.llm.tokens import window_of
from pilothouse.llm.transport import AiohttpTransport
from pilothouse.settings import Settings

__all__ = ["ModelGateway"]

_Key = tuple[tuple[str | int, ...], float | None]


class ModelGateway:
    """Makes models and keeps them, with their clients, for the life of the process. Close it at the end.

    Args:
        settings: the groups `models`, `openai`, `anthropic` and `azure` are used.
        environ: where the providers' own variables (`OPENAI_API_KEY`, ...) are looked up.
        retries: instead of those of the settings; for tests.
    """

    def __init__(
        self, settings: Settings, environ: Mapping[str, str] | None = None, *, retries: Retries | None = None
    ) -> None:
        environ = os.environ if environ is None else environ
        limits = settings.models
        self._limits = AnswerLimits(
            stream_bytes=limits.max_stream_bytes,
            event_bytes=limits.max_event_bytes,
            chars=limits.max_answer_chars,
            argument_chars=limits.max_argument_chars,
            parts=limits.max_answer_parts,
        )
        self._http_client = httpx2.AsyncClient(
            transport=AiohttpTransport(
                first_byte_seconds=limits.first_byte_seconds,
                stall_seconds=limits.stall_seconds,
                limits=self._limits,
                environ=environ,
            ),
            follow_redirects=True,
        )
        self._models = Models(settings, environ, http_client=self._http_client)
        self._retries = retries or Retries(
            attempts=limits.attempts,
            first_seconds=limits.backoff_seconds,
            longest_seconds=limits.backoff_max_seconds,
        )
        self._timeout_seconds = settings.runs.model_timeout_seconds
        self._made: dict[_Key, ResilientModel] = {}

    def model(
        self,
        reference: str | Model,
        *,
        fallback: Sequence[str | Model] = (),
        timeout_seconds: float | None = None,
    ) -> Model:
        """A model that streams to `current_sink`, retries, falls back, and raises `RunFailure`; cheap to ask for again.

        Args:
            reference: `provider:name`, or a model; see `Models.get`.
            fallback: asked in order, when those before are away or do not exist.
            timeout_seconds: limit of one try; that of the settings by default.

        Raises:
            StartupError: a provider has no key.
            pydantic_ai.exceptions.UserError: nobody knows a reference.
        """
        if isinstance(reference, ResilientModel):
            return reference
        # Models compare by their settings; two of them are the same here only if they are one.
        names = (item if isinstance(item, str) else id(item) for item in (reference, *fallback))
        key: _Key = (tuple(names), timeout_seconds)
        made = self._made.get(key)
        if made is None:
            resilient = ResilientModel(
                self._models.get(reference),
                fallback=[self._models.get(other) for other in fallback],
                retries=self._retries,
                timeout_seconds=self._timeout_seconds if timeout_seconds is None else timeout_seconds,
                limits=self._limits,
            )
            made = keep(self._made, key, resilient, most=MOST_MODELS)
        return made

    def knows(self, reference: str) -> bool:
        """Whether a reference names a provider we build clients for, and have a key for."""
        provider, name = split_reference(reference)
        try:
            credentials = self._models.credentials(provider)
        except StartupError:
            return False
        return bool(name) and credentials is not None and bool(credentials.key or not credentials.needs_key)

    def window_tokens(self, reference: str | Model) -> int:
        """The context window of a model, in tokens; 128,000 where it is not known."""
        return window_of(self._models.get(reference))

    def can_check(self, reference: str | Model) -> bool:
        """Whether `check` asks anybody about this model."""
        if isinstance(reference, str):
            return self._models.credentials(split_reference(reference)[0]) is not None
        taken_over = self._models.taken_over(reference)
        return taken_over is not None and can_check(taken_over)

    async def check(self, references: Iterable[str | Model]) -> None:
        """Ask each provider that the references use whether it takes our credentials, or those a model brings.

        Providers we build no clients for are left out, and so are models that are not taken over. A provider that is
        reachable but has trouble of its own passes.

        Raises:
            StartupError: a key is missing or refused, or a provider can't be reached; it names the variable.
        """
        asked = list(references)
        providers = {split_reference(item)[0] for item in asked if isinstance(item, str)}
        found = [self._models.credentials(provider) for provider in sorted(providers)]
        taken_over = [self._models.taken_over(item) for item in asked if isinstance(item, Model)]
        await asyncio.gather(
            check_models([model for model in taken_over if model is not None]),
            *(check_credentials(credentials, self._http_client) for credentials in found if credentials is not None),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._http_client.aclose()
