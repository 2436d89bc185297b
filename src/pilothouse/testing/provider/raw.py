"""Answers that are none, and answers without an end: written as they are made, never whole in memory."""

import asyncio
import math
from collections.abc import Awaitable, Callable

from aiohttp import web

from pilothouse.testing.provider.log import RequestRecord
from pilothouse.testing.provider.script import RawReply

_WRITE_BYTES = 64 * 1024


async def send_raw(request: web.Request, raw: RawReply, *, record: RequestRecord) -> web.StreamResponse:
    """Send the bytes, in HTTP or instead of it."""
    body, record.outcome = raw.body.encode(), "raw"
    if not raw.http:
        return await _send_without_http(request, body)
    response = web.StreamResponse(status=raw.status, headers={"Content-Type": raw.content_type})
    await response.prepare(request)
    if raw.bytes_per_second is not None:
        await _trickle(response.write, body, raw.repeat, raw.bytes_per_second)
    elif body:
        await send_repeating(response, body, raw.repeat)
    await response.write_eof()
    return response


async def send_repeating(response: web.StreamResponse, data: bytes, times: int | None) -> None:
    """Write `data` so many times, or for ever, in pieces of about 64 KiB."""
    block = max(1, _WRITE_BYTES // max(1, len(data)))
    left = math.inf if times is None else times
    while left > 0:
        count = int(min(left, block))
        await response.write(data * count)
        left -= count
        await asyncio.sleep(0)  # a reader that is as fast as we must not keep others waiting


async def _trickle(
    write: Callable[[bytes], Awaitable[None]], data: bytes, times: int | None, bytes_per_second: float
) -> None:
    done = 0
    while times is None or done < times:
        for position in range(len(data)):
            await write(data[position : position + 1])
            await asyncio.sleep(1 / bytes_per_second)
        done += 1


async def _send_without_http(request: web.Request, body: bytes) -> web.StreamResponse:
    transport = request.transport
    if transport is not None:
        transport.write(body)
        transport.close()
    while True:  # until the connection is gone, which cancels us
        await asyncio.get_running_loop().create_future()
