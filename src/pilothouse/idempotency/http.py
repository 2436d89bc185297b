"""Idempotency at the HTTP edge. Needs `app.state.idempotency`, an `Idempotency`."""

from typing import Annotated, cast

from fastapi import Depends, Header, Request

from pilothouse.idempotency.service import Idempotency

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="1 to 255 characters of your choice. The same key with the same body is answered with the same "
        "thing, however often it is sent; with another body it is refused (422 `idempotency_key_reused`).",
    ),
]


async def _idempotency(request: Request) -> Idempotency:
    return cast("Idempotency", request.app.state.idempotency)


Once = Annotated[Idempotency, Depends(_idempotency)]
