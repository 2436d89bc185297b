"""The checker finds each kind of broken promise in evidence made by hand, and nothing in evidence that is whole."""

from collections.abc import Callable
from copy import deepcopy

import pytest
from tests.chaos.evidence import TEXT, T, logged, request, seen, span, whole

from pilothouse.testing.chaos import Violation, check
from pilothouse.testing.chaos.callers import approves
from pilothouse.testing.chaos.evidence import Connection, Evidence, Fault, Seen, Stop, ToolSpan
from pilothouse.testing.chaos.figures import figures_of
from pilothouse.testing.chaos.scenarios import last_words
from pilothouse.testing.chaos.takeovers import takeovers

NO_CALL = next(f"call_{n}" for n in range(50) if not approves(f"call_{n}"))
YES_CALL = next(f"call_{n}" for n in range(50) if approves(f"call_{n}"))


def promises(evidence: Evidence) -> set[str]:
    return {violation.promise for violation in check(evidence)}


def events_of(evidence: Evidence) -> list[Seen]:
    return evidence.sent[0].connections[1].events


def once(evidence: Evidence, tool: str, call_id: str, *spans: ToolSpan) -> None:
    """Make the run's call one of a tool with effect once."""
    renamed = {"tool": tool, "call_id": call_id}
    evidence.tools = [ToolSpan(**{**{n: getattr(s, n) for n in s.__slots__}, **renamed}) for s in spans]
    for event in (*evidence.logs["run_1"], *evidence.sent[0].events):
        if "call_id" in event.data:
            event.data["call_id"] = call_id
    evidence.runs["run_1"]["steps"][1]["call_id"] = call_id
    for message in evidence.transcripts["conv_1"]:
        if message["role"] == "tool":
            message["call_id"] = call_id
        for call in message["tool_calls"]:
            call["call_id"] = call_id


def test_whole_evidence_breaks_nothing() -> None:
    assert check(whole()) == []


def lose_the_run(e: Evidence) -> None:
    del e.runs["run_1"]


def leave_it_running(e: Evidence) -> None:
    e.runs["run_1"]["state"] = "running"


def run_it_twice(e: Evidence) -> None:
    e.runs["run_2"] = {**deepcopy(e.runs["run_1"]), "id": "run_2"}


def fail_it(e: Evidence) -> None:
    e.runs["run_1"] |= {"state": "failed", "error": {"code": "internal_error"}}


def answer_otherwise(e: Evidence) -> None:
    e.runs["run_1"]["text"] = "something else"


def answer_oddly(e: Evidence) -> None:
    e.sent[0].odd.append("500 internal_error")


def ask_for_a_recorded_response(e: Evidence) -> None:
    e.faults.append(Fault("kill", "n1", T + 2.5, T + 3))
    e.requests.append(request(3, 0, 3, 4, process="n2"))


def ask_again_without_a_fault(e: Evidence) -> None:
    e.requests.append(request(3, 0, 1.5, 2, process="n2"))


def change_the_prompt(e: Evidence) -> None:
    e.faults.append(Fault("kill", "n1", T + 1.2, T + 3))
    e.requests.append(request(3, 0, 1.5, 2, process="n2", prompt_hash="other"))


def record_what_nobody_said(e: Evidence) -> None:
    del e.requests[1]


def use_a_tool_after_its_result(e: Evidence) -> None:
    e.faults.append(Fault("kill", "n1", T + 3, T + 4))
    e.tools.append(span(3.5, 4, process="n2"))


def use_a_tool_again_without_a_fault(e: Evidence) -> None:
    e.tools.append(span(2.8, 3))


def change_the_key(e: Evidence) -> None:
    e.faults.append(Fault("kill", "n1", T + 2.6, T + 4))
    e.tools = [span(2.5, None), span(2.9, 3, idempotency_key="i2")]


def share_a_key(e: Evidence) -> None:
    e.tools.append(span(2.5, 3, call_id="call_2"))


def repeat_a_once_tool(e: Evidence) -> None:
    e.faults.append(Fault("kill", "n1", T + 2.6, T + 4))
    once(e, "pay_tell", "call_9", span(2.5, None), span(2.9, 3, process="n2"))


def repeat_a_once_tool_nobody_approved(e: Evidence) -> None:
    e.faults.append(Fault("kill", "n1", T + 2.6, T + 4))
    once(e, "pay_ask", NO_CALL, span(2.5, None), span(2.9, 3, process="n2"))


