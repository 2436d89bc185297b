"""What is known after the faults, from whom: callers, the model's ledger, the tools' ledger, the API."""

from dataclasses import dataclass, field
from typing import Any

Place = tuple[int, int]
"""Attempt and number of an event id."""

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """An event as a caller received it; `at` is Unix seconds."""

    place: Place
    type: str
    data: Document
    at: float


@dataclass(slots=True)
class Connection:
    """One connection to a stream: to which node, after which event, and what came."""

    node: str
    after: Place | None
    events: list[Seen] = field(default_factory=list[Seen])


@dataclass(frozen=True, slots=True)
class Stop:
    """An acknowledged cancel; times are Unix seconds."""

    run_id: str
    asked_at: float
    at: float
    state: str


@dataclass(slots=True)
class Sent:
    """A message and what its caller learned of it.

    Attributes:
        run_id: once a server has named one the message is accepted.
        refused: the code of a refusal, such as `conversation_busy`.
        connections: in order, the whole stream as this caller saw it.
        ended: the caller saw the run's end.
        odd: answers that nothing explains, as `status code`.
    """

    key: str
    scenario: str
    mode: str
    conversation_id: str | None
    on_busy: str = "reject"
    run_id: str | None = None
    refused: str | None = None
    connections: list[Connection] = field(default_factory=list[Connection])
    stop: Stop | None = None
    ended: bool = False
    odd: list[str] = field(default_factory=list[str])

    @property
    def events(self) -> list[Seen]:
        """All that was seen, over all connections."""
        return [event for connection in self.connections for event in connection.events]


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A line of the model's ledger. `position`: how many tool results it holds after the user's message."""

    index: int
    key: str
    position: int
    prompt_hash: str
    process: str
    started: float
    ended: float | None
    outcome: str | None
    broken_calls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolSpan:
    """A start in the tools' ledger, and its end where there is one (`end` or `stopped`)."""

    tool: str
    run_id: str
    call_id: str
    idempotency_key: str
    process: str
    started: float
    ended: float | None = None
    phase: str = "start"


@dataclass(slots=True)
class Fault:
    """What was done to which process. `until`: when it was back, or gone on; `at`: when it was hit (Unix seconds)."""

    kind: str
    target: str
    at: float
    until: float | None = None


@dataclass(slots=True)
class Evidence:
    """Everything.

    Attributes:
        runs: `GET /v1/runs/{id}` in the end, by id.
        logs: all events of each run in the end.
        transcripts: messages of each conversation in the end.
        next_turns: per conversation, what one more message brought: None where it was answered, else what went wrong.
        lease_seconds: silence after which runs are taken over; 0 for a single server.
    """

    sent: list[Sent] = field(default_factory=list[Sent])
    requests: list[ModelRequest] = field(default_factory=list[ModelRequest])
    tools: list[ToolSpan] = field(default_factory=list[ToolSpan])
    faults: list[Fault] = field(default_factory=list[Fault])
    runs: dict[str, Document] = field(default_factory=dict[str, Document])
    logs: dict[str, list[Seen]] = field(default_factory=dict[str, list[Seen]])
    transcripts: dict[str, list[Document]] = field(default_factory=dict[str, list[Document]])
    next_turns: dict[str, str | None] = field(default_factory=dict[str, str | None])
    lease_seconds: float = 0


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise: which, what happened, and to whom (ids of runs, calls or conversations)."""

    promise: str
    what: str
    where: str

    def __str__(self) -> str:
        return f"{self.promise} {self.what}: {self.where}"
