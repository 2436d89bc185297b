"""Named gates that hold answers back until a test lets them go."""

from dataclasses import dataclass

from pilothouse.testing.provider.changes import Changes


@dataclass(slots=True)
class _Gate:
    is_open: bool = False
    arrived: int = 0
    waiting: int = 0


class Gates:
    """Gates come into being, closed, when first named; a gate once released stays open until held."""

    def __init__(self) -> None:
        self._gates: dict[str, _Gate] = {}
        self._changes = Changes()

    async def pass_through(self, name: str) -> None:
        """Wait at a gate until it is open."""
        gate = self._gate(name)
        gate.arrived += 1
        gate.waiting += 1
        self._changes.notify()
        try:
            await self._changes.wait_until(lambda: gate.is_open, what=f"release of gate {name!r}", timeout=None)
        finally:
            gate.waiting -= 1

    async def wait_for(self, name: str, count: int, *, timeout: float) -> None:
        """Return once `count` answers have come to the gate since it was last held."""
        gate = self._gate(name)
        what = f"arrival {count} at gate {name!r}"
        await self._changes.wait_until(lambda: gate.arrived >= count, what=what, timeout=timeout)

    def release(self, name: str) -> None:
        """Open a gate for those who wait and those who come later."""
        self._gate(name).is_open = True
        self._changes.notify()

    def hold(self, name: str) -> None:
        """Close a gate and count arrivals from zero."""
        gate = self._gate(name)
        gate.is_open = False
        gate.arrived = 0

    def state(self) -> dict[str, dict[str, int | bool]]:
        """Each gate by name: `open`, `arrived`, `waiting`."""
        return {
            name: {"open": gate.is_open, "arrived": gate.arrived, "waiting": gate.waiting}
            for name, gate in self._gates.items()
        }

    def _gate(self, name: str) -> _Gate:
        return self._gates.setdefault(name, _Gate())
