"""Do a piece of work once for a key.

A key that was taken ends in one of three ways. The work succeeded: its answer is kept. It surely had no effect, or may
be done again: the key is given back. Whether it took effect is not known: that is kept, and a repeated request is told
so at once, since to do it again would be a guess.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from sqlalchemy.engine import Row
from sqlalchemy.exc import IntegrityError

from pilothouse.db import Database
from pilothouse.errors import CallerError, Conflict, InvalidRequest, PilothouseError, Unavailable
from pilothouse.idempotency import repository
from pilothouse.idempotency.repository import KeyUse
from pilothouse.kit.clock import now_ms
from pilothouse.kit.jsons import canonical_hash, dumps, loads
from pilothouse.observability.logs import get_logger

log = get_logger(__name__)

_WAIT_SECONDS = 10.0
_FIRST_LOOK_SECONDS = 0.25
_LONGEST_LOOK_SECONDS = 2.0
_MOST_UNWRITTEN = 1_000
_MESSAGE_CHARS = 300

_Place = tuple[str, str, str]


Waits = Callable[[Awaitable[Any]], Awaitable[Any]]
"""Awaits something that may be cancelled, for as long as that makes sense."""


async def _patiently(waiting: Awaitable[Any]) -> Any:
    return await waiting


@dataclass(slots=True)
class _Ongoing:
    """Work that this process does for a key. `response` is what the key stands for when it is `over`; None: free."""

    use: KeyUse
    over: asyncio.Event = field(default_factory=asyncio.Event)
    response: str | None = None


class Idempotency:
    """Answers repeated requests from what the first one answered. Runs have their own way: see `runs.admit`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ongoing: dict[_Place, _Ongoing] = {}
        self._elsewhere: dict[_Place, asyncio.Task[str | None]] = {}
        # How work ended that the database could not be told of; None: the key is free.
        self._unwritten: OrderedDict[_Place, tuple[KeyUse, str | None]] = OrderedDict()

    async def once(
        self,
        use: KeyUse | None,
        work: Callable[[], Awaitable[dict[str, Any]]],
        *,
        may_repeat: bool = False,
        waits: Waits = _patiently,
    ) -> dict[str, Any]:
        """The result of `work`, a JSON object, or that of an earlier request with the same key and body.

        A request that fails by its caller's fault gives the key back. One that comes while the first is still being
        worked on waits for it. Check what the caller may do before: a stored answer is given to whoever has the key.

        Args:
            may_repeat: the work changes nothing, or has the same effect when it is done again with the same key: any
                failure gives the key back.
            waits: how a repeated request waits for the first one: it may give up, the first one's work goes on.

        Raises:
            InvalidRequest: the key was used for something else.
            Conflict: `idempotency_failed`: the first request failed, and may have taken effect;
                `idempotency_unfinished`: it did not end (its process died), or takes long on another node.
        """
        if use is None:
            return await work()
        place = (use.tenant, use.owner, use.key)
        earlier = await self._claim(place, use, waits)
        if earlier is not None:
            return _answer(earlier)
        ongoing = self._ongoing[place]
        try:
            result = await work()
        except BaseException as error:
            await self._failed(ongoing, error, may_repeat=may_repeat)
            raise
        else:
            await self._ended(ongoing, dumps(result))
            return result
        finally:
            self._ongoing.pop(place, None)
            ongoing.over.set()

    async def _claim(self, place: _Place, use: KeyUse, waits: Waits) -> str | None:
        """What the key stands for. None: it is ours now, and in `_ongoing`."""
        while True:
            if (ongoing := self._ongoing.get(place)) is not None:
                _check_same(ongoing.use, use)
                await waits(ongoing.over.wait())
                if ongoing.response is not None:
                    return ongoing.response
                continue  # it was given back: whoever is first may try
            if (unwritten := self._unwritten.get(place)) is not None:
                _check_same(unwritten[0], use)
                if unwritten[1] is not None:
                    return unwritten[1]
            mine = self._ongoing[place] = _Ongoing(use)
            taken = False
            try:
                row = await self._take(place, use)
                taken = row is None
                if row is None:
                    return None
                mine.response = row.response
            except IntegrityError:  # somebody on another node took it in the same instant
                continue
            finally:
                if not taken:
                    del self._ongoing[place]
                    mine.over.set()
            response = row.response or await waits(self._wait_elsewhere(place, use))
            if response is not None:
                return response

    async def _take(self, place: _Place, use: KeyUse) -> Row[Any] | None:
        if place in self._unwritten:
            await self._database.write(repository.release, use)
            self._unwritten.pop(place, None)  # others may have taken its place meanwhile
        return await self._database.write(repository.claim, use, "", now_ms())

    async def _wait_elsewhere(self, place: _Place, use: KeyUse) -> str | None:
        """How work ends that another process has begun; None if the key was given back. All who wait look as one.

        Raises:
            Conflict: it has not ended in time.
        """
        looking = self._elsewhere.get(place)
        if looking is None:
            looking = self._elsewhere[place] = asyncio.create_task(self._look(use))
            looking.add_done_callback(partial(self._looked, place))
        return await asyncio.shield(looking)

    def _looked(self, place: _Place, looking: asyncio.Task[str | None]) -> None:
        self._elsewhere.pop(place, None)
        if not looking.cancelled():
            looking.exception()  # it may be that nobody waits any more

    async def _look(self, use: KeyUse) -> str | None:
        pause, left = _FIRST_LOOK_SECONDS, _WAIT_SECONDS
        while left > 0:
            await asyncio.sleep(min(pause, left))
            left -= pause
            pause = min(pause * 2, _LONGEST_LOOK_SECONDS)
            row = await self._database.read(repository.find, use)
            if row is None or row.response is not None:
                return None if row is None else row.response
        raise Conflict(
            "An earlier request with this Idempotency-Key has not ended. "
            "See whether it took effect, then use a new key.",
            code="idempotency_unfinished",
        )

    async def _failed(self, ongoing: _Ongoing, error: BaseException, *, may_repeat: bool) -> None:
        if may_repeat or isinstance(error, CallerError):
            try:
                await self._database.write(repository.release, ongoing.use)
            except Unavailable as away:
                self._remember(ongoing.use, None, away)
            return
        await self._ended(ongoing, dumps([_failure_document(error)]))

    async def _ended(self, ongoing: _Ongoing, response: str) -> None:
        ongoing.response = response
        try:
            await self._database.write(repository.set_response, ongoing.use, response)
        except Unavailable as away:
            self._remember(ongoing.use, response, away)

    def _remember(self, use: KeyUse, response: str | None, away: Unavailable) -> None:
        self._unwritten[use.tenant, use.owner, use.key] = (use, response)
        if len(self._unwritten) > _MOST_UNWRITTEN:
            self._unwritten.popitem(last=False)
        log.warning("idempotency_key_not_written", route=use.route, reason=away.message)


