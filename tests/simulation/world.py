"""The simulation of one seed: virtual time, two nodes, one database, callers, disasters, and a trace of it all."""

import asyncio
import heapq
import itertools
import random
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from tests.simulation.agent import RUN_SECONDS, Stage, forever
from tests.simulation.callers import Callers
from tests.simulation.checks import Checks
from tests.simulation.ledger import Violation, Work
from tests.simulation.node import Node
from tests.simulation.plan import EXPIRY_SECONDS, REAP_SECONDS, SLOTS, Disaster, Plan, make_plan
from tests.simulation.store import Store
from tests.simulation.virtual import Clock, Recorder, SimLoop, virtual_process

from pilothouse.runs.active import ActiveRun

SETTLE_SECONDS = 4 * RUN_SECONDS + 60
"""After the last fault every run must have ended within this: a queue of three that each meet their time limit."""
TAKEOVER_SECONDS = EXPIRY_SECONDS + REAP_SECONDS + 3
_MOST_STEPS = 400_000


class World:
    """Everything of one seed. `run` plays it; `violation` is the first promise broken, or None."""

    def __init__(self, seed: int, stage: Stage, store: Store, plan: Plan | None = None) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.code_rng = random.Random(seed * 7919 + 1)
        self.stage = stage
        self.store = store
        self.plan = plan or make_plan(self.rng)
        self.clock = Clock()
        self.trace: list[tuple[float, str, str]] = []
        self.violation: Violation | None = None
        self.owners: dict[str, Node] = {}
        self.slots: dict[str, Node | None] = dict.fromkeys(SLOTS)
        self.nodes: list[Node] = []
        self.ledger: list[Work] = []
        self.faulty = True
        self._current: Node | None = None
        self._deaths = 0
        self._burying = False
        self._incarnation = {slot: itertools.count(1) for slot in SLOTS}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._away: list[tuple[float, str | None, bool]] = []  # until, whose, silent
        self._checked_takeovers = False
        self.checks = Checks(self)
        self.outside = SimLoop(self.clock, self._outside_error)
        self.callers = Callers(self)

    # --- time ---

    def at(self, when: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (when, next(self._count), do))

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        self.at(self.clock.now + seconds, do)

    def latency(self) -> float:
        return self.plan.latency * self.rng.uniform(0.2, 2)

    def note(self, text: str, *, node: Node | None = None, **values: Any) -> None:
        """A line of the trace."""
        if self._burying:
            return
        who = node or self._current
        shown = " ".join(f"{name}={value}" for name, value in values.items())
        self.trace.append((self.clock.now, who.name if who is not None else "-", f"{text} {shown}".rstrip()))

    def fail(self, promise: str, what: str) -> None:
        """A promise is broken."""
        if self.violation is None:
            self.violation = Violation(promise, what, self.clock.now)
            self.note(f"VIOLATION {promise}: {what}")

    # --- the play ---

    def run(self) -> Violation | None:
        self.store.reset(self.clock, self.checks)
        self.stage.world = self
        with virtual_process(self.clock, self.code_rng, Recorder(self._log)):
            try:
                for slot in SLOTS:
                    self._start(slot)
                for disaster in self.plan.disasters:
                    self.at(disaster.at, lambda disaster=disaster: self._strike(disaster))
                self.at(self.plan.quiet_at, self._be_quiet)
                self.callers.begin()
                self._play()
                if self.violation is None:
                    self.checks.at_the_end()
            finally:
                self._end()
        return self.violation

    def _play(self) -> None:
        deadline = self.plan.quiet_at + SETTLE_SECONDS
        for _ in range(_MOST_STEPS):
            if self.violation is not None or self._over():
                return
            due = [node for node in self.slots.values() if node is not None and node.working and node.loop.due()]
            if due:
                self._step(due[0] if len(due) == 1 else self.rng.choice(due))
            elif self.outside.due():
                self.outside.step()
            elif not self._advance(deadline):
                self.checks.not_settled()
                return
        self.fail("P1", "the simulation never comes to rest: something spins")

    def _step(self, node: Node) -> None:
        with self._as(node):
            node.loop.step()
        if node.lease is not None:
            node.generation = node.lease.generation

    @contextmanager
    def _as(self, node: Node) -> Iterator[None]:
        """Within the block the clocks are those of a node."""
        clock = self.clock
        self._current, clock.skew, clock.lag = node, node.skew, node.loop.lag
        try:
            yield
        finally:
            self._current, clock.skew, clock.lag = None, 0.0, 0.0

    def _advance(self, deadline: float) -> bool:
        if self._queue and self._queue[0][0] <= self.clock.now:
            heapq.heappop(self._queue)[2]()
            return True
        times = [self._queue[0][0]] if self._queue else []
        loops = [node.loop for node in self.slots.values() if node is not None and node.working]
        times += [when for loop in (*loops, self.outside) if (when := loop.next_timer()) is not None]
        now = min(times, default=deadline + 1)
        self.clock.now = max(self.clock.now, now)
        return now <= deadline

    def _over(self) -> bool:
        return not self.faulty and self.callers.done and self.checks.settled()

    def _end(self) -> None:
        for node in self.nodes:
            if not node.dead:
                self._bury(node)
        self._burying = True
        self.outside.drop()
        self.stage.world = None

    # --- the database ---

    def execute(self, node: Node, work: Callable[[Any], Any], shown: str, *, writes: bool) -> tuple[Any, Any]:
        """Run a unit of work now, for a node."""
        self.checks.begin_transaction(node)
        result, error = None, None
        with self._as(node):
            try:
                result = work(self.store.write if writes else self.store.read)
            except Exception as raised:  # noqa: BLE001 - handed to the node that asked
                error = raised
        self.note(shown if error is None else f"{shown}: {type(error).__name__}", node=node)
        self.checks.end_transaction(committed=error is None and writes)
        return result, error

    def fate_of_call(self, node: Node, name: str) -> str:
        """What happens to a call of the database."""
        if self.plan.script is not None and (scripted := self.plan.script(self.clock.now, node.slot, name)) is not None:
            return scripted
        if not self.faulty or node.stopping:
            return "ok"
        drawn = self.rng.random()
        for kind, rate in self.plan.rates.items():
            if drawn < rate:
                return kind
            drawn -= rate
        return "ok"

    def database_away(self, node: Node) -> bool | None:
        """None if this node can reach the database; otherwise whether its calls hang."""
        for until, slot, silent in self._away:
            if self.clock.now < until and slot in (None, node.slot):
                return silent
        return None

    # --- processes ---

    def _start(self, slot: str) -> None:
        if self.slots[slot] is not None:
            return
        node = Node(self, slot, f"{slot}{next(self._incarnation[slot])}")
        self.slots[slot] = node
        self.nodes.append(node)
        self.note("starts", node=node)

    def crash(self, node: Node, *, restart_seconds: float | None = None) -> bool:
        """kill -9; False if there have been enough deaths."""
        if node.dead or not self.faulty or self._deaths >= self.plan.most_deaths:
            return node.dead
        self._deaths += 1
        self._end_process(node, restart_seconds or self.rng.choice((0.3, 2, 14)))
        return True

    def end_process(self, node: Node, *, restart_seconds: float) -> None:
        """The process ends by itself; another starts in its place."""
        self.after(0, lambda: self._end_process(node, restart_seconds))

    def _end_process(self, node: Node, restart_seconds: float) -> None:
        if node.dead:
            return
        for lost in list(node.requests):
            lost()
        self._bury(node)
        self.slots[node.slot] = None
        self.note(f"is dead, the next starts in {restart_seconds:g} s", node=node)
        self.after(restart_seconds, lambda: self._start(node.slot))

    def _bury(self, node: Node) -> None:
        node.dead, node.died_at, node.ready = True, self.clock.now, False
        for work in self.ledger:
            if work.node is node and work.ended is None:
                work.ended, work.outcome = self.clock.now, "died"
        self._burying = True
        drawn = self.rng.getstate(), self.code_rng.getstate()
        node.loop.drop()
        self.rng.setstate(drawn[0])  # what goes on while Python lets go of a process decides nothing
        self.code_rng.setstate(drawn[1])
        self._burying = False

    def pause(self, node: Node, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        if node.dead or node.paused or not self.faulty:
            return
        node.paused, node.paused_at = True, self.clock.now
        self.note(f"is paused for {seconds:g} s", node=node)
        self.at(min(self.clock.now + seconds, max(self.plan.quiet_at, self.clock.now)), lambda: self._go_on(node))

    def pause_seconds(self) -> float:
        return self.rng.choice(self.plan.pauses)

    def _go_on(self, node: Node) -> None:
        if node.paused:
            node.paused = False
            if self.plan.suspends:
                node.loop.lag += self.clock.now - node.paused_at
            self.note("goes on", node=node)

    def _strike(self, disaster: Disaster) -> None:
        node = self.slots[disaster.slot]
        match disaster.kind:
            case "outage" | "partition":
                slot = disaster.slot if disaster.kind == "partition" else None
                until = min(self.clock.now + disaster.seconds, self.plan.quiet_at)
                self._away.append((until, slot, disaster.silent))
                self.note(f"the database is away until {until:.3f}", whose=slot, silent=disaster.silent)
            case "both_crash":
                for other in list(self.slots.values()):
                    if other is not None:
                        self.crash(other, restart_seconds=disaster.seconds)
            case "crash" if node is not None:
                self.crash(node, restart_seconds=disaster.seconds)
            case "pause" if node is not None:
                self.pause(node, disaster.seconds)
            case "deploy" if node is not None and node.ready and not node.stopping:
                self._deploy(node, disaster.seconds)
            case _:
                return

    def _deploy(self, node: Node, restart_seconds: float) -> None:
        self.note("is told to stop", node=node)
        node.ready = False
        stopping = node.begin(node.stop())
        stopping.add_done_callback(lambda _task: self.end_process(node, restart_seconds=restart_seconds))
        self.after(30, lambda: self.end_process(node, restart_seconds=restart_seconds))

    def _be_quiet(self) -> None:
        self.faulty = False
        self.note("no more faults")
        for node in self.slots.values():
            if node is not None:
                self._go_on(node)
        self._look_for_takeovers()

    def _look_for_takeovers(self) -> None:
        """Once somebody has been there for long enough to take over what the dead left."""
        long_ago = self.clock.now - TAKEOVER_SECONDS
        serving = [node for node in self.slots.values() if node is not None and node.ready]
        if any(max(node.ready_at, self.plan.quiet_at) <= long_ago for node in serving):
            self.checks.takeovers()
        else:
            self.after(1.0, self._look_for_takeovers)

    def tell_nodes(self, tell: Callable[[Node], None], *, but: Node | None = None) -> None:
        """A wake-up to all nodes, each of which it may not reach."""
        if self._burying:
            return
        for node in self.slots.values():
            if node is not None and node.ready and node is not but and self.rng.random() < self.plan.wakeups:
                self.after(self.latency(), lambda node=node: None if node.dead else tell(node))

    # --- the outside world: models, tools ---

    async def work(self, run: ActiveRun, kind: str, name: str, ref: str, *, key: str = "", hangs: float = 0) -> Work:
        """Do something outside that takes a while, under the eyes of the ledger."""
        node = self._current
        assert node is not None
        work = Work(
            kind=kind,
            name=name,
            run_id=run.run_id,
            conversation_id=run.conversation_id,
            ref=ref,
            key=key,
            attempt=run.journal.place.attempt,
            node=node,
            generation=node.lease.generation if node.lease is not None else 0,
            started=self.clock.now,
        )
        self.note(f"{kind} begins", run=run.run_id[-4:], ref=ref, attempt=work.attempt)
        self.checks.begins(work)
        self.ledger.append(work)
        try:
            if self.rng.random() < hangs:
                await forever()
            await asyncio.sleep(self.rng.choice((0, 0.05, 0.3, 1, 2)))
        except asyncio.CancelledError:
            if not node.dead:
                work.ended, work.outcome = self.clock.now, "stopped"
                self.note(f"{kind} is stopped", run=run.run_id[-4:], ref=ref)
            raise
        work.ended, work.outcome = self.clock.now, "done"
        self.note(f"{kind} ends", run=run.run_id[-4:], ref=ref)
        return work

    async def pause_in_stream(self, run: ActiveRun) -> None:
        """Between two pieces of a streamed answer."""
        del run
        if self.rng.random() < 0.5:
            await asyncio.sleep(self.rng.choice((0.01, 0.2, 0.7)))

    # --- requests ---

    async def request(self, slot: str, make: Callable[[Node], Coroutine[Any, Any, Any]], *, patience: float) -> Any:
        """An HTTP request to whatever process is in a slot. Awaited outside.

        Raises:
            ConnectionError: nobody is there, the process ended, or it took too long; the request may have been served.
        """
        await asyncio.sleep(self.latency())
        node = self.slots[slot]
        if node is None or not node.ready:
            raise ConnectionError("refused")
        answer: asyncio.Future[Any] = self.outside.create_future()

        def lost() -> None:
            if not answer.done():
                answer.set_exception(ConnectionError("reset"))

        def done(task: asyncio.Task[Any]) -> None:
            node.requests.pop(lost, None)
            if node.dead:
                return
            error = None if task.cancelled() else task.exception()
            result = None if task.cancelled() or error else task.result()
            self.after(self.latency(), lambda: deliver(result, error))

        def deliver(result: Any, error: BaseException | None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)

        node.requests[lost] = None
        node.begin(make(node)).add_done_callback(done)
        try:
            async with asyncio.timeout(patience):
                return await answer
        except TimeoutError:
            raise ConnectionError("gave up") from None

    def _log(self, level: str, event: str, values: dict[str, Any]) -> None:
        if self._burying:
            return  # what Python makes of the coroutines of a dead process; it says nothing any more
        self.note(f"log {level}: {event}", **{name: value for name, value in values.items() if name != "exc_info"})
        self.checks.logged(level, event, values)

    def _outside_error(self, context: dict[str, Any]) -> None:
        self.fail("simulation", f"{context.get('message')}: {context.get('exception')!r}")
