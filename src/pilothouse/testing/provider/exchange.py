"""One answer on its way: delays, gates, pacing, tokens, and the ways in which it can go wrong."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import NoReturn

from aiohttp import web

from pilothouse.testing.provider.answer import Usage, report_usage
from pilothouse.testing.provider.errors import FAKE_SECRET
from pilothouse.testing.provider.frames import Frames, dump, number_in
from pilothouse.testing.provider.gates import Gates
from pilothouse.testing.provider.log import RequestRecord
from pilothouse.testing.provider.prompt import Prompt
from pilothouse.testing.provider.raw import send_raw, send_repeating
from pilothouse.testing.provider.script import ErrorReply
from pilothouse.testing.provider.selection import Selected
from pilothouse.testing.provider.wire import Wire

_WRITE_SIZE = 64 * 1024
_MARK = "<LAST~TOKEN>"
_JSON = {"Content-Type": "application/json"}
_EVENTS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}

# Timers may fire a fraction of a token early (uvloop counts in milliseconds); then the token goes now.
_EARLY = 0.05

_Stop = tuple[int, Callable[[], Awaitable[bool]]]


@dataclass(slots=True)
class Exchange:
    """A request, the turn that answers it, and what is needed to send it.

    The client's disconnect cancels the task that runs `respond`.
    """

    request: web.Request
    wire: Wire
    prompt: Prompt
    selected: Selected
    record: RequestRecord
    gates: Gates

    async def respond(self) -> web.StreamResponse:
        """Send the answer to its end and set the record's outcome."""
        turn = self.selected.turn
        if turn.gate is not None and turn.gate_after_tokens is None:
            await self.gates.pass_through(turn.gate)
        if turn.delay:
            await asyncio.sleep(turn.delay)
        if turn.hang:
            await _forever()
        if turn.raw is not None:
            return await send_raw(self.request, turn.raw, record=self.record)
        if turn.error is not None and (turn.error.after_tokens is None or not self.prompt.stream):
            return await send_error(self.request, self.wire, turn.error, record=self.record)
        if self.prompt.stream:
            return await _Stream(self).send()
        return await self._send_whole()

    @property
    def usage(self) -> Usage:
        """The counts this answer reports."""
        turn, answer = self.selected.turn, self.selected.answer
        return report_usage(turn.usage, answer, input_tokens=self.prompt.input_tokens)

    async def _send_whole(self) -> web.StreamResponse:
        turn, answer = self.selected.turn, self.selected.answer
        duration = turn.first_token_delay
        if turn.tokens_per_second:
            duration += answer.token_count / turn.tokens_per_second
        if duration:
            await asyncio.sleep(duration)
        if turn.gate is not None and turn.gate_after_tokens is not None:
            await self.gates.pass_through(turn.gate)
        if turn.hang_after_tokens is not None:
            await _forever()
        body = number_in(self.wire.whole(self.prompt, answer, self.usage), self.record.index)
        if turn.malformed_chunk:
            body = body[: len(body) // 2] + FAKE_SECRET.encode()
        response = web.Response(body=body, headers=_request_id(_JSON, self.record.index))
        if turn.cut_after_tokens is not None:
            await self._cut_whole(response, body)
        if turn.repeat_last_token:
            return await self._send_whole_repeating()
        await _send(self.request, response)
        self.record.tokens_sent = answer.token_count
        self.record.outcome = "malformed" if turn.malformed_chunk else "completed"
        return response

    async def _send_whole_repeating(self) -> web.StreamResponse:
        """The last token stands for itself and all that repeat it, so that the answer is never whole in memory."""
        answer = self.selected.answer
        last, times = answer.text[-1], self.selected.turn.repeat_last_token
        marked = replace(answer, text=(*answer.text[:-1], _MARK))
        body = number_in(self.wire.whole(self.prompt, marked, self.usage), self.record.index)
        head, _, tail = body.partition(_MARK.encode())
        response = web.StreamResponse(headers=_request_id(_JSON, self.record.index))
        await response.prepare(self.request)
        await response.write(head + dump(last)[1:-1])
        await send_repeating(response, dump(last)[1:-1], None if times == "forever" else times)
        await response.write_eof(tail)
        self.record.outcome = "completed"
        return response

    async def _cut_whole(self, promised: web.Response, body: bytes) -> NoReturn:
        response = web.StreamResponse(headers=promised.headers)
        response.content_length = len(body)
        await response.prepare(self.request)
        await response.write(body[: len(body) // 2])
        await cut(self.request, self.record)


class _Stream:
    """A streamed answer."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._turn = exchange.selected.turn
        self._record = exchange.record
        self._wire = exchange.wire
        self._frames = _frames(exchange)
        self._total = exchange.selected.answer.token_count
        self._response = web.StreamResponse(headers=_request_id(_EVENTS, exchange.record.index))

    async def send(self) -> web.StreamResponse:
        await self._response.prepare(self._exchange.request)
        if self._is_plain():
            await self._end(self._frames.head + self._frames.body + self._frames.tail, tokens=self._total)
            return self._response
        await self._response.write(self._frames.head)
        if self._turn.first_token_delay:
            await asyncio.sleep(self._turn.first_token_delay)
        for position, stop in self._stops():
            await self._send_tokens(min(position, self._total))
            if await stop():
                return self._response
        await self._send_tokens(self._total)
        if times := self._turn.repeat_last_token:
            last = self._frames.between(self._total - 1, self._total)
            await send_repeating(self._response, last, None if times == "forever" else times)
        await self._end(self._frames.tail, tokens=self._total)
        return self._response

    def _is_plain(self) -> bool:
        """Whether the stream may go out in one write."""
        turn = self._turn
        is_paced = turn.tokens_per_second is not None or turn.first_token_delay > 0 or turn.repeat_last_token
        return not is_paced and len(self._frames.body) <= _WRITE_SIZE and not self._stops()

    def _stops(self) -> list[_Stop]:
        """Where the stream does something else than send tokens, in order; true from one is the end."""
        turn = self._turn
        stops: list[_Stop] = []
        if turn.gate is not None and turn.gate_after_tokens is not None:
            stops.append((turn.gate_after_tokens, self._wait_at_gate))
        if turn.hang_after_tokens is not None:
            stops.append((turn.hang_after_tokens, _forever))
        if turn.malformed_chunk:
            stops.append((1, self._break_off_malformed))
        if turn.error is not None and turn.error.after_tokens is not None:
            stops.append((turn.error.after_tokens, self._break_off_with_error))
        if turn.cut_after_tokens is not None:
            stops.append((turn.cut_after_tokens, self._cut))
        return sorted(stops, key=lambda stop: stop[0])

    async def _send_tokens(self, until: int) -> None:
        if self._turn.tokens_per_second is None:
            await self._send_fast(until)
        else:
            await self._send_paced(until, self._turn.tokens_per_second)

    async def _send_fast(self, until: int) -> None:
        frames, record = self._frames, self._record
        while record.tokens_sent < until:
            start = record.tokens_sent
            fitting = frames.tokens_within(frames.offset(start) + _WRITE_SIZE)
            stop = min(until, max(fitting, start + 1))
            await self._response.write(frames.between(start, stop))
            record.tokens_sent = stop

    async def _send_paced(self, until: int, rate: float) -> None:
        """Send tokens when due by the clock, not after fixed pauses: a late stream catches up."""
        loop, record = asyncio.get_running_loop(), self._record
        first, begun = record.tokens_sent, loop.time()
        while record.tokens_sent < until:
            due = min(until, first + int((loop.time() - begun) * rate + _EARLY) + 1)
            if due > record.tokens_sent:
                await self._response.write(self._frames.between(record.tokens_sent, due))
                record.tokens_sent = due
            if due < self._total:
                await asyncio.sleep(begun + (due - first) / rate - loop.time())

    async def _wait_at_gate(self) -> bool:
        await self._exchange.gates.pass_through(self._turn.gate or "")
        return False

    async def _break_off_malformed(self) -> bool:
        await self._end(self._wire.malformed_event(), tokens=self._record.tokens_sent, outcome="malformed")
        return True

    async def _break_off_with_error(self) -> bool:
        error = self._turn.error or ErrorReply()
        event = self._wire.error_event(error)
        await self._end(event, tokens=self._record.tokens_sent, outcome=f"error {error.status}")
        return True

    async def _cut(self) -> bool:
        await cut(self._exchange.request, self._record)

    async def _end(self, data: bytes, *, tokens: int, outcome: str = "completed") -> None:
        await self._response.write_eof(data)
        self._record.tokens_sent = tokens
        self._record.outcome = outcome


async def send_error(
    request: web.Request, wire: Wire, error: ErrorReply, *, record: RequestRecord
) -> web.StreamResponse:
    """Answer with an error in the shape of the wire and note it in the record."""
    headers = _request_id(_JSON, record.index)
    if error.retry_after is not None:
        headers["Retry-After"] = f"{error.retry_after:g}"
    response = web.Response(status=error.status, body=wire.error(error), headers=headers)
    await _send(request, response)
    record.outcome = f"error {error.status}"
    return response


async def cut(request: web.Request, record: RequestRecord) -> NoReturn:
    """Close the connection after what was written, without the end that HTTP asks for."""
    record.outcome = "cut"
    if request.transport is not None:
        request.transport.close()
    await _forever()


def _frames(exchange: Exchange) -> Frames:
    prompt, selected, wire = exchange.prompt, exchange.selected, exchange.wire
    usage = exchange.usage
    body = selected.encode(wire, prompt.model)
    tail = wire.tail(prompt, selected.answer, usage)
    return body.frames(wire.head(prompt, usage), tail, number=exchange.record.index)


async def _send(request: web.Request, response: web.Response) -> None:
    await response.prepare(request)
    await response.write_eof()


async def _forever() -> NoReturn:
    """Wait until cancelled, which the client's disconnect does."""
    while True:
        await asyncio.get_running_loop().create_future()


def _request_id(headers: dict[str, str], number: int) -> dict[str, str]:
    request_id = f"req_{number:08d}"
    return {**headers, "x-request-id": request_id, "request-id": request_id}
