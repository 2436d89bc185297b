"""Waiting for as long as the client is there."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from pilothouse.kit.timeouts import expire

T = TypeVar("T")


async def while_connected(receive: Receive, waiting: Awaitable[T]) -> T:
    """What `waiting` gives. It is cancelled if the client leaves before.

    Args:
        receive: of the request, whose body has been read.
        waiting: something that may be cancelled.

    Raises:
        ClientDisconnect: the client has left.
    """
    presence = asyncio.timeout(None)
    try:
        async with presence:
            listener = asyncio.create_task(wait_for_leave(receive, presence))
            try:
                return await waiting
            finally:
                listener.cancel()
    except TimeoutError:
        if not presence.expired():
            raise
        raise ClientDisconnect from None


async def wait_for_leave(receive: Receive, presence: asyncio.Timeout) -> None:
    """Let `presence` expire when the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        continue
    expire(presence)
