"""How long a fault was felt, from probes, callers and ledgers made by hand; and the checker's view of the half-dead."""

from typing import Any

import pytest
from tests.chaos.evidence import T, request, seen, span, step, whole

from pilothouse.testing.chaos import check
from pilothouse.testing.chaos.evidence import Connection, Evidence, Fault, Probe, Stop, Trouble
from pilothouse.testing.chaos.figures import as_text, figures_of
from pilothouse.testing.chaos.recovery import answering, orphans, orphans_after_lease, recovery_table, spread


def probe(node: str, began: float, ended: float, problem: str | None = None) -> Probe:
    return Probe(f"probe{node}x{began:g}", node, T + began, T + ended, problem)


def fault(kind: str, target: str, at: float, until: float | None, detail: str = "") -> Fault:
    return Fault(kind, target, T + at, None if until is None else T + until, detail)


def promises(evidence: Evidence) -> set[tuple[str, str]]:
    return {(violation.promise, violation.what) for violation in check(evidence)}


# --- until a chat is answered ---


def test_a_fault_was_felt_until_every_node_had_answered_a_chat_sent_after_it() -> None:
    evidence = Evidence(faults=[fault("read-only", "postgres", 10, 14)])
    evidence.probes = [
        *(
            probe("n1", 9, 9.1),
            probe("n1", 11, 13, "503 unavailable"),
            probe("n1", 13.5, 15, "503"),
            probe("n1", 16, 17),
        ),
        *(probe("n2", 10.5, 10.6), probe("n2", 14.5, 14.6)),
    ]
    (felt,) = answering(evidence)
    assert (felt.after_begin, felt.after_end, felt.crossed) == (pytest.approx(7), pytest.approx(3), False)


def test_a_node_that_never_answers_again_is_said_and_breaks_a_promise() -> None:
    evidence = Evidence(faults=[fault("cancel", "postgres", 10, 14)], faults_over=T + 14)
    evidence.probes = [probe("n1", 15, 15.1), probe("n2", 9, 9.1), probe("n2", 15, 20, "TimeoutError")]
    assert recovery_table(evidence)[0]["answers_after_end"] == {"p50": "never", "p99": "never", "max": "never"}
    assert promises(evidence) == {("P1", "a node answered no new chat in 6 s after the last fault")}


def test_figures_of_a_fault_that_met_another_are_left_out_and_counted() -> None:
    evidence = Evidence(faults=[fault("cancel", "postgres", 10, 12), fault("delay", "n1", 13, 15, "model")])
    evidence.probes = [probe("n1", 14, 14.5), probe("n1", 16, 16.5)]
    rows = {row["fault"]: row for row in recovery_table(evidence)}
    assert rows["cancel postgres"]["crossed"] == 1
    assert rows["cancel postgres"]["answers_after_end"] is None
    assert rows["delay n-model"]["answers_after_end"] == {"p50": 1.5, "p99": 1.5, "max": 1.5}


def test_quantiles_are_of_what_is_there() -> None:
    assert spread([]) is None
    assert spread([3]) == {"p50": 3, "p99": 3, "max": 3}
    assert spread([*range(100), float("inf")]) == {"p50": 50, "p99": 99, "max": "never"}


# --- until an orphan goes on ---


def orphaned(kind: str = "host-death", *, detail: str = "", until: float = 40, to: str = "n2") -> Evidence:
    """The run's second model request was taken from n1 and made elsewhere 12 s later."""
    evidence = whole()
    evidence.faults = [fault(kind, "n1", 4.5, until, detail)]
    evidence.requests[1:] = [request(2, 1, 4, None), request(3, 1, 16.5, 17, process=to)]
    return evidence


@pytest.mark.parametrize("kind", ["kill", "host-death", "pause"])
def test_an_orphan_goes_on_with_the_next_request_of_another_process(kind: str) -> None:
    (orphan,) = orphans(orphaned(kind))
    assert (orphan.run_id, orphan.seconds, orphan.database_away) == ("run_1", pytest.approx(12), False)


def test_a_process_that_was_killed_may_take_its_run_up_itself_and_one_that_was_cut_off_may_not() -> None:
    assert len(list(orphans(orphaned("host-death", to="n1")))) == 1
    assert list(orphans(orphaned("black-hole", detail="postgres", to="n1"))) == []
    assert len(list(orphans(orphaned("black-hole", detail="postgres")))) == 1
    assert list(orphans(orphaned("black-hole", detail="model"))) == []
    assert list(orphans(orphaned("black-hole", detail="postgres", until=9))) == [], "shorter than the lease"


def test_what_a_caller_saw_of_a_takeover_goes_before_the_ledgers() -> None:
    evidence = orphaned()
    first = evidence.sent[0].connections[0].events
    first[:] = [seen((1, 1), "run.queued", 0), seen((1, 2), "run.started", 4)]
    evidence.sent[0].connections = [Connection("a", None, first)]
    evidence.sent[0].connections.append(Connection("b", (1, 2), [seen((2, 3), "run.started", 94.5)]))
    (orphan,) = orphans(evidence)
    assert orphan.seconds == pytest.approx(90)
    assert orphans_after_lease(evidence) == {"count": 1, "p50": 80, "p99": 80, "max": 80}


