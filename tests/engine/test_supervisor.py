"""Background loops go on whatever happens to them, and readiness knows how they are."""

import asyncio

import pytest
from tests.support.logs import logged_by

from pilothouse.engine import supervisor as module
from pilothouse.engine.supervisor import Supervisor
from pilothouse.errors import Unavailable

HANG_SECONDS = 60


class Rounds:
    """Work that raises what it is given, one error a round, and then works."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.count = 0
        self.good = asyncio.Event()

    async def __call__(self):
        self.count += 1
        if self.errors:
            raise self.errors.pop(0)
        self.good.set()
        await asyncio.Event().wait()


@pytest.fixture
async def supervisor():
    supervisor = Supervisor()
    yield supervisor
    await supervisor.close()


class NotAnException(BaseException):
    pass


@pytest.mark.parametrize(
    "error",
    [Unavailable("The database is away."), ValueError("a bug"), NotAnException(), asyncio.CancelledError(), OSError(5)],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_loop_raises_it_goes_on(supervisor, error):
    work = Rounds(error, error)
    with logged_by(module) as lines:
        loop = supervisor.start("work", work, first_wait_seconds=0.001)
        async with asyncio.timeout(HANG_SECONDS):
            await work.good.wait()
    assert work.count == 3
    assert [line["failures"] for line in lines if line["event"] == "loop_failed"] == [1, 2]
    assert not loop.report().ok, "its round is not good before it has ended"


async def test_a_loop_that_recovers_says_so_and_is_well_again(supervisor):
    ended = asyncio.Event()

    async def work():
        if not ended.is_set():
            ended.set()
            raise ValueError("once")
        await asyncio.sleep(0.001)

    loop = supervisor.start("work", work, first_wait_seconds=0.001)
    async with asyncio.timeout(HANG_SECONDS):
        while not (ended.is_set() and loop.report().ok):
            await asyncio.sleep(0.001)
    assert (loop.report().failures, loop.report().reason) == (0, None)


async def test_a_loop_without_a_good_round_for_too_long_is_stale():
    now = [0.0]
    supervisor = Supervisor(clock=lambda: now[0])
    loop = supervisor.start("work", asyncio.Event().wait, stale_seconds=5)
    await asyncio.sleep(0)
    assert loop.report().ok
    now[0] = 6.0
    report = loop.report()
    assert (report.stale, report.ok, report.age_seconds) == (True, False, 6.0)
    loop.succeeded()
    assert loop.report().ok
    await supervisor.close()


async def test_work_that_never_waits_leaves_the_event_loop_free(supervisor):
    count = 0

    async def work():
        nonlocal count
        count += 1

    supervisor.start("work", work)
    for _ in range(10):
        await asyncio.sleep(0)
    assert 0 < count <= 10


async def test_close_ends_every_loop(supervisor):
    loops = [supervisor.start(f"work {number}", asyncio.Event().wait) for number in range(3)]
    await supervisor.close()
    assert all(loop.task.done() for loop in loops)
    assert supervisor.reports() == []
