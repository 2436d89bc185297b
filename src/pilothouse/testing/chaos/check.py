"""The checker: pure functions from the evidence to the promises that were broken."""

from collections import Counter
from collections.abc import Iterator, Sequence

from pilothouse.testing.chaos.check_streams import check_streams
from pilothouse.testing.chaos.check_work import check_work
from pilothouse.testing.chaos.evidence import ON_LINKS, Document, Evidence, Violation
from pilothouse.testing.chaos.prober import first_answer
from pilothouse.testing.chaos.scenarios import key_of, last_words

__all__ = ["EXPECTED_FAILURES", "TERMINAL", "Violation", "check"]

TERMINAL = frozenset({"completed", "failed", "cancelled"})
EXPECTED_FAILURES = frozenset({"poisoned"})
"""A run whose process was killed three times under it is parked and says so: with faults this dense that happens."""
_MODEL_FAILURES = ("provider_", "timeout", "run_timeout")
"""How codes begin that say the model could not be reached or did not answer in time."""


def check(evidence: Evidence) -> list[Violation]:
    """Every broken promise, P1 to P7; none is what one wants to see."""
    answers = [*_answers_are_expected(evidence), *_nodes_answer(evidence)]
    if evidence.unread:  # the rest of the evidence is not whole, and would seem to be lost
        return [Violation("P1", "no node answered when all was over", evidence.unread), *answers]
    return [
        *answers,
        *_accepted_is_never_lost(evidence),
        *_ends_are_right(evidence),
        *_others_end(evidence),
        *check_work(evidence),
        *check_streams(evidence),
        *_transcripts_are_whole(evidence),
        *_next_turn_works(evidence),
    ]


def _answers_are_expected(evidence: Evidence) -> Iterator[Violation]:
    for message in evidence.sent:
        yield from (Violation("P1", "an answer nobody expects", f"{message.key} {odd}") for odd in message.odd)
    yield from (Violation("P1", "an answer nobody expects", odd) for odd in evidence.odd)
    for probe in evidence.probes:
        if probe.problem is not None and "internal_error" in probe.problem:
            yield Violation("P1", "an answer nobody expects", f"{probe.key} {probe.problem}")


def _accepted_is_never_lost(evidence: Evidence) -> Iterator[Violation]:
    for message in evidence.sent:
        if message.run_id is not None and message.run_id not in evidence.runs:
            yield Violation("P1", "accepted and gone", f"{message.key} {message.run_id}")
    for run_id, run in evidence.runs.items():
        if run["state"] not in TERMINAL:
            yield Violation("P1", f"never ended, still {run['state']}", run_id)
    counts = Counter(key_of(run["message"]) for run in evidence.runs.values())
    yield from (
        Violation("P1", f"one message became {count} runs", str(key)) for key, count in counts.items() if count > 1
    )


def _ends_are_right(evidence: Evidence) -> Iterator[Violation]:
    for run_id, run in evidence.runs.items():
        key = key_of(run["message"])
        if run["state"] == "failed" and not _failure_is_explained(evidence, run):
            yield Violation("P1", f"failed for no reason of its own, {run['error']['code']}", run_id)
        if run["state"] == "completed" and not (run["text"] or "").endswith(last_words(key or "")):
            yield Violation("P1", f"completed with another text, {(run['text'] or '')[-40:]!r}", run_id)


def _failure_is_explained(evidence: Evidence, run: Document) -> bool:
    """Parked after kills; or the model was out of its reach, and the code says so."""
    code = run["error"]["code"]
    if code in EXPECTED_FAILURES:
        return True
    faults = [fault for fault in evidence.faults if fault.kind in ON_LINKS and fault.detail == "model"]
    processes = {request.process for request in evidence.requests if request.key == key_of(run["message"])}
    return code.startswith(_MODEL_FAILURES) and (
        any(fault.target in processes for fault in faults) or (bool(faults) and not processes)
    )


def _others_end(evidence: Evidence) -> Iterator[Violation]:
    """Probes, and messages that the model answered badly."""
    yield from (Violation("P1", "a run apart never ended", where) for where in evidence.unfinished)
    for where in evidence.failed_apart:
        key, _, code = where.partition(" ")
        if key.startswith("trouble") and code == "internal_error":
            yield Violation("P1", "a bad answer of the model is an internal error", where)
        if key.startswith("probe") and code not in EXPECTED_FAILURES and not code.startswith(_MODEL_FAILURES):
            yield Violation("P1", f"a quick chat failed for no reason of its own, {code}", key)
    for trouble in evidence.troubles:
        if trouble.status >= 500 and trouble.code in ("", "internal_error"):
            what = f"a bad answer of the model was told as {trouble.status} {trouble.code}".rstrip()
            yield Violation("P1", what, f"{trouble.key} {trouble.scenario}")


def _nodes_answer(evidence: Evidence) -> Iterator[Violation]:
    """When all faults are over, every node answers a new chat."""
    for node in sorted({probe.node for probe in evidence.probes}):
        if first_answer(evidence.probes, node, evidence.faults_over) is None:
            last = max((p.ended for p in evidence.probes if p.node == node), default=evidence.faults_over)
            problems = Counter(p.problem for p in evidence.probes if p.node == node and p.ended > evidence.faults_over)
            what = f"a node answered no new chat in {last - evidence.faults_over:.0f} s after the last fault"
            yield Violation("P1", what, f"{node} {dict(problems)}")


def _transcripts_are_whole(evidence: Evidence) -> Iterator[Violation]:
    for conversation_id, messages in evidence.transcripts.items():
        yield from (Violation("P7", what, conversation_id) for what in transcript_faults(messages))
    for request in evidence.requests:
        if request.broken_calls:
            calls = ", ".join(request.broken_calls)
            yield Violation("P7", f"a prompt with calls that are not answered once ({calls})", request.key)


def transcript_faults(messages: Sequence[Document]) -> Iterator[str]:
    """What is wrong with a transcript: each call must have exactly one result, before anything else is said."""
    waiting: set[str] = set()
    for message in messages:
        if message["role"] == "tool":
            if message["call_id"] not in waiting:
                yield f"a result that no call waits for, {message['call_id']}"
            waiting.discard(message["call_id"])
        elif message["role"] in ("user", "assistant"):
            if waiting:
                yield f"no result of {', '.join(sorted(waiting))}"
            waiting = {call["call_id"] for call in message["tool_calls"]}
    if waiting:
        yield f"no result of {', '.join(sorted(waiting))}"


def _next_turn_works(evidence: Evidence) -> Iterator[Violation]:
    for conversation_id, problem in evidence.next_turns.items():
        if problem is not None:
            yield Violation("P7", f"the next turn failed, {problem}", conversation_id)