def test_orphans_that_waited_for_the_database_are_not_in_the_table() -> None:
    evidence = orphaned()
    evidence.faults.append(fault("read-only", "postgres", 5, 9))
    assert orphans_after_lease(evidence) == {"count": 0}
    locked = orphaned()
    locked.faults.append(fault("locks", "postgres", 5, 9, "runs"))
    assert orphans_after_lease(locked)["count"] == 1, "a lock is no excuse"


def test_the_table_is_in_the_figures_and_in_the_text() -> None:
    evidence = orphaned()
    evidence.probes = [probe("n1", 5, 5.5), probe("n1", 41, 41.5)]
    evidence.troubles = [Trouble("trouble1", "big", 502, "model_answer_too_large")]
    evidence.failed_apart = ["trouble1 model_answer_too_large"]
    figures = figures_of(evidence, check(evidence), seconds=50)
    assert figures["recovery"][0]["last_orphan_goes_on"] == {"p50": 12, "p99": 12, "max": 12}
    assert figures["bad_answers_end_as"] == {"big: model_answer_too_large": 1}
    words = as_text(figures).split("seconds: p50/p99/max")[1]
    assert "host-death n" in words
    assert "1.5/1.5/1.5" in words
    assert "recovery" not in figures_of(whole(), [], seconds=1)


# --- the checker ---


def test_a_run_may_fail_for_a_model_that_its_process_could_not_reach_with_a_code_that_says_so() -> None:
    evidence = whole()
    evidence.runs["run_1"] |= {"state": "failed", "error": {"code": "provider_unavailable"}}
    assert ("P1", "failed for no reason of its own, provider_unavailable") in promises(evidence)
    evidence.faults = [fault("black-hole", "n1", 4, 5, "postgres")]
    assert ("P1", "failed for no reason of its own, provider_unavailable") in promises(evidence)
    evidence.faults = [fault("black-hole", "n1", 4, 5, "model")]
    assert promises(evidence) == set()
    evidence.runs["run_1"]["error"]["code"] = "internal_error"
    assert ("P1", "failed for no reason of its own, internal_error") in promises(evidence)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"unfinished": ["probe1 running"]}, "a run apart never ended"),
        ({"failed_apart": ["trouble1 internal_error"]}, "a bad answer of the model is an internal error"),
        (
            {"failed_apart": ["proben1x1 internal_error"]},
            "a quick chat failed for no reason of its own, internal_error",
        ),
        (
            {"troubles": [Trouble("trouble1", "big", 500, "internal_error")]},
            "a bad answer of the model was told as 500",
        ),
        ({"odd": ["GET /v1/runs: 500 internal_error"]}, "an answer nobody expects"),
        ({"probes": [probe("n1", 0, 1, "500 internal_error"), probe("n1", 2, 3)]}, "an answer nobody expects"),
        ({"unread": "GET /v1/runs"}, "no node answered when all was over"),
    ],
)
def test_what_breaks_apart_from_the_callers_is_found(changes: dict[str, Any], what: str) -> None:
    evidence = whole()
    for name, value in changes.items():
        setattr(evidence, name, value)
    (violation,) = check(evidence)
    assert violation.promise == "P1"
    assert violation.what.startswith(what)


def test_bad_answers_may_fail_with_a_code_of_their_own() -> None:
    evidence = whole()
    evidence.troubles = [
        Trouble("trouble1", "big", 502, "too_large"),
        Trouble("trouble2", "big", 0, "TimeoutError"),
    ]
    evidence.failed_apart = ["trouble1 too_large"]
    assert check(evidence) == []


def cancelled(**values: Any) -> Evidence:
    """The cancel was acknowledged after 6 s, and the model noted the end of the request after 9."""
    evidence = whole()
    evidence.requests[1] = request(2, 1, 4, 9, **values)
    evidence.sent[0].stop = Stop("run_1", T + 5.5, T + 6, "cancelled")
    return evidence


def test_a_model_that_could_not_be_told_of_a_cancel_breaks_nothing() -> None:
    evidence = cancelled()
    late = ("P5", "work went on after the cancel was acknowledged")
    assert late in promises(evidence)
    evidence.faults = [fault("black-hole", "n1", 5, 8, "postgres")]
    assert late in promises(evidence)
    evidence.faults = [fault("black-hole", "n1", 5, 8, "model")]
    assert late not in promises(evidence)


def test_a_dead_hosts_request_ended_with_it_though_the_model_was_not_told() -> None:
    evidence = cancelled()
    evidence.faults = [fault("host-death", "n1", 5.8, 7)]
    assert ("P5", "work went on after the cancel was acknowledged") not in promises(evidence)


def test_times_that_a_stepped_clock_recorded_prove_nothing() -> None:
    evidence = whole()
    evidence.runs["run_1"]["steps"] = [
        step(1, "model", 2.1 - 3600),
        step(2, "tool", 3.1 - 3600, call_id="call_1"),
        step(3, "model", 5.1 - 3600),
    ]
    assert check(evidence) == []


def test_an_answer_that_was_none_is_asked_for_again() -> None:
    evidence = whole()
    evidence.requests.append(request(3, 1, 3.5, 3.9, outcome="raw"))
    assert check(evidence) == []


def test_a_tool_is_not_cleared_by_the_models_network() -> None:
    evidence = whole()
    evidence.tools = [span(2.5, 9)]
    evidence.sent[0].stop = Stop("run_1", T + 5.5, T + 6, "cancelled")
    evidence.faults = [fault("black-hole", "n1", 5, 8, "model")]
    assert ("P5", "work went on after the cancel was acknowledged") in promises(evidence)
