"""Callers: they chat, stream, leave, come back elsewhere, cancel, answer questions, and talk over each other."""

import asyncio
import random
import zlib
from time import monotonic, time

import aiohttp

from pilothouse.testing.chaos.api import Answer, Api, GaveUp, Stream
from pilothouse.testing.chaos.evidence import Connection, Place, Seen, Sent, Stop
from pilothouse.testing.chaos.scenarios import message_text

_AWAY = (aiohttp.ClientError, TimeoutError, OSError)
_FINAL = frozenset({"run.completed", "run.failed", "run.cancelled"})
_TURNS = 6
_PATIENCE_SECONDS = 300
_MODES = ("whole", "whole", "stream", "stream", "leave", "leave", "leave", "cancel", "cancel", "burst")
_SCENARIOS = ("text", "text", "pure", "put", "chain", "chain", "wide", "wide", "ask", "retry")


class Caller:
    """One person with an agenda of their own. What they learn goes into `sent`."""

    def __init__(self, name: str, api: Api, rng: random.Random, sent: list[Sent]) -> None:
        self._name = name
        self._api = api
        self._rng = rng
        self._sent = sent
        self._count = 0
        self._conversation: str | None = None
        self._turns = 0

    async def until(self, stop: asyncio.Event) -> None:
        """Send one message after the other until told to stop; what was begun is seen to its end."""
        while not stop.is_set():
            mode = self._rng.choice(_MODES)
            if self._turns >= _TURNS:
                self._conversation, self._turns = None, 0
            if mode == "burst" and self._conversation is not None:
                await asyncio.gather(*(self._say("stream", on_busy) for on_busy in self._manners()))
            else:
                await self._say("stream" if mode == "burst" else mode, self._rng.choice(("queue", "interrupt")))
            await asyncio.sleep(self._rng.uniform(0.02, 0.4))

    def _manners(self) -> list[str]:
        return [self._rng.choice(("queue", "interrupt", "reject")) for _ in range(self._rng.randint(2, 3))]

    async def _say(self, mode: str, on_busy: str) -> None:
        self._count += 1
        self._turns += 1
        message = Sent(
            key=f"{self._name}m{self._count}",
            scenario=self._rng.choice(_SCENARIOS),
            mode=mode,
            conversation_id=self._conversation,
            on_busy=on_busy,
        )
        self._sent.append(message)
        conversation = await Conversation(self._api, self._rng, message).hold()
        self._conversation = conversation or self._conversation


