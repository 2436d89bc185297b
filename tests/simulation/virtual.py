"""Virtual time: event loops that never sleep, and the clocks and random numbers that the code under test sees.

Nothing here waits and nothing is read from the machine, so a seed decides everything that happens.
"""

import asyncio
import heapq
import random
import sys
import threading
import time
import zlib
from asyncio import events
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

from pilothouse.kit import ids
from pilothouse.runs.journal import Journal

EPOCH_SECONDS = 1_800_000_000
_RESOLUTION = 1e-6
_MOST_ROUNDS = 50


class Clock:
    """The one clock of a simulation: seconds since its start."""

    def __init__(self) -> None:
        self.now = 0.0
        self.skew = 0.0
        """Of the wall clock of the process that is running right now, seconds."""
        self.lag = 0.0
        """Of its monotonic clock."""

    def monotonic(self) -> float:
        return self.now - self.lag

    def unix(self) -> float:
        return EPOCH_SECONDS + self.now + self.skew

    def unix_ns(self) -> int:
        return round(self.unix() * 1e6) * 1000


class _NoSelector:
    def select(self, _timeout: float | None) -> list[Any]:
        return []


class SimLoop(asyncio.BaseEventLoop):
    """An event loop on a virtual clock, run one round at a time by whoever owns it."""

    def __init__(self, clock: Clock, on_error: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self._clock = clock
        self.lag = 0.0
        self._clock_resolution = _RESOLUTION
        self._selector = _NoSelector()
        self.set_exception_handler(lambda _loop, context: on_error(context))

    def time(self) -> float:
        return self._clock.now - self.lag

    def due(self) -> bool:
        """Whether a round would do something now."""
        when = self.next_timer()
        return bool(self._ready) or (when is not None and when < self._clock.now + _RESOLUTION)

    def next_timer(self) -> float | None:
        """When the next timer is due, by the clock of the simulation."""
        scheduled = self._scheduled
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
            self._timer_cancelled_count -= 1
        return scheduled[0]._when + self.lag if scheduled else None

    def step(self) -> None:
        """One round: everything that is ready now, not what that makes ready."""
        with self.entered():
            self._run_once()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Within the block this is the running loop."""
        hooks = sys.get_asyncgen_hooks()
        before = events._get_running_loop()
        self._thread_id = threading.get_ident()
        sys.set_asyncgen_hooks(firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook)
        events._set_running_loop(self)
        try:
            yield
        finally:
            events._set_running_loop(before)
            sys.set_asyncgen_hooks(*hooks)
            self._thread_id = None

    def drop(self) -> None:
        """End as the end of a process does, then let go of what is left.

        The owner marks the process as dead first: its database, its ledger and the network take nothing any more.
        Python runs the `finally` blocks of coroutines it lets go of; here they run in order, in their own tasks.
        """
        self.set_exception_handler(lambda _loop, _context: None)
        with self.entered():
            for _ in range(_MOST_ROUNDS):
                tasks = asyncio.all_tasks(self)
                if not tasks:
                    break
                for task in sorted(tasks, key=_age):
                    task.cancel()
                while self._ready:
                    self._run_once()
            for generator in list(self._asyncgens):
                generator.aclose().close()
        if left := asyncio.all_tasks(self):
            raise RuntimeError(f"tasks that can't be cancelled: {left}")
        self._ready.clear()
        self._scheduled.clear()
        self.close()

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def _age(task: asyncio.Task[Any]) -> tuple[int, str]:
    """What orders the tasks of a loop in the same way in every process: names given by default hold a number."""
    kind, _, number = task.get_name().rpartition("-")
    return (int(number), "") if kind == "Task" else (0, task.get_name())


class Recorder:
    """Takes the place of the modules' loggers: lines go into the trace."""

    def __init__(self, write: Callable[[str, str, dict[str, Any]], None]) -> None:
        self._write = write

    def __getattr__(self, level: str) -> Callable[..., None]:
        def line(event: str, **values: Any) -> None:
            self._write(level, event, values)

        return line


@contextmanager
def virtual_process(clock: Clock, rng: random.Random, log: Recorder) -> Iterator[None]:
    """Within the block our modules see this clock, this random generator and this log, whoever imported them how."""
    fake_time = SimpleNamespace(
        monotonic=clock.monotonic,
        perf_counter=clock.monotonic,
        time=clock.unix,
        time_ns=clock.unix_ns,
    )
    replaced: dict[int, Any] = {id(time): fake_time, id(random): rng, id(time.monotonic): clock.monotonic}
    undo: list[tuple[ModuleType, str, Any]] = []
    for module in [found for name, found in sys.modules.items() if name.startswith("pilothouse.")]:
        for name, value in list(vars(module).items()):
            other = log if name == "log" else replaced.get(id(value))
            if other is not None:
                undo.append((module, name, value))
                setattr(module, name, other)
    undo.append((ids, "os", ids.os))
    ids.os = SimpleNamespace(urandom=rng.randbytes)  # type: ignore[assignment]
    own_hash = Journal.__dict__.get("__hash__")
    Journal.__hash__ = _journal_hash  # type: ignore[method-assign]  # sets of journals: one order in every process
    try:
        yield
    finally:
        if own_hash is None:
            del Journal.__hash__
        for module, name, value in undo:
            setattr(module, name, value)


def _journal_hash(journal: Journal) -> int:
    return zlib.crc32(f"{journal.place.run_id}:{journal.place.attempt}".encode())
