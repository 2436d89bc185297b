"""Plays seeds one after another in one Python process."""

import gc
from collections.abc import Awaitable, Callable

from tests.simulation.agent import Stage
from tests.simulation.callers import Callers
from tests.simulation.plan import Plan, without
from tests.simulation.store import Store
from tests.simulation.world import World

Story = tuple[Plan, Callable[[Callers], Awaitable[None]]]
_ROUTINE = frozenset(
    {"reads survey", "writes renew_lease", "reads read_events", "reads get_run_for_executor", "writes insert_deltas"}
)
_COLLECT_EVERY = 10


class Simulator:
    """Holds what is expensive to make. A seed's play depends on nothing that another seed has left here."""

    def __init__(self) -> None:
        self._stage = Stage()
        self._store = Store()
        self._played = 0

    def play(self, seed: int, *, leave_out: set[str] | None = None, story: Story | None = None) -> World:
        """The world after a seed was played: its `violation`, its `trace`.

        Args:
            leave_out: kinds of fault that don't happen.
            story: instead of what the seed would bring: a plan, and what a caller does.
        """
        enabled = gc.isenabled()
        gc.disable()  # a collection at an instant that no seed decides could wake what waits for the end of a generator
        try:
            world = World(seed, self._stage, self._store, plan=None if story is None else story[0])
            without(world.plan, leave_out or set())
            if story is not None:
                world.callers.follow_story(story[1])
            world.run()
        finally:
            self._played += 1
            if self._played % _COLLECT_EVERY == 0:
                gc.collect(1)  # the older ones are modules and caches
            if enabled:
                gc.enable()
        return world

    @staticmethod
    def readable(world: World, *, whole: bool = False) -> str:
        """A trace for people: virtual time, who, what. Routine is left out unless `whole`."""
        lines = [f"seed {world.seed}: {world.plan}"]
        lines += [f"{at:9.3f}  {who:<4} {what}" for at, who, what in world.trace if whole or what not in _ROUTINE]
        return "\n".join([*lines, f"violation: {world.violation}"])
