"""Wake-ups between nodes: a message only ever says "look"; what there is to see is in the database.

So nothing is lost with Redis, only time: see `LogWatcher` for streams, `Reaper` for stops.
"""

from typing import Protocol


class Wakeups(Protocol):
    """What runs tell the other nodes, and whether they are told what others do."""

    @property
    def healthy(self) -> bool:
        """Messages of others reach this process, as far as is known."""
        ...

    @property
    def silent_seconds(self) -> float | None:
        """Age of the last sign of life of what carries the messages; None if there was none yet, or nothing to ask."""
        ...

    def run_changed(self, run_id: str) -> None:
        """A run's log has grown. Returns at once; the message may be lost."""
        ...

    def reapers_look(self) -> None:
        """Somebody wants a run stopped, or a node has left its runs. Returns at once; the message may be lost."""
        ...


class NoWakeups:
    """There is nobody to wake, and nobody tells this process."""

    healthy = False
    silent_seconds = None

    def run_changed(self, run_id: str) -> None:
        """Nothing to do."""

    def reapers_look(self) -> None:
        """Nothing to do."""
