"""Execution: which runs this process executes, how they begin or are continued, and how they are stopped."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import structlog
from sqlalchemy.exc import IntegrityError

from pilothouse.agents.registry import AgentRegistry
from pilothouse.db import Database
from pilothouse.engine.leases import Ownership
from pilothouse.errors import PilothouseError, RunFailure, Unavailable
from pilothouse.identity.principal import Principal
from pilothouse.llm.gateway import ModelGateway
from pilothouse.observability.logs import get_logger
from pilothouse.runs import ownership_repository
from pilothouse.runs.active import ActiveRun, Lapsed, failure_document, never_lapsed
from pilothouse.runs.admit import Admitted, NewRun
from pilothouse.runs.attempt import AgentLoop, Outcome
from pilothouse.runs.deltas import DeltaWriter
from pilothouse.runs.end import end_by_rows
from pilothouse.runs.errors import Fenced, HandOver, internal, poisoned
from pilothouse.runs.history import Histories
from pilothouse.runs.isolation import Isolation
from pilothouse.runs.live import LiveRuns
from pilothouse.runs.load import RunLoader
from pilothouse.runs.resume import Resumption, take_over
from pilothouse.tools.policy import ToolPolicy
from pilothouse.tools.toolsets import default_policy

log = get_logger(__name__)

CANCELLED_BY_CALLER = "cancelled by its caller"

_MOST_CRASHES_ALONE = 4
_ALONE_SECONDS = 10.0


class Executor:
    """Executes runs in this process. One instance serves all agents.

    Args:
        ownership: this process's standing; its owner id is stamped on the runs it takes.
        lapsed: whether the credential that started a run is still good, asked before an approved call is made.
    """

    def __init__(
        self,
        *,
        database: Database,
        agents: AgentRegistry,
        gateway: ModelGateway,
        live: LiveRuns,
        deltas: DeltaWriter,
        ownership: Ownership,
        default_model: str | None,
        lapsed: Lapsed = never_lapsed,
    ) -> None:
        self._database = database
        self._agents = agents
        self._live = live
        self._ownership = ownership
        self.isolation = Isolation()
        self._agent_loop = AgentLoop(gateway, Histories(database), default_model, self.isolation)
        self._loader = RunLoader(
            database=database,
            agents=agents,
            live=live,
            deltas=deltas,
            ownership=ownership,
            history_tokens=self._agent_loop.history_tokens,
            on_written=self._written,
            lapsed=lapsed,
        )
        self._tasks: dict[str, asyncio.Task[Outcome | None]] = {}
        self._runs: dict[str, ActiveRun] = {}
        self._next: set[asyncio.Task[Any]] = set()
        self.stopping = False
        self._released = False

    # --- what others ask of it ---

    def start(self, new: NewRun, admitted: Admitted, generation: int) -> asyncio.Task[Outcome | None]:
        """Execute a run that was just admitted as running.

        Args:
            generation: of this process's standing before the admission: if it has lapsed since, the run passes its
                fence before it begins.
        """
        return self._spawn(self._loader.admitted(new, admitted, generation=generation))

    async def resume(
        self,
        run_id: str,
        *,
        states: Sequence[str] = ("running", "queued", "awaiting_input"),
        if_attempt: int | None = None,
        if_dead: bool = False,
        doomed: RunFailure | None = None,
        isolate: bool = False,
    ) -> asyncio.Task[Outcome | None] | None:
        """Take a stored run over and continue it from its transcript.

        Args:
            run_id: which.
            states: those it may be in.
            if_attempt: only if its fencing number is still this.
            if_dead: only if the process that executed it is not alive now.
            doomed: only bring it to its end, with this failure.
            isolate: only if nothing else executes here, and so that nothing else begins before it got on.

        Returns:
            The task that executes it; None if it is in no state to be continued, someone else was quicker, or what is
            stored of it can't be loaded: then it is ended.
        """
        if run_id in self._tasks or self.refusal() is not None:
            return None
        if isolate:
            if self._tasks or self.isolation.run_id is not None:
                return None
            self.isolation.begin(run_id)  # before the row says so: what is accepted meanwhile waits
        stored = None
        generation = self._ownership.generation
        try:
            stored = await self._take_over(
                run_id, states=states, if_attempt=if_attempt, if_dead=if_dead, isolate=isolate
            )
            if stored is None or run_id in self._tasks:
                return None  # somebody else was quicker, here or elsewhere
            if self._released:
                await self._release_runs()  # this process is about to end, and has already let go of the others
                return None
            return await self._continue(stored, doomed, generation)
        finally:
            if isolate and (stored is None or not stored.isolated or run_id not in self._tasks):
                self.isolation.end(run_id)

    async def _take_over(self, run_id: str, *, states: Sequence[str], **how: Any) -> Resumption | None:
        try:
            return await self._database.write(
                take_over,
                run_id,
                owner=self._ownership.owner,
                states=states,
                agents=self._agents,
                **how,
            )
        except IntegrityError:  # another run of the conversation has become the active one meanwhile
            return None

    async def _continue(
        self, stored: Resumption, doomed: RunFailure | None, generation: int
    ) -> asyncio.Task[Outcome | None] | None:
        """Execute what was taken over."""
        row = stored.row
        try:
            run = self._loader.stored(stored, generation=generation)
        except Exception:
            log.exception("run_not_loadable", run_id=row.id)
            if (live := self._live.get(row.id)) is not None:
                self._live.close(live)
            await self._give_up(row.id, row.attempt, row.conversation_id)
            return None
        if doomed is not None:
            run.doomed = doomed
        elif row.crashes_alone >= _MOST_CRASHES_ALONE:
            run.doomed = poisoned(row.crashes_alone)
        task = self._spawn(run)
        if stored.isolated:
            self._later(self._end_isolation(run, _ALONE_SECONDS * 2**row.crashes_alone), name=f"isolation:{row.id}")
        if row.cancel_requested_at is not None:
            self.cancel(row.id, row.cancel_reason or CANCELLED_BY_CALLER)
        return task

    def task(self, run_id: str) -> asyncio.Task[Outcome | None] | None:
        """The task that executes a run here, if it does."""
        return self._tasks.get(run_id)

    def principal(self, run_id: str) -> Principal | None:
        """Whose run it is, if it executes here."""
        run = self._runs.get(run_id)
        return run.principal if run is not None else None

    def cancel(self, run_id: str, reason: str) -> asyncio.Task[Outcome | None] | None:
        """Stop a run that executes here: closes its model's socket and its tools. Await the task to know it has."""
        task, run = self._tasks.get(run_id), self._runs.get(run_id)
        if task is None or run is None:
            return None
        if run.cancel_reason is None:
            run.cancel_reason = reason
            if run.begun:  # a task that is cancelled before its first step never gets to record its end
                task.cancel()
        return task

    def begin_shutdown(self) -> None:
        """Start nothing more; runs hand over at their next step."""
        self.stopping = True
        for run in self._runs.values():
            run.handing_over = True

    async def close(self, *, grace_seconds: float) -> None:
        """Begin the shutdown, let steps end for a while, then leave the runs as they are to be continued elsewhere."""
        self.begin_shutdown()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=grace_seconds)
        for task in list(self._tasks.values()):
            task.cancel()
        for task in self._next:
            task.cancel()
        await asyncio.gather(*self._tasks.values(), *self._next, return_exceptions=True)
        self._released = True
        await self._release_runs()

    async def _release_runs(self) -> None:
        try:
            await self._database.write(ownership_repository.release_runs, self._ownership.owner)
        except Unavailable as error:  # others take them over once the lease has expired
            log.warning("runs_not_released", reason=error.message)

    @property
    def owner(self) -> str:
        """This process, as stamped on its runs."""
        return self._ownership.owner

    @property
    def generation(self) -> int:
        """Changes each time this process's standing has lapsed and was regained."""
        return self._ownership.generation

    @property
    def agent_names(self) -> list[str]:
        """The agents whose runs can be executed here."""
        return [agent.name for agent in self._agents]

    def policy(self, agent: str, tool: str) -> ToolPolicy:
        """The policy of an agent's tool, as far as it is known without a run."""
        if agent not in self.agent_names:
            return default_policy(tool)
        return self._agents.policy(self._agents.get(agent), tool)

    def refusal(self) -> Unavailable | None:
        """Why no run can begin here now; None if one can."""
        if self.stopping:
            return Unavailable(
                "This server is stopping. Send the request again: another one will answer.",
                code="stopping",
                headers={"Retry-After": "1"},
            )
        if not self._ownership.held():
            return Unavailable(
                "This server can't execute runs right now: it has no contact with the database. Try again shortly.",
                code="database_unavailable",
                headers={"Retry-After": "1"},
            )
        return None

    def __len__(self) -> int:
        return len(self._tasks)

    # --- one attempt ---

    def _spawn(self, run: ActiveRun) -> asyncio.Task[Outcome | None]:
        run.handing_over = self.stopping  # it was taken up in the very moment the process began to stop
        task = asyncio.create_task(self._execute(run), name=f"run:{run.run_id}")
        self._tasks[run.run_id] = task
        self._runs[run.run_id] = run
        return task

    async def _execute(self, run: ActiveRun) -> Outcome | None:
        run.begun = True
        structlog.contextvars.bind_contextvars(
            run_id=run.run_id, conversation_id=run.conversation_id, tenant=run.principal.tenant
        )
        live = self._live.get(run.run_id)
        queued: str | None = None
        unrecorded: RunFailure | None = None
        try:
            outcome, queued = await self._agent_loop.attempt(run)
        except (Fenced, HandOver) as error:
            log.warning("run_left", reason=error.code)
            return None
        except Unavailable as error:
            log.error("run_left_for_recovery", reason=error.message)  # noqa: TRY400 - the sentence says it all
            return None
        except Exception:  # something could not be written as it was: end it from what was
            log.exception("run_not_recorded")
            if run.doomed is None:
                unrecorded = internal()
            else:
                place = run.journal.place
                self._later(self._give_up(place.run_id, place.attempt, place.conversation_id), name="give-up")
            return None
        else:
            return outcome
        finally:
            self._tasks.pop(run.run_id, None)
            self._runs.pop(run.run_id, None)
            self.isolation.end(run.run_id)
            if live is not None:
                self._live.close(live)
            if queued is not None and not self.stopping:
                self._soon(queued, states=("queued", "awaiting_input"))
            if unrecorded is not None and not self.stopping:
                self._soon(run.run_id, states=("running",), doomed=unrecorded)

    def _soon(self, run_id: str, *, states: Sequence[str], doomed: RunFailure | None = None) -> None:
        self._later(self._take_up(run_id, states, doomed), name=f"take-up:{run_id}")

    def _later(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._next.add(task)
        task.add_done_callback(self._next.discard)

    async def _take_up(self, run_id: str, states: Sequence[str], doomed: RunFailure | None) -> None:
        try:
            await self.resume(run_id, states=states, doomed=doomed)
        except Unavailable as error:
            log.warning("run_left_to_reaper", run_id=run_id, reason=error.message)
        except Exception:
            log.exception("run_left_to_reaper", run_id=run_id)

    # --- isolation, and runs that can't be ended as they should ---

    def _written(self, run_id: str, values: dict[str, Any]) -> None:
        if values.get("isolated") is False:
            self.isolation.end(run_id)

    async def _end_isolation(self, run: ActiveRun, seconds: float) -> None:
        """Let the others begin if the run takes long, but not before its row says that it is no longer alone."""
        await asyncio.sleep(seconds)
        if self._runs.get(run.run_id) is not run or self.isolation.run_id != run.run_id:
            return
        run.journal.set_run(isolated=False)
        try:
            await run.journal.commit()
        except PilothouseError as error:  # its row is somebody else's, or will be: it says nothing of this process
            log.warning("isolation_ended_without_a_word", run_id=run.run_id, reason=error.message)
        finally:
            self.isolation.end(run.run_id)

    async def _give_up(self, run_id: str, attempt: int, conversation_id: str) -> None:
        """End a run that can't be ended with its transcript, and begin the next in line."""
        error = failure_document(internal())
        try:
            await self._database.write(
                end_by_rows,
                run_id,
                attempt=attempt,
                from_state="running",
                state="failed",
                values={"error": error},
                event={"error": error},
            )
            following = await self._database.read(ownership_repository.next_queued, conversation_id)
        except Unavailable as away:
            log.warning("run_left_to_reaper", run_id=run_id, reason=away.message)
            return
        self._live.changed(run_id)
        if following is not None and not self.stopping:
            self._soon(following, states=("queued",))
