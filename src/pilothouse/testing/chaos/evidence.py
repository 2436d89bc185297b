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


ENDS_A_PROCESS = frozenset({"kill", "host-death"})
"""Kinds of faults after which a process is no more, at once."""
ON_LINKS = frozenset({"black-hole", "delay", "throttle", "reset", "half-close"})
"""Kinds of faults of one process's network; the detail is the link: `postgres`, `valkey` or `model`."""
DATABASE_AWAY = frozenset({"kill", "read-only", "full-disk"})
"""Kinds of faults of PostgreSQL during which nobody can write."""


@dataclass(slots=True)
class Fault:
    """What was done to which process. `until`: when it was back, or gone on; `at`: when it was hit (Unix seconds).

    Attributes:
        detail: which of its links, which locks, how many seconds of the clock, which answer of the model.
    """

    kind: str
    target: str
    at: float
    until: float | None = None
    detail: str = ""

    @property
    def name(self) -> str:
        """Its kind in tables, the same for all nodes."""
        target = self.target.rstrip("0123456789")
        return f"{self.kind} {target}-{self.detail}" if self.detail else f"{self.kind} {target}"


@dataclass(frozen=True, slots=True)
class Probe:
    """A quick chat that asks whether a node answers; times are Unix seconds.

    Attributes:
        problem: None where it was answered; else `status code`, or the error's class.
    """

    key: str
    node: str
    began: float
    ended: float
    problem: str | None
    run_id: str | None = None


@dataclass(frozen=True, slots=True)
class Trouble:
    """A message whose answer the model makes a mess of, and what its caller was told."""

    key: str
    scenario: str
    status: int
    code: str


@dataclass(slots=True)
class Evidence:
    """Everything.

    Attributes:
        runs: `GET /v1/runs/{id}` in the end, by id.
        logs: all events of each run in the end.
        transcripts: messages of each conversation in the end.
        next_turns: per conversation, what one more message brought: None where it was answered, else what went wrong.
        probes: quick chats, sent to each node all the time; none where only processes are killed.
        troubles: messages that the model answers badly.
        unfinished: `key state` of probes and troubles whose runs have not ended in the end.
        failed_apart: `key code` of probes and troubles whose runs failed.
        odd: requests of others than callers that were answered as nobody expects.
        unread: the request that was never answered when the evidence was read, so that it is not whole; else empty.
        skipped: planned faults that could not be done here, with the reason.
        stalls: from when to when the model's process stood still, Unix seconds.
        faults_over: when the last fault was over, Unix seconds.
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
    probes: list[Probe] = field(default_factory=list[Probe])
    troubles: list[Trouble] = field(default_factory=list[Trouble])
    unfinished: list[str] = field(default_factory=list[str])
    failed_apart: list[str] = field(default_factory=list[str])
    odd: list[str] = field(default_factory=list[str])
    unread: str = ""
    skipped: list[str] = field(default_factory=list[str])
    stalls: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    faults_over: float = 0
    lease_seconds: float = 0


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise: which, what happened, and to whom (ids of runs, calls or conversations)."""

    promise: str
    what: str
    where: str

    def __str__(self) -> str:
        return f"{self.promise} {self.what}: {self.where}"
