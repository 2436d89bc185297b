import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.journal import measure_journal
from benchmarks.measure import percentile
from benchmarks.scenarios import Figures, at_full_speed
from benchmarks.workload import IDEAL_PACED_SECONDS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_tiny_run_measures_right_answers_of_every_server(tmp_path):
    out = tmp_path / "out.json"
    subprocess.run(
        [sys.executable, "-m", "benchmarks", "turns", "--tiny", "--json", str(out)], cwd=ROOT, check=True, timeout=170
    )
    columns = json.loads(out.read_text())["answers"]["turns"]
    assert set(columns) == {"a", "b", "c", "d"}
    for [figures] in columns.values():
        assert figures["count"] == 16
        assert figures["cpu_ms"] > 0
        assert 0 < figures["p50"] <= figures["p99"]


@pytest.mark.slow
def test_a_tiny_run_of_silent_streams_wakes_all_of_them(tmp_path):
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "benchmarks", "silent", "--tiny", "--stores", "sqlite", "--json", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=170)
    columns = json.loads(out.read_text())["silent"]["sqlite"]
    assert set(columns) == {"alone", "few runs", "a run each"}
    for name in ("few runs", "a run each"):
        [figures] = columns[name]
        assert figures["woken_max"] >= figures["woken_p50"] > 0
        assert figures["list_p99_ratio"] > 0


def test_a_percentile_is_the_value_that_so_many_do_not_exceed():
    values = [float(value) for value in range(200, 0, -1)]
    assert percentile(values, 50) == 100
    assert percentile(values, 99) == 198
    assert percentile([7.0], 99) == 7


@pytest.mark.parametrize(
    ("slowdown", "first_ms", "passed"),
    [(1.0, 210.0, True), (1.14, 1190.0, True), (1.16, 210.0, False), (1.0, 1210.0, False)],
)
def test_full_speed_is_fifteen_percent_and_a_second(slowdown, first_ms, passed):
    figures: Figures = {"mean": slowdown * IDEAL_PACED_SECONDS * 1000, "first_p99": first_ms}
    assert at_full_speed(figures) is passed


async def test_the_journals_cost_is_that_of_whole_turns(tmp_path):
    cost = await measure_journal(f"sqlite:///{tmp_path / 'journal.db'}", turns=5, size=lambda: 0)
    assert cost.cpu_ms > 0
    assert cost.write_ms > 0


def test_a_tiny_look_at_the_event_loop_names_its_cases_and_their_bar():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "lag", "--tiny"],
        cwd=ROOT,
        check=False,
        timeout=170,
        capture_output=True,
        text=True,
    )
    assert done.returncode in {0, 1}, done.stderr
    assert "tool result: text of 50 MB" in done.stdout
    assert "longest piece, ms CPU" in done.stdout
