"""Idempotency at the HTTP edge. Needs `app.state.idempotency`, an `Idempotency`."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, cast

from fastapi import Depends, Header, Request

from pilothouse.http.presence import while_connected
from pilothouse.idempotency.repository import KeyUse
from pilothouse.idempotency.service import Idempotency

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="1 to 255 characters of your choice. The same key with the same body is answered with the same "
        "thing, however often it is sent; with another body it is refused (422 `idempotency_key_reused`).",
    ),
]


class OnceForRequest:
    """`Idempotency.once` for one request: it waits for an earlier one only while its client is there."""

    def __init__(self, request: Request) -> None:
        self._idempotency = cast("Idempotency", request.app.state.idempotency)
        self._waits = partial(while_connected, request.receive)

    async def once(
        self, use: KeyUse | None, work: Callable[[], Awaitable[dict[str, Any]]], *, may_repeat: bool = False
    ) -> dict[str, Any]:
        """See `Idempotency.once`.

        Raises:
            ClientDisconnect: the client has left while it waited.
        """
        return await self._idempotency.once(use, work, may_repeat=may_repeat, waits=self._waits)


async def _once(request: Request) -> OnceForRequest:
    return OnceForRequest(request)


Once = Annotated[OnceForRequest, Depends(_once)]
