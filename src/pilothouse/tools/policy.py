"""What Pilothouse must know about a tool to run it, repeat it, or refuse to."""

from dataclasses import dataclass
from typing import Literal, get_args

Effect = Literal["pure", "idempotent", "once"]
"""`pure` changes nothing and just runs again; `idempotent` runs again with the same idempotency key;
`once` is never run a second time on a guess."""

InDoubt = Literal["ask", "tell_model", "retry"]
"""What settles a `once` call that was started and has no recorded result."""


@dataclass(frozen=True, kw_only=True)
class ToolPolicy:
    """How one tool may be called.

    Attributes:
        name: as the model calls it.
        effect: what running it twice would do.
        approval: a person must say yes to each call.
        four_eyes: that person is another one than who started the run.
        scopes: the caller needs all of them.
        timeout_seconds: limit of one call; None: the agent's.
        max_output_chars: longest result the model is shown; None: the agent's.
        in_doubt: what settles a `once` call that may or may not have happened.
        description: what it does, for people and models.

    Raises:
        ValueError: a value is not allowed; the message says which are.
    """

    name: str
    effect: Effect = "once"
    approval: bool = False
    four_eyes: bool = False
    scopes: tuple[str, ...] = ()
    timeout_seconds: float | None = None
    max_output_chars: int | None = None
    in_doubt: InDoubt = "ask"
    description: str = ""

    def __post_init__(self) -> None:
        _one_of("effect", self.effect, get_args(Effect))
        _one_of("in_doubt", self.in_doubt, get_args(InDoubt))
        if self.timeout_seconds is not None and not 0 < self.timeout_seconds < float("inf"):
            raise ValueError(f"timeout is a number of seconds above 0; got {self.timeout_seconds!r}")
        if self.four_eyes and not self.approval:
            raise ValueError("four_eyes says who approves, so it needs approval=True")
        if self.max_output_chars is not None and self.max_output_chars < 256:
            raise ValueError(f"max_output_chars is 256 or more; got {self.max_output_chars!r}")
        wrong = [scope for scope in self.scopes if not scope or scope.split() != [scope]]
        if wrong:
            raise ValueError(f"a scope is one word such as 'orders:write'; got {wrong[0]!r}")


def _one_of(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{what} is one of {', '.join(allowed)}; got {value!r}")
