"""Databases that count or hold reads, and waiting for what others do."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from pilothouse.db import Database
from pilothouse.errors import Unavailable


async def until(holds: Callable[[], Any]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.005)


class WatchedDatabase:
    """Counts reads by the unit's name; can hold a unit's answers back, or be away."""

    def __init__(self, inner: Database) -> None:
        self._inner = inner
        self.reads: Counter[str] = Counter()
        self.held: dict[str, asyncio.Event] = {}
        self.at_gate: Counter[str] = Counter()
        self.away = False

    @property
    def dialect(self) -> str:
        return self._inner.dialect

    def hold(self, unit: str) -> asyncio.Event:
        """From now on this unit reads, but its answer comes only when the event is set."""
        gate = self.held[unit] = asyncio.Event()
        return gate

    async def read(self, unit: Any, *args: Any, **kwargs: Any) -> Any:
        name = unit.__name__
        self.reads[name] += 1
        if self.away:
            raise Unavailable("The database can't be reached right now.", code="database_unavailable")
        result = await self._inner.read(unit, *args, **kwargs)
        if name in self.held:
            self.at_gate[name] += 1
            await self.held[name].wait()
        return result

    async def write(self, unit: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._inner.write(unit, *args, **kwargs)

    async def close(self) -> None:
        await self._inner.close()
