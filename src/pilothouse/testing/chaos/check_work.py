"""P2, P3, P5, P6: what the model and the tools were asked to do, by their own ledgers."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from pilothouse.testing.chaos.agent import TOOLS
from pilothouse.testing.chaos.callers import approves
from pilothouse.testing.chaos.evidence import (
    ENDS_A_PROCESS,
    ON_LINKS,
    Document,
    Evidence,
    Fault,
    ModelRequest,
    ToolSpan,
    Violation,
)
from pilothouse.testing.chaos.scenarios import key_of, scenario_of

_CLOCK_SECONDS = 0.005
"""Times of steps are whole milliseconds."""
_NOTICE_SECONDS = 1.0
"""How long the model's process may take to notice and note that a connection was closed, on a busy machine."""
_KILL_SECONDS = 1.0
_CATCH_UP_SECONDS = 0.5
"""How long the model's process may take, after it stood still, to read what came meanwhile."""
_DATABASE_SECONDS = 15.0
_LIE_SECONDS = 1800.0
"""A recorded time that is further off was written by a process whose clock was stepped."""

APART = ("next", "probe", "trouble")
"""Keys of messages that are no caller's begin so; their runs are not read back as others are."""


def check_work(evidence: Evidence) -> Iterator[Violation]:
    """Violations of P2, P3, P5 and P6."""
    runs = {key: run for run in evidence.runs.values() if (key := key_of(run["message"])) is not None}
    yield from _model_calls(evidence, runs)
    yield from _responses(evidence, runs)
    yield from _tool_calls(evidence)
    yield from _results(evidence)
    yield from _stops(evidence, runs)
    yield from _one_writer(evidence, runs)


# --- P2: the model ---


def _model_calls(evidence: Evidence, runs: dict[str, Document]) -> Iterator[Violation]:
    for (key, position), requests in model_calls(evidence).items():
        run = runs.get(key)
        if run is None:
            if not key.startswith(APART):
                yield Violation("P1", "the model was asked for a run that is not there", key)
            continue
        where = f"{run['id']} after {position} results"
        recorded = _recorded(run).get(position)
        for request in requests:
            late = request.started - recorded if recorded is not None else 0
            if _CLOCK_SECONDS < late < _LIE_SECONDS and not _came_late(evidence, request):
                yield Violation("P2", "a recorded response was asked for again", f"{where}, request {request.index}")
        for first, second in pairwise(requests):
            hit = was_hit(evidence, first.process, first.started, second.started)
            if not hit and not _came_late(evidence, second):
                yield Violation("P2", "the model was asked again without a fault", f"{where}, request {second.index}")
            if first.prompt_hash != second.prompt_hash:
                yield Violation("P2", "the prompt changed when it was sent again", f"{where}, request {second.index}")


def model_calls(evidence: Evidence) -> dict[tuple[str, int], list[ModelRequest]]:
    """Requests that ask for the same response, in order; those that got an error or no answer at all left out."""
    found: dict[tuple[str, int], list[ModelRequest]] = defaultdict(list)
    for request in sorted(evidence.requests, key=lambda request: request.started):
        if not (request.outcome or "").startswith(("error", "raw")):
            found[(request.key, request.position)].append(request)
    return found


def _responses(evidence: Evidence, runs: dict[str, Document]) -> Iterator[Violation]:
    """A recorded response must come from a request."""
    given = {(request.key, request.position) for request in evidence.requests if request.outcome == "completed"}
    for key, run in runs.items():
        for position in _recorded(run):
            if (key, position) not in given:
                yield Violation("P2", "a response that the model never gave", f"{run['id']} after {position} results")


def _recorded(run: Document) -> dict[int, float]:
    """When the response to the prompt at each position was recorded (Unix seconds), where it was."""
    scenario = scenario_of(run["message"])
    steps: list[Document] = [step for step in run["steps"] if step["kind"] == "model" and step["state"] == "completed"]
    if scenario is None:
        return {}
    return {scenario.position(number): _seconds(step["finished_at"]) for number, step in enumerate(steps)}


# --- P2 and P3: tools ---


