"""Plays seeds one after another in one Python process."""

import gc

from tests.simulation.agent import Stage
from tests.simulation.store import Store
from tests.simulation.world import World

_COLLECT_EVERY = 10


class Simulator:
    """Holds what is expensive to make. A seed's play depends on nothing that another seed has left here."""

    def __init__(self) -> None:
        self._stage = Stage()
        self._store = Store()
        self._played = 0

    def play(self, seed: int, *, leave_out: set[str] | None = None) -> World:
        """The world after a seed was played: its `violation`, its `trace`."""
        enabled = gc.isenabled()
        gc.disable()  # a collection at an instant that no seed decides could wake what waits for the end of a generator
        try:
            world = World(seed, self._stage, self._store, leave_out=leave_out)
            world.run()
        finally:
            self._played += 1
            if self._played % _COLLECT_EVERY == 0:
                gc.collect()
            if enabled:
                gc.enable()
        return world

    @staticmethod
    def readable(world: World) -> str:
        """A trace for people: virtual time, who, what."""
        lines = [f"seed {world.seed}: {world.plan}"]
        lines += [f"{at:9.3f}  {who:<4} {what}" for at, who, what in world.trace]
        return "\n".join([*lines, f"violation: {world.violation}"])
