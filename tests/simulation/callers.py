"""The callers of a simulation: they send, follow, leave, come back elsewhere, answer and cancel."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.simulation.agent import TOOLS

from pilothouse.errors import CallerError, Conflict, TooMany, Unavailable
from pilothouse.idempotency.repository import KeyUse
from pilothouse.identity.principal import local_principal
from pilothouse.runs.admit import NewRun
from pilothouse.runs.events import START, EventPlace, RunEvent
from pilothouse.runs.states import TERMINAL, OnBusy

if TYPE_CHECKING:
    from tests.simulation.node import Node
    from tests.simulation.world import World

ME = local_principal()
_LOOK_SECONDS = 0.7


@dataclass
class Sent:
    """A message that was accepted."""

    name: str
    run_id: str
    conversation_id: str
    streams: bool
    thinks: float
    """How long its person takes to answer a question, seconds."""
    seen: list[RunEvent] = field(default_factory=list)
    whole: bool = False
    """Whether `seen` is all of the log, from its start to its end."""


class Connection:
    """An event stream from a node to a caller: in order, late, and gone with its node."""

    def __init__(self, world: "World", node: "Node", run_id: str, after: EventPlace) -> None:
        self._world = world
        self._node = node
        self._arrived: asyncio.Queue[list[RunEvent] | None] = asyncio.Queue()
        self._last = 0.0
        node.requests[self._end] = None
        self._task = node.begin(self._serve(run_id, after))
        self._task.add_done_callback(self._served)

    async def batches(self) -> AsyncIterator[list[RunEvent]]:
        try:
            while (batch := await self._arrived.get()) is not None:
                yield batch
        finally:
            self._node.requests.pop(self._end, None)
            if not self._node.dead:
                self._world.after(self._world.latency(), self._task.cancel)

    async def _serve(self, run_id: str, after: EventPlace) -> None:
        async with aclosing(self._node.runs.follow(ME, run_id, after)) as batches:
            async for batch in batches:
                self._world.checks.shown(run_id, batch)
                self._send(batch)

    def _served(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()
        if not self._node.dead:
            self._send(None)

    def _send(self, batch: list[RunEvent] | None) -> None:
        self._last = max(self._last, self._world.clock.now + self._world.latency())
        self._world.at(self._last, lambda: self._arrived.put_nowait(batch))

    def _end(self) -> None:
        self._arrived.put_nowait(None)


class Callers:
    """All callers of a seed."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._tasks: list[asyncio.Task[Any]] = []
        self._conversations: list[str] = []
        self._story: Callable[[Callers], Awaitable[None]] | None = None
        self.sent: list[Sent] = []

    def follow_story(self, story: "Callable[[Callers], Awaitable[None]]") -> None:
        """One caller that does this, instead of those of the plan."""
        self._story = story

    @property
    def done(self) -> bool:
        return all(task.done() for task in self._tasks)

    def begin(self) -> None:
        with self._world.outside.entered():
            if self._story is not None:
                self._do(self._story(self))
                return
            for number in range(self._world.plan.clients):
                self._do(self._caller(number))

    def _do(self, work: Any) -> asyncio.Task[Any]:
        task = self._world.outside.create_task(work)
        self._tasks.append(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._world.fail("caller", repr(error))

    async def _caller(self, number: int) -> None:
        world, rng = self._world, self._world.rng
        await asyncio.sleep(rng.uniform(0, 2))
        conversation = rng.choice(self._conversations) if self._conversations and rng.random() < 0.5 else None
        for turn in range(world.plan.messages):
            sent = await self._send(f"m{number}.{turn}", conversation)
            if sent is not None:
                conversation = sent.conversation_id
                self._conversations.append(conversation)
                watching = self._attend(sent)
                if rng.random() < 0.4:
                    await asyncio.wait(watching)
            await asyncio.sleep(rng.choice((0, 0.1, 1, 4)))

    def _attend(self, sent: Sent) -> list[asyncio.Task[Any]]:
        rng = self._world.rng
        tasks = [self._do(self._answer(sent))]
        if rng.random() < 0.6:
            tasks.append(self._do(self._follow(sent)))
        if rng.random() < 0.35:
            for _ in range(rng.choice((1, 1, 2))):
                tasks.append(self._do(self._cancel(sent, rng.choice((0, 0.02, 0.3, 1, 3, 9)))))
        return tasks

    # --- what one caller does ---

    async def _send(self, name: str, conversation: str | None) -> Sent | None:
        rng = self._world.rng
        return await self.send(
            name,
            self._script(),
            conversation=conversation,
            on_busy=rng.choice(("reject", "queue", "queue", "interrupt")),
            stream=rng.random() < 0.5,
            waits=rng.random() < 0.2,
            thinks=rng.choice((0, 0, 0, 1, 25)),
        )

    async def send(
        self,
        name: str,
        script: str,
        *,
        conversation: str | None = None,
        on_busy: OnBusy = "queue",
        stream: bool = False,
        waits: bool = False,
        thinks: float = 0,
        slot: str | None = None,
    ) -> Sent | None:
        """Send a message until it is accepted, always with the same key; None if it is turned away."""
        world, rng = self._world, self._world.rng
        new = NewRun(
            principal=ME,
            agent=world.stage.agent,
            message=f"{name} {script}",
            conversation_id=conversation,
            on_busy=on_busy,
            stream=stream,
            key_use=KeyUse(ME.tenant, ME.subject, name, "/v1/chat", name),
        )
        while True:
            try:
                accepted = await world.request(
                    slot or self._slot(),
                    lambda node, waits=waits: _start(node, new, waits=waits),
                    patience=rng.choice((3, 10, 40)),
                )
            except (ConnectionError, Unavailable):
                waits = False
                await asyncio.sleep(rng.choice((0.05, 0.5, 2)))
                continue
            except (Conflict, TooMany) as error:
                world.note(f"{name} is turned away: {error.code}")
                return None
            world.note(f"{name} is accepted", run=accepted.run_id[-4:], state=accepted.state)
            sent = Sent(name, accepted.run_id, accepted.conversation_id, stream, thinks)
            world.checks.accepted(sent)
            self.sent.append(sent)
            return sent

    def _script(self) -> str:
        rng = self._world.rng
        rounds = [
            ",".join(rng.choice(list(TOOLS)) for _ in range(rng.choice((1, 1, 2))))
            for _ in range(rng.choice((0, 1, 2)))
        ]
        return "/".join(rounds)

    async def _follow(self, sent: Sent) -> None:
        world, rng = self._world, self._world.rng
        place: EventPlace = START
        while True:
            node = world.slots[self._slot()]
            await asyncio.sleep(world.latency())
            if node is None or not node.ready:
                await asyncio.sleep(0.3)
                continue
            leaves_after = rng.choice((1, 2, 5, 1000, 1000))
            async with aclosing(Connection(world, node, sent.run_id, place).batches()) as batches:
                async for batch in self._patiently(batches):
                    for event in batch:
                        if event.place <= place:
                            world.fail("P4", f"event {event.id} of {sent.name} came again, after {place}")
                        place = event.place
                        sent.seen.append(event)
                    if batch and batch[-1].final:
                        sent.whole = True
                        return
                    leaves_after -= len(batch)
                    if leaves_after <= 0:
                        break
            await asyncio.sleep(rng.choice((0.05, 0.3, 2)))

    async def _patiently(self, batches: AsyncIterator[list[RunEvent]]) -> AsyncIterator[list[RunEvent]]:
        """Callers don't listen to silence for ever (a live server sends heartbeats)."""
        while True:
            try:
                async with asyncio.timeout(15):
                    batch = await anext(batches, None)
            except TimeoutError:
                return
            if batch is None:
                return
            yield batch

    async def _answer(self, sent: Sent) -> None:
        world, rng = self._world, self._world.rng
        while world.checks.state(sent.run_id) not in TERMINAL:
            await asyncio.sleep(_LOOK_SECONDS)
            waiting = world.checks.waiting(sent.run_id)
            if waiting and sent.thinks:
                await asyncio.sleep(sent.thinks)
            for call_id in waiting:
                yes = hash_of(call_id) % 2 == 0
                try:
                    await world.request(
                        self._slot(),
                        lambda node, call_id=call_id, yes=yes: node.runs.answer(
                            ME, sent.run_id, call_id=call_id, approve=yes
                        ),
                        patience=rng.choice((3, 10)),
                    )
                except (ConnectionError, Unavailable, CallerError):
                    continue

    async def _cancel(self, sent: Sent, wait: float) -> None:
        world, rng = self._world, self._world.rng
        await asyncio.sleep(wait)
        while True:
            try:
                await world.request(
                    self._slot(), lambda node: _cancel(world, node, sent.run_id), patience=rng.choice((3, 40))
                )
            except (ConnectionError, Unavailable):
                await asyncio.sleep(rng.choice((0.05, 0.5, 2)))
                continue
            return

    def _slot(self) -> str:
        return self._world.rng.choice(("a", "b"))


async def _start(node: "Node", new: NewRun, *, waits: bool) -> Any:
    accepted = await node.runs.start(new)
    if waits:
        await node.runs.wait(ME, accepted)
    return accepted


async def _cancel(world: "World", node: "Node", run_id: str) -> None:
    cancelled = await node.runs.cancel(ME, run_id)
    world.note(f"cancel of {run_id[-4:]} is acknowledged: {cancelled.state}")
    world.checks.acknowledged(run_id, cancelled)


def hash_of(text: str) -> int:
    """The same in every process."""
    return sum(ord(letter) * (index + 7) for index, letter in enumerate(text))
