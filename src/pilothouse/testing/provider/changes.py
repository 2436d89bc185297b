"""Waiting for a condition to hold without polling."""

import asyncio
from collections.abc import Callable


class Changes:
    """Tells those who wait that something may have changed; costs nothing while nobody waits."""

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []

    def notify(self) -> None:
        """Have everybody who waits look again."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait_until(self, holds: Callable[[], bool], *, what: str, timeout: float | None) -> None:
        """Return once `holds()` is true.

        Raises:
            TimeoutError: it was not within `timeout` seconds (`None`: no limit); the text names `what`.
        """
        try:
            async with asyncio.timeout(timeout):
                while not holds():
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiters.append(waiter)
                    await waiter
        except TimeoutError as error:
            raise TimeoutError(f"{what} did not happen within {timeout} s") from error
