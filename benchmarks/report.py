"""Tables for people."""

from collections.abc import Sequence

from benchmarks.idle import idle_rows
from benchmarks.journal import JournalCost
from benchmarks.lag import lag_rows
from benchmarks.scenarios import Figures, Results, at_full_speed
from benchmarks.silent import silent_rows
from benchmarks.workload import IDEAL_PACED_SECONDS

# Share of the server's core in other hands from which a failure says nothing about the server.
_DISTURBED = 0.1
_NAMES = {
    "a": "a pass-through",
    "b": "b openai sdk",
    "c": "c pydantic ai",
    "d": "d pilothouse",
    "d (once)": "d effect=once",
}
Row = Sequence[str]


def table(header: Row, rows: Sequence[Row]) -> str:
    """Columns aligned, the first to the left."""
    widths = [max(len(row[index]) for row in [header, *rows]) for index in range(len(header))]

    def line(row: Row) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *(line(row) for row in rows)])


def lag(results: Results) -> str:
    """The longest piece of work of each case."""
    return table(*lag_rows(results))


def answers(results: Results) -> str:
    """Turns, tools and streams: a line for each server."""
    header = (
        "scenario", "server", "CPU ms each", "in threads", "CPU / c", "CPU / b", "each/s", "p50 ms", "p99 ms",
        "first token +ms", "first p99 ms", "others' share",
    )  # fmt: skip
    rows: list[Row] = []
    for scenario, columns in results.medians().items():
        floor = columns.get("a", {}).get("first_p50")
        for column, figures in columns.items():
            rows.append(
                (
                    scenario,
                    _NAMES.get(column, column),
                    f"{figures['cpu_ms']:.2f}",
                    f"{figures['threads_ms']:.2f}",
                    _ratio(figures, columns.get("c")),
                    _ratio(figures, columns.get("b")),
                    f"{figures['per_s']:.1f}",
                    f"{figures['p50']:.1f}",
                    f"{figures['p99']:.1f}",
                    f"{figures['first_p50'] - floor:+.1f}" if floor is not None else "",
                    f"{figures['first_p99']:.1f}" if "first_p99" in figures else "",
                    f"{figures['others']:.0%}",
                )
            )
    return table(header, rows)


def paced(results: Results) -> str:
    """Paced streams: a line for each level and server, then the highest level that went at full speed."""
    header = (
        "streams at once", "server", "core", "CPU ms each", "x ideal", "first p50 ms", "first p99 ms",
        "longest gap p99 ms", "full speed", "others' share",
    )  # fmt: skip
    rows: list[Row] = []
    highest: dict[str, int] = {}
    unsure: set[str] = set()
    for scenario, columns in results.medians().items():
        level = scenario.removeprefix("paced ")
        for column, figures in sorted(columns.items()):
            passed = at_full_speed(figures)
            disturbed = not passed and figures["others"] > _DISTURBED
            if disturbed:
                unsure.add(column)
            highest[column] = max(highest.get(column, 0), int(level) if passed else 0)
            rows.append(
                (
                    level,
                    _NAMES.get(column, column),
                    f"{figures['core']:.0%}",
                    f"{figures['cpu_ms']:.1f}",
                    f"{figures['mean'] / 1000 / IDEAL_PACED_SECONDS:.3f}",
                    f"{figures['first_p50']:.0f}",
                    f"{figures['first_p99']:.0f}",
                    f"{figures['gap_p99']:.0f}",
                    "yes" if passed else "?" if disturbed else "NO",
                    f"{figures['others']:.0%}",
                )
            )
    said = [
        f"{_NAMES[column]}: {'at least ' if column in unsure else ''}{level} at full speed"
        for column, level in sorted(highest.items())
    ]
    if unsure:
        said.append("? is a level that failed while other programs had the core: run it again on a quiet machine")
    elif highest.get("c") and "d" in highest:
        said.append(f"d / c: {highest['d'] / highest['c']:.1f}")
    return table(header, rows) + "\n" + "; ".join(said)


def long(results: Results) -> str:
    """Turns late in a conversation: the ratio is that to the shortest."""
    medians = {scenario: columns["d"] for scenario, columns in results.medians().items()}
    shortest = next(iter(medians.values()))["cpu_ms"]
    rows = [
        (scenario, f"{one['cpu_ms']:.2f}", f"{one['cpu_ms'] / shortest:.2f}", f"{one['p50']:.1f}", f"{one['p99']:.1f}")
        for scenario, one in medians.items()
    ]
    return table(("d at", "CPU ms each", "ratio", "p50 ms", "p99 ms"), rows)


def idle(results: Results) -> str:
    """Start and memory."""
    return table(*idle_rows(results))


def postgres(results: Results) -> str:
    """What others notice of open streams on PostgreSQL."""
    rows = [
        (f"{name}, {column}", f"{one['p50']:.1f}", f"{one['p99']:.1f}", f"{one['cpu_ms']:.2f}", f"{one['others']:.0%}")
        for name, columns in results.medians().items()
        for column, one in columns.items()
    ]
    return table(("d on PostgreSQL", "p50 ms", "p99 ms", "CPU ms each", "others' share"), rows)


def silent(results: Results) -> str:
    """What open, silent streams cost, and when they are woken."""
    return table(*silent_rows(results))


def journal(cost: JournalCost) -> str:
    """What the journal adds to a turn."""
    row = ("a turn on SQLite", f"{cost.cpu_ms:.2f}", f"{cost.write_ms:.2f}", f"{cost.kilobytes:.1f}")
    return table(("journal", "CPU ms", "waited ms", "KB on disk"), [row])


def _ratio(figures: Figures, base: Figures | None) -> str:
    return "" if base is None else f"{figures['cpu_ms'] / base['cpu_ms']:.2f}"
