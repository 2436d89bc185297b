"""Wake-ups between nodes: a message only ever says "look"; what there is to see is in the database.

So nothing is lost with Redis, only time: followers look by themselves every half second, reapers every two.
"""

from typing import Protocol


class Wakeups(Protocol):
    """What runs tell the other nodes."""

    def run_changed(self, run_id: str) -> None:
        """A run's log has grown. Returns at once; the message may be lost."""
        ...

    def reapers_look(self) -> None:
        """Somebody wants a run stopped, or a node has left its runs. Returns at once; the message may be lost."""
        ...


class NoWakeups:
    """There is nobody to wake."""

    def run_changed(self, run_id: str) -> None:
        """Nothing to do."""

    def reapers_look(self) -> None:
        """Nothing to do."""