def _tool_calls(evidence: Evidence) -> Iterator[Violation]:
    keys: dict[str, tuple[str, str]] = {}
    for call, spans in tool_calls(evidence).items():
        run_id, call_id = call
        where = f"{run_id} {call_id} ({spans[0].tool})"
        if len({span.idempotency_key for span in spans}) > 1:
            yield Violation("P3", "another idempotency key when it was called again", where)
        if keys.setdefault(spans[0].idempotency_key, call) != call:
            yield Violation("P3", "two calls have one idempotency key", where)
        step = _tool_step(evidence.runs.get(run_id), call_id)
        ended = _seconds(step["finished_at"]) if step is not None and step["finished_at"] else None
        if ended is not None and any(_CLOCK_SECONDS < span.started - ended < _LIE_SECONDS for span in spans):
            yield Violation("P2", "a tool ran again after its result was recorded", where)
        for first, second in pairwise(spans):
            if not was_hit(evidence, first.process, first.started, second.started):
                yield Violation("P2", "a tool ran again without a fault", where)
        allowed = _most_starts(evidence, spans[0])
        if allowed is not None and len(spans) > allowed:
            yield Violation("P3", f"an effect=once tool was started {len(spans)} times, allowed {allowed}", where)


def tool_calls(evidence: Evidence) -> dict[tuple[str, str], list[ToolSpan]]:
    """Starts of each call, in order."""
    found: dict[tuple[str, str], list[ToolSpan]] = defaultdict(list)
    for span in sorted(evidence.tools, key=lambda span: span.started):
        found[(span.run_id, span.call_id)].append(span)
    return found


def _most_starts(evidence: Evidence, span: ToolSpan) -> int | None:
    """How often a call may have been started by its policy; None: as often as faults explain."""
    effect, in_doubt = TOOLS[span.tool]
    if effect != "once" or in_doubt == "retry":
        return None
    if in_doubt == "tell_model" or not approves(span.call_id):
        return 1
    log = evidence.logs.get(span.run_id, [])
    asked = [event for event in log if event.type == "approval.requested" and event.data["call_id"] == span.call_id]
    return 1 + len(asked)


def _results(evidence: Evidence) -> Iterator[Violation]:
    """A result that says a tool has done its work must come from a call that did."""
    done = {(span.run_id, span.call_id) for span in evidence.tools if span.phase == "end"}
    for run_id, log in evidence.logs.items():
        for event in log:
            worked = event.type == "tool.finished" and event.data["status"] == "ok"
            if worked and (run_id, event.data["call_id"]) not in done:
                yield Violation("P3", "a result that no tool gave", f"{run_id} {event.data['call_id']}")


# --- P5 and P6: when work went on ---


@dataclass(frozen=True, slots=True)
class Work:
    """A model request or a tool call; `ended` is None where nobody saw an end."""

    what: str
    process: str
    started: float
    ended: float | None


def _stops(evidence: Evidence, runs: dict[str, Document]) -> Iterator[Violation]:
    works = works_by_run(evidence, runs)
    for message in evidence.sent:
        stop = message.stop
        if stop is None:
            continue
        if stop.state not in ("completed", "failed", "cancelled"):
            yield Violation("P5", f"a cancel was acknowledged in state {stop.state}", stop.run_id)
        for work in works.get(stop.run_id, []):
            where = f"{stop.run_id} {work.what}"
            if work.started > stop.at + _NOTICE_SECONDS:
                if _arrived_late(evidence, work):
                    continue
                yield Violation("P5", "work began after the cancel was acknowledged", where)
            elif _end_of(evidence, work) > stop.at + _NOTICE_SECONDS and not _was_out_of_reach(evidence, work):
                yield Violation("P5", "work went on after the cancel was acknowledged", where)


def _one_writer(evidence: Evidence, runs: dict[str, Document]) -> Iterator[Violation]:
    works = works_by_run(evidence, runs)
    for conversation_id, messages in evidence.transcripts.items():
        order: list[str] = []
        for message in messages:
            if not order or order[-1] != message["run_id"]:
                order.append(message["run_id"])
        if len(set(order)) != len(order):
            yield Violation("P6", "messages of two runs are mixed in the transcript", conversation_id)
        active = [run_id for run_id in dict.fromkeys(order) if works.get(run_id)]
        for earlier, later in pairwise(active):
            begin = min(work.started for work in works[later])
            for work in works[earlier]:
                late = work.started > begin + _CLOCK_SECONDS or _end_of(evidence, work) > begin + _NOTICE_SECONDS
                if late and not _was_out_of_reach(evidence, work):
                    yield Violation("P6", "two runs worked at the same time", f"{earlier} {work.what} and {later}")