class Conversation:
    """One message, from being sent to its end."""

    def __init__(self, api: Api, rng: random.Random, message: Sent) -> None:
        self._api = api
        self._rng = rng
        self._message = message
        self._conversation = message.conversation_id
        self._give_up = monotonic() + _PATIENCE_SECONDS
        self._leave_after = rng.randint(1, 25) if message.mode == "leave" else None
        self._cancel_after = rng.uniform(0, 2.5) if message.mode == "cancel" else None

    async def hold(self) -> str | None:
        """Returns the conversation it took place in, where one is known."""
        message = self._message
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                if message.mode == "whole":
                    await self._ask_whole()
                elif self._cancel_after is None:
                    await self._ask_streamed_and_follow()
                else:
                    await self._ask_and_cancel(self._cancel_after)
        except TimeoutError:
            message.odd.append(f"gave up after {_PATIENCE_SECONDS} s")
        except GaveUp as error:
            message.odd.append(f"gave up: {error}")
        return self._conversation

    async def _ask_whole(self) -> None:
        message, node = self._message, ""
        while monotonic() < self._give_up:
            node = self._api.node(other_than=node)
            try:
                answer = await self._api.once(node, "POST", "/v1/chat", self._body(), key=message.key)
            except _AWAY:
                await self._api.pause()
                continue
            self._note(answer)
            if answer.again:
                await self._api.pause()
            elif answer.status == 202:
                return await self._follow()
            else:
                message.ended = message.run_id is not None
                return None
        raise GaveUp("POST /v1/chat")

    async def _ask_and_cancel(self, seconds: float) -> None:
        reading = asyncio.create_task(self._ask_streamed_and_follow())
        try:
            await asyncio.wait({reading}, timeout=seconds)
            if self._message.run_id is not None and not self._message.ended:
                await self._cancel(self._message.run_id)
            await reading
        finally:
            reading.cancel()

    async def _ask_streamed_and_follow(self) -> None:
        await self._ask_streamed()
        await self._follow()

    async def _ask_streamed(self) -> None:
        """Send the message until a node has taken it."""
        message, node = self._message, ""
        while message.run_id is None and monotonic() < self._give_up:
            node = self._api.node(other_than=node)
            try:
                async with self._api.stream(
                    node, "/v1/chat/stream", self._body(), headers={"Idempotency-Key": message.key}
                ) as stream:
                    if stream.response.status == 200:
                        message.run_id = stream.response.headers["X-Run-ID"]
                        self._conversation = stream.response.headers["X-Conversation-ID"]
                        await self._read(stream, node, None)
                        return
                    answer = await stream.answer()
            except _AWAY:
                await self._api.pause()
                continue
            self._note(answer)
            if message.run_id is None and not answer.again:
                return
            await self._api.pause()

    async def _follow(self) -> None:
        """Read on from the last event, each time at another node, until the run's end."""
        message, node = self._message, ""
        while message.run_id is not None and not message.ended:
            if monotonic() > self._give_up:
                raise GaveUp(f"events of {message.run_id}")
            node = self._api.node(other_than=node)
            after = self._place()
            headers = {"Last-Event-ID": f"{after[0]}-{after[1]}"} if after else {}
            try:
                async with self._api.stream(node, f"/v1/runs/{message.run_id}/events", headers=headers) as stream:
                    if stream.response.status == 200:
                        await self._read(stream, node, after)
                        continue
                    answer = await stream.answer()
            except _AWAY:
                await self._api.pause()
                continue
            if not answer.again:
                message.odd.append(f"events: {answer.status} {answer.code}")
                return
            await self._api.pause()

    async def _read(self, stream: Stream, node: str, after: Place | None) -> None:
        """Take in events until the stream ends, breaks, or the caller leaves."""
        connection = Connection(node, after)
        self._message.connections.append(connection)
        try:
            async for event in stream:
                connection.events.append(event)
                if event.type in _FINAL:
                    self._message.ended = True
                    return
                if event.type == "approval.requested":
                    await self._decide(event)
                if self._leave_after is not None and len(connection.events) >= self._leave_after:
                    self._leave_after = self._rng.choice((None, self._rng.randint(1, 40)))
                    return
        except _AWAY:
            await self._api.pause()

    async def _decide(self, event: Seen) -> None:
        if self._message.run_id is not None:
            await decide(self._api, self._message.run_id, event.data["call_id"])

    async def _cancel(self, run_id: str) -> None:
        asked = time()
        answer = await self._api.ask("POST", f"/v1/runs/{run_id}/cancel")
        if answer.status == 200:
            self._message.stop = Stop(run_id, asked, time(), answer.document["state"])
        else:
            self._message.odd.append(f"cancel: {answer.status} {answer.code}")

    def _note(self, answer: Answer) -> None:
        """What an answer to the message itself says."""
        message, document = self._message, answer.document
        if "run_id" in document:
            message.run_id = document["run_id"]
            self._conversation = document.get("conversation_id", self._conversation)
        elif answer.status in (409, 429) and not answer.again:
            message.refused = answer.code
        elif not answer.again:
            message.odd.append(f"{answer.status} {answer.code}")

    def _body(self) -> dict[str, str]:
        message = self._message
        body = {"message": message_text(message.key, message.scenario), "on_busy": message.on_busy}
        return body if message.conversation_id is None else {**body, "conversation_id": message.conversation_id}

    def _place(self) -> Place | None:
        events = self._message.events
        return events[-1].place if events else None


def approves(call_id: str) -> bool:
    """What a person says to a call: always the same to the same call."""
    return zlib.crc32(call_id.encode()) % 3 > 0


async def decide(api: Api, run_id: str, call_id: str) -> None:
    """Answer a call that waits for a person; one that waits no more has been answered.

    Raises:
        GaveUp: as `Api.ask`.
    """
    body = {"call_id": call_id, "approve": approves(call_id)}
    await api.ask("POST", f"/v1/runs/{run_id}/input", body)
