"""The limits of an agent's runs."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from pydantic import ValidationError

from pilothouse.errors import StartupError
from pilothouse.settings import RunSettings


@dataclass(frozen=True, kw_only=True)
class RunLimits:
    """What a run may take. Meanings and units as in `RunSettings`, which gives the defaults."""

    timeout_seconds: float
    model_timeout_seconds: float
    tool_timeout_seconds: float
    max_iterations: int
    stall_repeats: int
    argument_retries: int
    tool_output_chars: int
    history_messages: int
    history_tokens: int | None
    history_attachment_bytes: int

    @classmethod
    def from_settings(cls, settings: RunSettings, **overrides: Any) -> Self:
        """The configured limits, with an agent's own in their place. An override of None means: as configured.

        Raises:
            StartupError: a limit is unknown or its value is not allowed.
        """
        names = [field.name for field in fields(cls)]
        unknown = [name for name in overrides if name not in names]
        if unknown:
            raise StartupError(f"{unknown[0]} is not a limit. Limits: {', '.join(names)}.")
        given = {name: value for name, value in overrides.items() if value is not None}
        try:
            checked = RunSettings.model_validate({**settings.model_dump(), **given})
        except ValidationError as error:
            item = error.errors(include_url=False)[0]
            raise StartupError(
                f"The limit {item['loc'][0]} is wrong: {item['msg']} (given: {item['input']!r})."
            ) from None
        return cls(**{name: getattr(checked, name) for name in names})

    def as_dict(self) -> dict[str, float | int | None]:
        """By name, for showing."""
        return asdict(self)
