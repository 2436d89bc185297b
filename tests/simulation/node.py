"""A node of a simulation: the real parts of a server process on an event loop, a database and wake-ups of its own."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from tests.simulation.plan import CALL_LIMIT_SECONDS, EXPIRY_SECONDS, HEARTBEAT_SECONDS, REAP_SECONDS
from tests.simulation.virtual import SimLoop

from pilothouse.engine.leases import Lease
from pilothouse.engine.supervisor import Supervisor
from pilothouse.errors import PilothouseError, Unavailable
from pilothouse.runs.deltas import DeltaWriter
from pilothouse.runs.execute import Executor
from pilothouse.runs.follow import Follower
from pilothouse.runs.live import LiveRuns
from pilothouse.runs.reaper import Reaper
from pilothouse.runs.service import Runs

if TYPE_CHECKING:
    from tests.simulation.world import World

GRACE_SECONDS = 2.0


class Node:
    """One process, from its start to its end. A slot's next process is another `Node`."""

    def __init__(self, world: "World", slot: str, name: str) -> None:
        self.world = world
        self.slot = slot
        self.name = name
        self.skew = world.plan.skews[slot]
        self.loop = SimLoop(world.clock, self._loop_error)
        self.dead = False
        self.died_at: float | None = None
        self.paused = False
        self.paused_at = 0.0
        self.ready = False
        self.ready_at = 0.0
        self.stopping = False
        self.requests: dict[Callable[[], None], None] = {}  # in order, as a set would not be
        self.database = SimDatabase(world, self)
        self.lease: Lease | None = None
        self.generation = 0
        with self.loop.entered():
            self.main = self.loop.create_task(self._live(), name="main")

    @property
    def working(self) -> bool:
        """Whether it may run its next step now."""
        return not self.dead and not self.paused

    async def _live(self) -> None:
        try:
            await self._start()
        except PilothouseError as error:
            self.world.note(f"could not start: {error.message}")
            self.world.end_process(self, restart_seconds=1.0)
            return
        self.ready, self.ready_at = True, self.world.clock.now
        self.world.note("serves")

    async def _start(self) -> None:
        world, database, stage = self.world, self.database, self.world.stage
        self.supervisor = Supervisor(clock=self.loop.time)
        lease = Lease(
            database,
            self.supervisor,
            heartbeat_seconds=HEARTBEAT_SECONDS,
            expiry_seconds=EXPIRY_SECONDS,
            clock=lambda: world.clock.now,  # as CLOCK_BOOTTIME: it goes on while the machine is suspended
        )
        world.owners[lease.owner] = self
        await lease.start()
        self.lease = lease
        self.live = LiveRuns(announce=self._run_changed)
        self.deltas = DeltaWriter(database, interval_seconds=stage.settings.runs.delta_flush_seconds)
        self.supervisor.start("delta-writer", self.deltas.round)
        self.executor = Executor(
            database=database,
            agents=stage.registry,
            gateway=stage.gateway,
            live=self.live,
            deltas=self.deltas,
            ownership=lease,
            default_model=None,
        )
        self.reaper = Reaper(database, self.executor, alone=False, interval_seconds=REAP_SECONDS, clock=self.loop.time)
        self.follower = Follower(database, self.live)
        queue_length = stage.settings.runs.queue_length
        self.runs = Runs(database, self.executor, self.follower, self, queue_length=queue_length)
        await self.reaper.once()
        self.supervisor.start("reaper", self.reaper.round)

    async def stop(self) -> None:
        """As SIGTERM: hand over, then end."""
        self.stopping = True
        try:
            await self.executor.close(grace_seconds=GRACE_SECONDS)
            self.reapers_look()
            await self.deltas.write_all()
            self.follower.close()
            await self.lease.close()  # type: ignore[union-attr]
            await self.supervisor.close()
        except PilothouseError as error:
            self.world.note(f"stopped badly: {error.message}")

    def begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task in this process."""
        with self.loop.entered():
            return self.loop.create_task(work)

    # --- the Wakeups port ---

    def run_changed(self, run_id: str) -> None:
        self._run_changed(run_id)

    def reapers_look(self) -> None:
        self.world.tell_nodes(lambda node: node.reaper.look())

    def _run_changed(self, run_id: str) -> None:
        self.world.tell_nodes(lambda node: node.live.look(run_id), but=self)

    def _loop_error(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.world.fail("unhandled", f"{self.name}: {context.get('message')}: {error!r}")


class SimDatabase:
    """The `Database` port over the simulation's network: every call meets what the seed has for it."""

    dialect = "sqlite"

    def __init__(self, world: "World", node: Node) -> None:
        self._world = world
        self._node = node

    async def read(self, unit: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._call(False, unit, args, kwargs)

    async def write(self, unit: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._call(True, unit, args, kwargs)

    async def close(self) -> None:
        pass

    async def _call(self, writes: bool, unit: Any, args: Any, kwargs: Any) -> Any:
        if self._node.dead:
            raise Unavailable("The process is dead.")
        call = Call(self._world, self._node, unit, lambda run: run(unit, *args, **kwargs), writes=writes)
        try:
            return await call.future
        except asyncio.CancelledError:
            call.abandoned = True
            raise


class Call:
    """One unit of work on its way to the database and back."""

    def __init__(self, world: "World", node: Node, unit: Any, work: Callable[[Any], Any], *, writes: bool) -> None:
        self._world = world
        self._node = node
        self._work = work
        self._writes = writes
        self._name = unit.__name__.lstrip("_")
        self._shown = f"{'writes' if writes else 'reads'} {self._name}"
        self._sent = world.clock.now
        self.abandoned = False
        self.future: asyncio.Future[Any] = node.loop.create_future()
        self._fate = world.fate_of_call(node, self._name)
        world.after(world.latency() + self._slowness("slow"), self._arrive)

    def _arrive(self) -> None:
        world, node, fate = self._world, self._node, self._fate
        if (node.dead or self.abandoned) and world.rng.random() < 0.5:
            return  # it never left, or its statement was cancelled
        if (silent := world.database_away(node)) is not None:
            self._shown += " (away)"
            self._fail_later(hangs=silent)
            return
        if fate in ("refused", "hangs"):
            self._shown += f" ({fate})"
            self._fail_later(hangs=fate == "hangs")
            return
        if fate == "crash_before" and world.crash(node):
            return
        if fate == "pause_before":
            world.pause(node, world.pause_seconds())
        self._execute()

    def _execute(self) -> None:
        world, node, fate = self._world, self._node, self._fate
        result, error = world.execute(node, self._work, self._shown, writes=self._writes)
        if fate in ("unanswered", "hangs_written"):
            self._shown += f" ({fate})"
            self._fail_later(hangs=fate == "hangs_written")
            return
        if fate == "crash_after" and world.crash(node):
            return
        if fate == "pause_after":
            world.pause(node, world.pause_seconds())
        world.after(world.latency() + self._slowness("late"), lambda: self._settle(result, error))

    def _slowness(self, fate: str) -> float:
        return self._world.rng.uniform(*self._world.plan.slowness) if self._fate == fate else 0

    def _fail_later(self, *, hangs: bool) -> None:
        self._world.note(self._shown, node=self._node)
        failure = Unavailable("The database can't be reached right now.", code="database_unavailable")
        wait = self._sent + CALL_LIMIT_SECONDS - self._world.clock.now if hangs else self._world.latency()
        self._world.after(max(wait, 0), lambda: self._settle(None, failure))

    def _settle(self, result: Any, error: BaseException | None) -> None:
        if self._node.dead or self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)
