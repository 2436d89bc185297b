"""Work that is done, or can't be done otherwise: it waits for a database that is away for a while."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pilothouse.errors import Unavailable

FIRST_WAIT_SECONDS = 0.25
LONGEST_WAIT_SECONDS = 2.0
GIVE_UP_SECONDS = 600.0

T = TypeVar("T")


async def until_available(attempt: Callable[[bool], Awaitable[T]]) -> T:
    """What `attempt` gives, repeated for ten minutes while it says that the database is away.

    Args:
        attempt: told whether it was tried before: then it may have taken effect.

    Raises:
        Unavailable: it still is.
    """
    tried = False
    wait = FIRST_WAIT_SECONDS
    give_up = time.monotonic() + GIVE_UP_SECONDS
    while True:
        try:
            return await attempt(tried)
        except Unavailable:
            tried = True
            if time.monotonic() > give_up:
                raise
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)
