"""Scenario 8: how long a single piece of work holds the server's event loop while it is asked for heavy things.

Everything else waits behind that piece: heartbeats of the lease, tokens of other streams. CPU time of the loop's
thread, so other work on the machine makes no difference; the provider and the clients run on another loop.
"""

import asyncio
import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.scenarios import Figures, Plan, Results, Say

MOST_MS = 50.0


def run_lag(folder: Path, plan: Plan, *, say: Say, names: Sequence[str] | None = None) -> Results:
    """The longest piece of each case in milliseconds, every round on a new database.

    Raises:
        RuntimeError: the development requirements are missing.
    """
    try:
        cases = importlib.import_module("tests.support.lag_cases")
    except ImportError as error:
        raise RuntimeError("The cases are part of the tests: install the development requirements.") from error
    columns: dict[str, dict[str, list[Figures]]] = {}
    for name in names or cases.LAG_CASES:
        figures = columns.setdefault(name, {"d": []})["d"]
        for number in range(1, plan.rounds + 1):
            probe = asyncio.run(_measured(cases, name, folder / f"lag-{len(columns)}-{number}.db"))
            figures.append({"longest_ms": probe.longest * 1000})
            found = probe.report() if _is_slow(figures[-1]) else f"{probe.longest * 1000:.0f} ms"
            say(f"round {number}: {name}: {found}")
    return Results(columns)


def lag_rows(results: Results) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Header and lines of the table."""
    header = ("asked for", "longest piece, ms CPU", f"at most {MOST_MS:.0f}")
    rows = [
        (name, f"{figures['d']['longest_ms']:.0f}", "no" if _is_slow(figures["d"]) else "yes")
        for name, figures in results.medians().items()
    ]
    return header, rows


def is_free(results: Results) -> bool:
    """Whether no median is over the bar."""
    return not any(_is_slow(figures["d"]) for figures in results.medians().values())


def _is_slow(figures: Figures) -> bool:
    return math.ceil(figures["longest_ms"]) > MOST_MS


async def _measured(cases: Any, name: str, path: Path) -> Any:
    url = f"sqlite:///{path}"
    database = importlib.import_module("pilothouse.db")
    migrate = importlib.import_module("pilothouse.db.migrate")
    opened = await database.open_database(url)
    await migrate.upgrade_schema(opened)
    await opened.close()
    return await cases.longest(name, url)