def _check_same(earlier: KeyUse, use: KeyUse) -> None:
    if earlier != use:
        raise repository.reused()


def _failure_document(error: BaseException) -> dict[str, Any]:
    """What is kept of a failure; nothing of one that is not ours, whose text may hold internals."""
    if not isinstance(error, PilothouseError):
        return {"code": "internal", "status": 500, "message": "The server failed."}
    return {"code": error.code, "status": error.status, "message": error.message[:_MESSAGE_CHARS]}


def _answer(response: str) -> dict[str, Any]:
    """The answer that a key stands for: an object as it was given, or in a list the failure there was instead.

    Raises:
        Conflict: the work failed.
    """
    stored = loads(response)
    if isinstance(stored, dict):
        return cast("dict[str, Any]", stored)
    [failure] = cast("list[dict[str, Any]]", stored)
    raise Conflict(
        f"An earlier request with this Idempotency-Key failed ({failure['code']}), and may have taken effect. "
        "See whether it did, then use a new key.",
        code="idempotency_failed",
        failure=failure,
    )


def key_use(tenant: str, owner: str, key: str | None, *, route: str, body: Any) -> KeyUse | None:
    """A checked use of an Idempotency-Key header, or None where there is none.

    Args:
        body: the request as a JSON value; what makes two requests the same.

    Raises:
        InvalidRequest: the key is empty, too long, or holds characters a header shouldn't.
    """
    if key is None:
        return None
    if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise InvalidRequest(
            "Idempotency-Key has 1 to 255 printable ASCII characters.", code="bad_idempotency_key", status=400
        )
    return KeyUse(tenant, owner, key, route, canonical_hash(body))
