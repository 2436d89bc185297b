"""Evidence made by hand: a run with one tool call, streamed to its end, all as it should be."""

from datetime import UTC, datetime
from typing import Any

from pilothouse.testing.chaos.evidence import Connection, Evidence, ModelRequest, Seen, Sent, ToolSpan
from pilothouse.testing.chaos.scenarios import last_words

T = 1_800_000_000.0
TEXT = f"Answer: {last_words('k1')}"


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(T + seconds, UTC).isoformat(timespec="milliseconds")


def seen(place: tuple[int, int], kind: str, at: float = 0, **data: Any) -> Seen:
    return Seen(place, kind, {**data, "type": kind, "run_id": "run_1"}, T + at)


def logged(event: Seen) -> Seen:
    return Seen(event.place, event.type, {n: v for n, v in event.data.items() if n not in ("type", "run_id")}, 0)


def step(number: int, kind: str, finished: float, **values: Any) -> dict[str, Any]:
    return {
        "number": number,
        "kind": kind,
        "name": "look",
        "state": "completed",
        "call_id": None,
        "error_code": None,
        "finished_at": iso(finished),
        **values,
    }


def request(index: int, position: int, started: float, ended: float | None, **values: Any) -> ModelRequest:
    end = None if ended is None else T + ended
    given: dict[str, Any] = {"key": "k1", "process": "n1", "prompt_hash": f"h{position}", "outcome": "completed"}
    return ModelRequest(index=index, position=position, started=T + started, ended=end, **{**given, **values})


def span(started: float, ended: float | None, **values: Any) -> ToolSpan:
    given: dict[str, Any] = {"tool": "look", "run_id": "run_1", "call_id": "call_1", "idempotency_key": "i1"}
    given |= {"process": "n1", "phase": "start" if ended is None else "end"}
    return ToolSpan(started=T + started, ended=None if ended is None else T + ended, **{**given, **values})


def whole() -> Evidence:
    """A run with one tool call, streamed to its end over two connections, all as it should be."""
    events = [
        seen((1, 1), "run.queued", conversation_id="conv_1"),
        seen((1, 2), "run.started", conversation_id="conv_1"),
        seen((1, 3), "step.started", step=1),
        seen((1, 4), "text.delta", step=1, text="On"),
        seen((1, 5), "text.delta", step=1, text="e moment"),
        seen((1, 6), "message", step=1, text="One moment"),
        seen((1, 7), "tool.started", step=2, call_id="call_1", name="look"),
        seen((1, 8), "tool.finished", step=2, call_id="call_1", name="look", status="ok"),
        seen((1, 9), "step.started", step=3),
        seen((1, 10), "text.delta", step=3, text=TEXT),
        seen((1, 11), "message", step=3, text=TEXT),
        seen((1, 12), "run.completed", text=TEXT),
    ]
    sent = Sent("k1", "pure", "stream", None, run_id="run_1", ended=True)
    sent.connections = [Connection("a", None, events[:5]), Connection("b", (1, 5), events[5:])]
    call = {"call_id": "call_1", "name": "look"}
    base = {"run_id": "run_1", "tool_calls": [], "call_id": None}
    return Evidence(
        sent=[sent],
        requests=[request(1, 0, 1, 2), request(2, 1, 4, 5)],
        tools=[span(2.5, 3)],
        runs={
            "run_1": {
                "id": "run_1",
                "message": "#k1 pure",
                "state": "completed",
                "error": None,
                "text": TEXT,
                "attempt": 1,
                "steps": [step(1, "model", 2.1), step(2, "tool", 3.1, call_id="call_1"), step(3, "model", 5.1)],
            }
        },
        logs={"run_1": [logged(event) for event in events]},
        transcripts={
            "conv_1": [
                {**base, "role": "user"},
                {**base, "role": "assistant", "tool_calls": [call]},
                {**base, "role": "tool", "call_id": "call_1"},
                {**base, "role": "assistant"},
            ]
        },
        next_turns={"conv_1": None},
        lease_seconds=10,
    )
