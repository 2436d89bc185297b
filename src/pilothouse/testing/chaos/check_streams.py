"""P4: each caller's stream, over all its connections, against the run's log: no gap, no duplicate, no wrong word."""

from collections.abc import Iterator

from pilothouse.testing.chaos.evidence import Evidence, Seen, Sent, Violation

DELTAS = frozenset({"text.delta", "reasoning.delta"})
PASSING = DELTAS | {"step.started", "step.restarted"}
"""Events that promise nothing: those of a dead attempt may have been shown and not logged."""


def check_streams(evidence: Evidence) -> Iterator[Violation]:
    """Violations of P4."""
    for message in evidence.sent:
        if not message.connections or message.run_id is None:
            continue
        where = f"{message.key} {message.run_id}"
        found = [*_order(message), *_facts(message, evidence.logs.get(message.run_id, [])), *_texts(message.events)]
        yield from (Violation("P4", what, where) for what in found)
        if not message.ended:
            yield Violation("P4", "the caller never saw the end", where)


def _order(message: Sent) -> Iterator[str]:
    last = None
    for connection in message.connections:
        for event in connection.events:
            if last is not None and event.place <= last:
                kind = "a duplicate" if event.place == last else "a step back"
                yield f"{kind}: {_id(event)} after {last[0]}-{last[1]}"
            last = max(event.place, last or event.place)


def _facts(message: Sent, log: list[Seen]) -> Iterator[str]:
    """Facts a caller saw are those in the log, each once, in order, up to where the caller stopped reading."""
    seen = [event for event in message.events if event.type not in PASSING]
    if not message.events:
        return
    last = max(event.place for event in message.events)
    logged = [event for event in log if event.type not in PASSING and event.place <= last]
    for event in logged:
        if event.place not in {other.place for other in seen}:
            yield f"a gap: {_id(event)} {event.type} was not seen"
    known = {event.place: event for event in logged}
    for event in seen:
        stored = known.get(event.place)
        if stored is None:
            yield f"a fact that is not in the log: {_id(event)} {event.type}"
        elif {**stored.data, "type": event.type, "run_id": message.run_id} != event.data:
            yield f"a fact that reads otherwise in the log: {_id(event)} {event.type}"


def _texts(events: list[Seen]) -> Iterator[str]:
    """The deltas that were not withdrawn are the message."""
    shown: dict[int, str] = {}
    for event in events:
        step = event.data.get("step")
        if step is None:
            continue
        if event.type == "text.delta":
            shown[step] = shown.get(step, "") + event.data["text"]
        elif event.type == "step.restarted":
            shown.pop(step, None)
        elif event.type == "step.started" and shown.get(step):
            yield f"step {step} began again at {_id(event)} and its text was not withdrawn"
            shown.pop(step)
        elif event.type == "message" and step in shown and shown[step] != event.data["text"]:
            got, want = shown[step], event.data["text"]
            yield f"the text of step {step} differs: {len(got)} characters {got[-30:]!r}, {len(want)} {want[-30:]!r}"


def _id(event: Seen) -> str:
    return f"{event.place[0]}-{event.place[1]}"
