"""The states of a run, and what may follow what.

queued → running ⇄ awaiting_input → completed | failed | cancelled
"""

from typing import Final, Literal, get_args

RunState = Literal["queued", "running", "awaiting_input", "completed", "failed", "cancelled"]
RunKind = Literal["chat", "task", "workflow"]
OnBusy = Literal["reject", "queue", "interrupt"]

STATES: Final[tuple[str, ...]] = get_args(RunState)
TERMINAL: Final[frozenset[str]] = frozenset({"completed", "failed", "cancelled"})
ACTIVE: Final[frozenset[str]] = frozenset({"running", "awaiting_input"})

NEXT: Final[dict[str, frozenset[str]]] = {
    "queued": frozenset({"running", "cancelled", "failed"}),
    "running": frozenset({"running", "awaiting_input"}) | TERMINAL,
    "awaiting_input": frozenset({"running", "cancelled", "failed"}),
    "completed": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}
