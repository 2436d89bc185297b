"""What a process says of its health."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Check:
    """One thing a process needs.

    Attributes:
        age_seconds: since it was last known to be good.
        reason: what is wrong, in words that may be shown to anybody.
        vital: without it the process can't execute runs.
    """

    name: str
    ok: bool
    age_seconds: float
    reason: str | None = None
    vital: bool = False


@dataclass(frozen=True, slots=True)
class Health:
    """All checks, and why the process takes no work, if it takes none."""

    reason: str | None
    checks: list[Check] = field(default_factory=list[Check])
