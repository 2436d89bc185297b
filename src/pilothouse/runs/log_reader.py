"""Reads of event logs, coalesced: streams that look at the same time share one transaction.

What is asked for while a read is under way goes with the next, so a request never gets a look that began before it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from pilothouse.db import Database
from pilothouse.errors import Unavailable
from pilothouse.runs import log_repository
from pilothouse.runs.events import EventPlace, RunEvent, from_rows
from pilothouse.runs.states import TERMINAL

_PAGE = 200
_RUNS_A_READ = 128
_ROWS_A_READ = 1_000
_READS_AT_ONCE = 2

_Key = tuple[str, EventPlace]


@dataclass(frozen=True, slots=True)
class LogLook:
    """What a look at a run's log found.

    Attributes:
        events: those after the place, oldest first; shared with others who asked for the same.
        complete: the log held nothing behind them.
        state: of the run; None if it is gone.
    """

    events: list[RunEvent]
    complete: bool
    state: str | None

    @property
    def ended(self) -> bool:
        """Nothing more will come after `events`."""
        return self.complete and (self.state is None or self.state in TERMINAL)


class LogReader:
    """Reads logs for all streams of a process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._wanted: dict[_Key, list[asyncio.Future[LogLook]]] = {}
        self._reads: set[asyncio.Task[None]] = set()

    async def read(self, run_id: str, after: EventPlace) -> LogLook:
        """A page of a run's log after a place, as it is now or later. The caller has checked whose run it is.

        Raises:
            Unavailable: the database is away.
        """
        answer: asyncio.Future[LogLook] = asyncio.get_running_loop().create_future()
        self._wanted.setdefault((run_id, after), []).append(answer)
        self._begin()
        return await answer

    def _begin(self) -> None:
        if self._wanted and len(self._reads) < _READS_AT_ONCE:
            task = asyncio.create_task(self._read_some(), name="log-read")
            self._reads.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._reads.discard(task)
        self._begin()

    async def _read_some(self) -> None:
        """One transaction for those who ask now."""
        taken = {key: self._wanted.pop(key) for key in list(self._wanted)[:_RUNS_A_READ]}
        taken = {key: answers for key, answers in taken.items() if not all(answer.done() for answer in answers)}
        if not taken:
            return
        try:
            pages = await self._database.read(log_repository.read_pages, list(taken), page=_PAGE, most=_ROWS_A_READ)
        except BaseException as error:
            _refuse([answer for answers in taken.values() for answer in answers], error)
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        for key, page in zip(list(taken), pages, strict=False):
            answers = taken.pop(key)
            try:
                look = LogLook(from_rows(page.rows, key[1]), page.complete, page.state)
            except Exception as error:  # noqa: BLE001 - a row that can't be read fails its own readers only
                _refuse(answers, error)
                continue
            for answer in answers:
                if not answer.done():
                    answer.set_result(look)
        for key, answers in taken.items():  # there were too many rows: they go first next time
            answers.extend(self._wanted.pop(key, ()))
        self._wanted = {**taken, **self._wanted}


def _refuse(answers: Sequence[asyncio.Future[LogLook]], error: BaseException) -> None:
    for answer in answers:
        if answer.done():
            continue
        if isinstance(error, Unavailable):  # one each: a traceback grows with everyone who raises it
            answer.set_exception(Unavailable(error.message, code=error.code, headers=error.headers))
        elif isinstance(error, asyncio.CancelledError):
            answer.cancel()
        else:
            answer.set_exception(error)