def works_by_run(evidence: Evidence, runs: dict[str, Document]) -> dict[str, list[Work]]:
    """Model requests and tool calls by the id of their run; `runs` by the key of their message."""
    found: dict[str, list[Work]] = defaultdict(list)
    for request in evidence.requests:
        if request.key in runs:
            what = f"model request {request.index}"
            found[runs[request.key]["id"]].append(Work(what, request.process, request.started, request.ended))
    for span in evidence.tools:
        found[span.run_id].append(Work(f"{span.tool} {span.call_id}", span.process, span.started, span.ended))
    return found


# --- faults ---


def was_hit(evidence: Evidence, process: str, since: float, until: float) -> bool:
    """Whether a fault can be why work of a process that began at `since` was begun again at `until`."""
    return any(
        fault.at <= until and _effect_ends(fault, evidence.lease_seconds) >= since
        for fault in evidence.faults
        if fault.target in (process, "postgres")
    )


def _effect_ends(fault: Fault, lease_seconds: float) -> float:
    """Until when what a process begins may be lost to the fault."""
    until = fault.until if fault.until is not None else float("inf")
    if fault.target == "postgres":
        return until + 2 * lease_seconds + _DATABASE_SECONDS
    if fault.kind in ENDS_A_PROCESS:
        return fault.at + _KILL_SECONDS
    return until + lease_seconds


def _end_of(evidence: Evidence, work: Work) -> float:
    """When work ended: by its ledger, else when its process was ended. What a dead host asked for ended with it,
    though nobody was told.
    """
    ended = float("inf") if work.ended is None else work.ended
    for fault in evidence.faults:
        if fault.target != work.process or fault.at + _KILL_SECONDS < work.started:
            continue
        if fault.kind == "host-death" or (fault.kind == "kill" and work.ended is None):
            ended = min(ended, fault.at)
        elif fault.kind == "deploy" and work.ended is None:
            ended = min(ended, fault.until or fault.at)
    return ended


def _was_out_of_reach(evidence: Evidence, work: Work) -> bool:
    """Whether nobody could end the work: its process was stopped in the middle of it, or the network between the
    process and the model was, so that the model could not be told.
    """
    return any(
        work.started <= _out_of_reach_until(fault, work) and _end_of(evidence, work) >= fault.at
        for fault in evidence.faults
        if fault.target == work.process
    )


def _came_late(evidence: Evidence, request: ModelRequest) -> bool:
    """Whether the model may have got a request over a bad link long after its process had asked again or ended, or read
    it long after it came.
    """
    return _read_late(evidence, request.started) or any(
        fault.kind in ON_LINKS
        and fault.detail == "model"
        and fault.at <= request.started <= 2 * (fault.until or float("inf")) - fault.at + _KILL_SECONDS
        for fault in evidence.faults
        if fault.target == request.process
    )


def _arrived_late(evidence: Evidence, work: Work) -> bool:
    """Whether the model may have got or read the request long after it was sent and given up."""
    if work.what.startswith("model") and _read_late(evidence, work.started):
        return True
    return any(
        fault.kind in ON_LINKS and fault.at <= work.started <= _out_of_reach_until(fault, work)
        for fault in evidence.faults
        if fault.target == work.process
    )


def _read_late(evidence: Evidence, at: float) -> bool:
    """Whether the model's process had just stood still: what it read then may have been sent before."""
    return any(begin <= at <= end + _CATCH_UP_SECONDS for begin, end in evidence.stalls)


def _out_of_reach_until(fault: Fault, work: Work) -> float:
    """What began before this instant could not be ended for the fault's sake; the beginning of time if it could."""
    if fault.kind == "pause":
        return fault.at + _KILL_SECONDS
    if fault.kind in ON_LINKS and fault.detail == "model" and work.what.startswith("model"):
        until = fault.until or float("inf")
        return 2 * until - fault.at + _KILL_SECONDS  # a sender's kernel tries again after up to as long as it waited
    return 0


def _tool_step(run: Document | None, call_id: str) -> Document | None:
    steps: list[Document] = run["steps"] if run is not None else []
    return next((step for step in steps if step["kind"] == "tool" and step["call_id"] == call_id), None)


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
