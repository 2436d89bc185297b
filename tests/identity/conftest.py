"""Keys on a clock that a test turns, on both databases."""

from collections.abc import AsyncIterator

import pytest
from tests.support.clock import Clock

from pilothouse.db import Database
from pilothouse.identity.keys import Keys


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def keys(database: Database, clock: Clock) -> AsyncIterator[Keys]:
    made = Keys(database, clock=clock.now, monotonic=clock.monotonic)
    yield made
    await made.close()
