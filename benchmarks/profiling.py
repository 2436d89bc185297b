"""Profiles of a server's event loop, boiled down to a few lines: by package, by own time, by time with callees."""

import cProfile
import io
import pstats
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

_LINES = 25
_INTERVAL_SECONDS = 0.0005


class Profiler(Protocol):
    """Watches the thread that starts it."""

    def start(self) -> None:
        """Begin: when the server is warm."""
        ...

    def stop(self) -> None:
        """End, and write what was seen. Nothing where it was never started."""
        ...


class NoProfiler:
    """Watches nothing."""

    def start(self) -> None:
        return

    def stop(self) -> None:
        return


class CProfiler:
    """Exact counts of calls; makes small functions look dearer than they are."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._profile = cProfile.Profile()
        self._started = False

    def start(self) -> None:
        self._started = True
        self._profile.enable()

    def stop(self) -> None:
        if not self._started:
            return
        self._profile.disable()
        out = io.StringIO()
        stats = pstats.Stats(self._profile, stream=out)
        for order in ("tottime", "cumulative"):
            stats.sort_stats(order).print_stats(_LINES)
        self._path.write_text(out.getvalue())


class SamplingProfiler:
    """pyinstrument's samples, counted our way. Time spent waiting for events is left out."""

    def __init__(self, path: Path) -> None:
        from pyinstrument import Profiler as Sampler  # noqa: PLC0415 - optional

        self._path = path
        self._sampler = Sampler(interval=_INTERVAL_SECONDS, async_mode="disabled")

    def start(self) -> None:
        self._sampler.start()

    def stop(self) -> None:
        if not self._sampler.is_running:
            return
        session = self._sampler.stop()
        self._path.write_text(summarize(session.frame_records))


def make_profiler(kind: str | None, path: Path) -> Profiler:
    """The profiler asked for; the exact one where pyinstrument is not installed."""
    if kind is None:
        return NoProfiler()
    if kind == "pyinstrument" and find_spec("pyinstrument") is not None:
        return SamplingProfiler(path)
    return CProfiler(path)


def summarize(records: list[tuple[list[str], float]]) -> str:
    """Samples, as stacks of `function NUL file NUL line` with their seconds, to three short tables."""
    own, whole, packages, below = (defaultdict[str, float](float) for _ in range(4))
    total = 0.0
    for stack, seconds in records:
        frames = [_Frame(identifier) for identifier in stack if "\x00" in identifier]
        if not frames or frames[-1].idle:
            continue
        # The sampler counts real time: what is longer than its interval, others had the core.
        spent = min(seconds, 2 * _INTERVAL_SECONDS)
        total += spent
        own[frames[-1].name] += spent
        packages[frames[-1].package] += spent
        for name in {frame.name for frame in frames}:
            whole[name] += spent
        for package in {frame.package for frame in frames}:
            below[package] += spent
    lines = [f"{total:.2f} s busy in the event loop's thread", ""]
    lines += _table("by package: own time (and with what it calls)", packages, total, below)
    lines += _table("own time", own, total)
    ours = {name: seconds for name, seconds in whole.items() if name.startswith("pilothouse/")}
    lines += _table("ours, with callees", _interesting(ours, total), total)
    lines += _table("all, with callees", _interesting(whole, total), total)
    return "\n".join(lines)


class _Frame:
    """One frame of a stack."""

    def __init__(self, identifier: str) -> None:
        function, path, line, *_ = identifier.split("\x00")
        self.short = _shorten(path)
        self.package = _package(self.short)
        self.name = f"{self.short}:{line.split(chr(1))[0]} {function}"
        self.idle = function in {"select", "poll"} or (function == "run" and "asyncio/runners" in path)


def _shorten(path: str) -> str:
    path = path.replace("\\", "/")
    for mark in ("/site-packages/", "/src/"):
        if mark in path:
            return path.rsplit(mark, 1)[1]
    marker = path.rfind("/lib/python3")
    if marker >= 0:
        return "std/" + path[marker + 1 :].split("/", 2)[-1]
    return path.rsplit("/", 2)[-1] if path.startswith("/") else path


def _package(short: str) -> str:
    parts = short.split("/")
    if parts[0] == "pilothouse" and len(parts) > 2:
        return f"pilothouse.{parts[1]}"
    return parts[0]


def _interesting(whole: dict[str, float], total: float) -> dict[str, float]:
    """Without the frames everything runs under."""
    return {name: seconds for name, seconds in whole.items() if seconds < 0.97 * total}


def _table(title: str, counts: dict[str, float], total: float, second: dict[str, float] | None = None) -> list[str]:
    lines = [title]
    for name, seconds in sorted(counts.items(), key=lambda item: -item[1])[:_LINES]:
        also = "" if second is None else f" ({100 * second[name] / max(total, 1e-9):4.1f} %)"
        lines.append(f"  {100 * seconds / max(total, 1e-9):5.1f} %{also}  {name}")
    return [*lines, ""]