def invent_a_result(e: Evidence) -> None:
    e.tools = [span(2.5, None)]


def leave_a_gap(e: Evidence) -> None:
    del events_of(e)[1]


def lose_a_word(e: Evidence) -> None:
    events_of(e)[4] = seen((1, 10), "text.delta", step=3, text=TEXT[4:])


def send_twice(e: Evidence) -> None:
    events_of(e).insert(1, events_of(e)[0])


def step_back(e: Evidence) -> None:
    events = events_of(e)
    events[1], events[2] = events[2], events[1]


def show_what_is_not_in_the_log(e: Evidence) -> None:
    del e.logs["run_1"][6]


def begin_again_without_a_word(e: Evidence) -> None:
    events_of(e).insert(0, seen((1, 5), "step.started", step=1))
    del e.sent[0].connections[0].events[4]


def end_early(e: Evidence) -> None:
    e.sent[0].ended = False


def acknowledge_too_early(e: Evidence) -> None:
    e.sent[0].stop = Stop("run_1", T + 1, T + 1.5, "cancelled")


def acknowledge_what_runs(e: Evidence) -> None:
    e.sent[0].stop = Stop("run_1", T + 8, T + 9, "running")


def work_on_two_runs(e: Evidence) -> None:
    e.runs["run_2"] = {**deepcopy(e.runs["run_1"]), "id": "run_2", "message": "#k2 quick", "text": last_words("k2")}
    e.transcripts["conv_1"].append({**e.transcripts["conv_1"][0], "run_id": "run_2"})
    e.requests.append(request(9, 0, 3, 4, key="k2"))


def mix_transcripts(e: Evidence) -> None:
    e.transcripts["conv_1"].insert(0, {**e.transcripts["conv_1"][0], "run_id": "run_1"})
    e.transcripts["conv_1"].insert(1, {**e.transcripts["conv_1"][0], "run_id": "run_2"})


def leave_a_call_open(e: Evidence) -> None:
    del e.transcripts["conv_1"][2]


def answer_a_call_twice(e: Evidence) -> None:
    e.transcripts["conv_1"].insert(2, e.transcripts["conv_1"][2])


def break_the_next_turn(e: Evidence) -> None:
    e.next_turns["conv_1"] = "500 internal_error"


def send_a_broken_prompt(e: Evidence) -> None:
    e.requests[1] = request(2, 1, 4, 5, broken_calls=("call_1",))


BREAKS: list[tuple[str, Callable[[Evidence], None]]] = [
    ("P1", lose_the_run),
    ("P1", leave_it_running),
    ("P1", run_it_twice),
    ("P1", fail_it),
    ("P1", answer_otherwise),
    ("P1", answer_oddly),
    ("P2", ask_for_a_recorded_response),
    ("P2", ask_again_without_a_fault),
    ("P2", change_the_prompt),
    ("P2", record_what_nobody_said),
    ("P2", use_a_tool_after_its_result),
    ("P2", use_a_tool_again_without_a_fault),
    ("P3", change_the_key),
    ("P3", share_a_key),
    ("P3", repeat_a_once_tool),
    ("P3", repeat_a_once_tool_nobody_approved),
    ("P3", invent_a_result),
    ("P4", leave_a_gap),
    ("P4", lose_a_word),
    ("P4", send_twice),
    ("P4", step_back),
    ("P4", show_what_is_not_in_the_log),
    ("P4", begin_again_without_a_word),
    ("P4", end_early),
    ("P5", acknowledge_too_early),
    ("P5", acknowledge_what_runs),
    ("P6", work_on_two_runs),
    ("P6", mix_transcripts),
    ("P7", leave_a_call_open),
    ("P7", answer_a_call_twice),
    ("P7", break_the_next_turn),
    ("P7", send_a_broken_prompt),
]


@pytest.mark.parametrize(("promise", "spoil"), BREAKS, ids=lambda item: getattr(item, "__name__", item))
def test_each_broken_promise_is_found(promise: str, spoil: Callable[[Evidence], None]) -> None:
    evidence = whole()
    spoil(evidence)
    assert promise in promises(evidence)


