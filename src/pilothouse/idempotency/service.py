"""Do a piece of work once for a key."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy.exc import IntegrityError

from pilothouse.db import Database
from pilothouse.errors import CallerError, Conflict, InvalidRequest
from pilothouse.idempotency import repository
from pilothouse.idempotency.repository import KeyUse
from pilothouse.kit.clock import now_ms
from pilothouse.kit.jsons import canonical_hash, dumps, loads

_WAIT_SECONDS = 10.0
_LOOK_SECONDS = 0.05


class Idempotency:
    """Answers repeated requests from what the first one answered. Runs have their own way: see `runs.admit`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def once(self, use: KeyUse | None, work: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        """The result of `work`, a JSON object, or that of an earlier request with the same key and body.

        A request that fails by its caller's fault gives the key back. One that comes while the first is still being
        worked on waits for it.

        Raises:
            InvalidRequest: the key was used for something else.
            Conflict: the first request did not end (its process died); whether it took effect has to be looked up.
        """
        if use is None:
            return await work()
        earlier = await self._claim(use)
        if earlier is not None:
            return earlier
        try:
            result = await work()
        except CallerError:
            await self._database.write(repository.release, use)
            raise
        await self._database.write(repository.set_response, use, dumps(result))
        return result

    async def _claim(self, use: KeyUse) -> dict[str, Any] | None:
        """None where the work is ours to do, otherwise the answer of who does it or did it."""
        give_up = now_ms() + round(_WAIT_SECONDS * 1000)
        while now_ms() < give_up:
            try:
                row = await self._database.write(repository.claim, use, "", now_ms())
            except IntegrityError:
                continue
            if row is None:
                return None
            if row.response is not None:
                return loads(row.response)
            await asyncio.sleep(_LOOK_SECONDS)
        raise Conflict(
            "An earlier request with this Idempotency-Key has not ended. "
            "See whether it took effect, then use a new key.",
            code="idempotency_unfinished",
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
