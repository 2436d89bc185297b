"""What the outside world has seen of the nodes: requests to the model, calls of tools; and a broken promise."""

from dataclasses import dataclass

from tests.simulation.node import Node


@dataclass(frozen=True)
class Violation:
    """A promise that was broken."""

    promise: str
    what: str
    at: float

    def __str__(self) -> str:
        return f"{self.promise}: {self.what} (at {self.at:.3f} s)"


@dataclass(slots=True)
class Work:
    """A request to the model or a call of a tool, in the ledger of the outside world."""

    kind: str
    name: str
    run_id: str
    conversation_id: str
    ref: str
    key: str
    attempt: int
    node: Node
    generation: int
    started: float
    ended: float | None = None
    outcome: str = "open"

    @property
    def excused(self) -> bool:
        """Whether it may go on although others have taken its run: its process can't know it yet, or is gone."""
        node = self.node
        return not node.working or node.lease is None or not node.lease.held() or self.generation != node.generation