def test_the_call_in_flight_at_a_kill_may_be_made_again() -> None:
    evidence = whole()
    evidence.faults.append(Fault("kill", "n1", T + 1.5, T + 2))
    evidence.requests[0] = request(1, 0, 1, 1.5, outcome="client_disconnected")
    evidence.requests.append(request(3, 0, 1.8, 2, process="n2"))
    assert check(evidence) == []
    assert figures_of(evidence, [], seconds=1)["model_calls_repeated_in_flight"] == 1


def test_an_approved_call_may_be_made_once_more() -> None:
    evidence = whole()
    evidence.faults.append(Fault("kill", "n1", T + 2.6, T + 4))
    once(evidence, "pay_ask", YES_CALL, span(2.5, None), span(2.9, 3, process="n2"))
    assert "P3" in promises(evidence)
    asked = seen((1, 7), "approval.requested", step=2, call_id=YES_CALL, reason="in_doubt")
    evidence.logs["run_1"].insert(7, Seen((1, 7), asked.type, logged(asked).data, 0))
    assert "P3" not in promises(evidence)


def test_what_a_stopped_process_held_open_is_not_held_against_it_but_what_it_begins_is() -> None:
    evidence = whole()
    evidence.sent[0].stop = Stop("run_1", T + 2, T + 2.4, "cancelled")
    evidence.requests[0] = request(1, 0, 1, 20)
    evidence.requests = evidence.requests[:1]
    evidence.tools = []
    evidence.faults.append(Fault("pause", "n1", T + 1.5, T + 19))
    assert "P5" not in promises(evidence)
    evidence.requests.append(request(2, 1, 19.5, 20))
    assert "P5" in promises(evidence)


def test_what_a_model_read_when_it_went_on_after_it_stood_still_was_sent_before() -> None:
    evidence = whole()
    evidence.sent[0].stop = Stop("run_1", T + 2, T + 2.4, "cancelled")
    evidence.requests = [request(1, 0, 1, 2), request(2, 1, 6.1, 6.2, outcome="client_disconnected")]
    evidence.tools = []
    assert "P5" in promises(evidence)
    evidence.stalls = [(T + 2.1, T + 6)]
    assert "P5" not in promises(evidence)
    evidence.requests[1] = request(2, 1, 7, 7.2, outcome="client_disconnected")
    assert "P5" in promises(evidence)


def test_withdrawn_text_is_forgotten_and_text_that_was_not_withdrawn_is_not() -> None:
    evidence = whole()
    before, after = evidence.sent[0].connections
    for events in (after.events, evidence.logs["run_1"]):
        events[:] = [Seen((2, 10 + e.place[1]), e.type, e.data, e.at) if e.place > (1, 5) else e for e in events]
    before.events[3:] = [seen((1, 4), "text.delta", step=1, text="lost words")]
    after.events.insert(0, seen((2, 10), "step.restarted", step=1))
    after.events.insert(1, seen((2, 11), "text.delta", step=1, text="One moment"))
    assert check(evidence) == []
    del after.events[0]
    assert "P4" in promises(evidence)


def test_takeover_is_measured_from_the_kill_to_the_next_attempts_first_event() -> None:
    evidence = whole()
    evidence.faults.append(Fault("kill", "n1", T + 1.5, T + 2))
    evidence.sent[0].connections = [
        Connection("a", None, [seen((1, 4), "text.delta", at=1.2, step=1, text="On")]),
        Connection("b", (1, 4), [seen((2, 5), "run.started", at=7.5)]),
    ]
    [takeover] = takeovers(evidence)
    assert (round(takeover.seconds, 3), takeover.faults) == (6.0, ["kill n1 at 0.0 s"])
    evidence.faults.append(Fault("kill", "postgres", T + 0.5, T + 1))
    assert not next(takeovers(evidence)).database_away
    evidence.faults.append(Fault("kill", "postgres", T + 7, T + 9))
    assert next(takeovers(evidence)).database_away
    figures = figures_of(evidence, [], seconds=60)
    assert figures["takeover_p99_seconds"] is None
    assert figures["takeover_with_database_away_p99_seconds"] == 6.0
    assert figures["slowest_takeovers"] == ["6.0 s: kill n1 at 0.0 s, kill postgres at 5.5 s"]


def test_figures_count_what_was_lost() -> None:
    evidence = whole()
    lose_the_run(evidence)
    violations = check(evidence)
    assert Violation("P1", "accepted and gone", "k1 run_1") in violations
    assert figures_of(evidence, violations, seconds=1)["lost"] == 1
