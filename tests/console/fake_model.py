"""Runs of the fake server: they follow a script, keep their events, and write the transcript."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tests.console.scripts import script_for

MODEL = "offline:scripted"
ACTIVE = ("queued", "running", "awaiting_input")
STEP_COST = 0.000421


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class FakeRun:
    """One run: its record as `GET /v1/runs/{id}` gives it, and its events."""

    def __init__(self, number: int, conversation: dict[str, Any], message: str) -> None:
        self.message = message
        self.turn = conversation["turns"]
        self.transcript: list[dict[str, Any]] = conversation["messages"]
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self.news = asyncio.Condition()
        self.gate = asyncio.Event()
        self.decided = asyncio.Event()
        self.approved = False
        self.task: asyncio.Task[None] | None = None
        agent = conversation["agent"]
        self.record: dict[str, Any] = {
            "id": f"run_{number:04}",
            "conversation_id": conversation["id"],
            "agent": agent,
            "kind": "chat",
            "state": "queued",
            "model": MODEL,
            "attempt": 1,
            "prompt": {"name": agent, "version": "3", "hash": "9f86d081884c7d65"},
            "usage": {"input_tokens": 0, "output_tokens": 0, "cached_tokens": 0},
            "cost_usd": "0",
            "error": None,
            "cut": None,
            "created_at": now(),
            "started_at": None,
            "finished_at": None,
            "steps": [],
        }

    @property
    def over(self) -> bool:
        return self.record["state"] not in ACTIVE

    async def emit(self, type_: str, **data: Any) -> None:
        event_id = f"1-{len(self.events) + 1}"
        async with self.news:
            self.events.append((event_id, type_, {"type": type_, "run_id": self.record["id"], **data}))
            self.news.notify_all()

    def end(self, state: str) -> None:
        self.record.update(state=state, finished_at=now())
        for step in self.record["steps"]:
            if step["finished_at"] is None:
                step.update(state=state, finished_at=now())

    def keep(self, **message: Any) -> None:
        seq = sum(1 for item in self.transcript if item["run_id"] == self.record["id"])
        place = {"run_id": self.record["id"], "key": f"{self.turn}.{seq}", "created_at": now(), "pinned": False}
        self.transcript.append({**place, **message})


class FakeModel:
    """Plays scripts. `pace` is the wait between two deltas, in seconds."""

    def __init__(self, runs: Mapping[str, FakeRun], pace: float) -> None:
        self.runs = runs
        self.pace = pace

    async def execute(self, run: FakeRun) -> None:
        record = run.record
        while self._must_wait(run):
            await asyncio.sleep(0.01)
        record.update(state="running", started_at=now())
        await run.emit("run.started", conversation_id=record["conversation_id"], agent=record["agent"], attempt=1)
        try:
            text = await self._play(run)
        except asyncio.CancelledError:
            run.end("cancelled")
            await run.emit("run.cancelled", took_effect=[])
            return
        if text is not None:
            run.end("completed")
            usage = record["usage"]
            await run.emit("run.completed", text=text, output=None, usage=usage, cost_usd=record["cost_usd"])

    def _must_wait(self, run: FakeRun) -> bool:
        conversation = run.record["conversation_id"]
        return any(
            not other.over and other.turn < run.turn and other.record["conversation_id"] == conversation
            for other in self.runs.values()
        )

    async def _play(self, run: FakeRun) -> str | None:
        """The text of the last step, or None where the script fails."""
        step, text, reasoning = 1, "", ""
        await self._begin_step(run, step)
        for kind, *rest in script_for(run.message):
            if kind == "text":
                text += rest[0]
                await self._stream(run, "text.delta", step, rest[0])
            elif kind == "reason":
                reasoning += rest[0]
                await self._stream(run, "reasoning.delta", step, rest[0])
            elif kind == "gate":
                await run.gate.wait()
            elif kind == "restart":
                text = ""
                await run.emit("step.restarted", step=step, reason="the connection to the model broke")
            elif kind == "fail":
                error = {"code": rest[0], "message": rest[1], "category": "transient", "retryable": True}
                run.record["error"] = error
                run.end("failed")
                await run.emit("run.failed", error=error)
                return None
            else:
                calls = rest[0] if kind == "tools" else [(*rest, "ok", 31)]
                await self._message(run, step, text, reasoning, calls)
                for offset, call in enumerate(calls, 1):
                    await self._tool(run, step, step + offset, call, gated=kind == "tool_gate")
                step, text, reasoning = step + 1 + len(calls), "", ""
                await self._begin_step(run, step)
        await self._message(run, step, text, reasoning, [])
        return text

    async def _begin_step(self, run: FakeRun, number: int) -> None:
        row = {"number": number, "kind": "model", "name": MODEL, "state": "started", "attempt": 1}
        run.record["steps"].append({**row, "text": None, "started_at": now(), "finished_at": None})
        await run.emit("step.started", step=number, model=MODEL)

    async def _stream(self, run: FakeRun, type_: str, step: int, text: str) -> None:
        size = 12 if len(text) < 3000 else 200
        for at in range(0, len(text), size):
            await run.emit(type_, step=step, text=text[at : at + size])
            await asyncio.sleep(self.pace)

    async def _message(self, run: FakeRun, step: int, text: str, reasoning: str, calls: list[Any]) -> None:
        asked = [{"call_id": call[0], "name": call[1], "arguments": call[2]} for call in calls]
        used = {"input_tokens": 310, "output_tokens": len(text) // 4 + 9, "cost_usd": str(STEP_COST)}
        done = {"state": "completed", "finished_at": now(), "first_token_ms": int(self.pace * 1000) + 30}
        run.record["steps"][-1].update(text=text, reasoning=reasoning or None, **used, **done)
        total = run.record["usage"]
        total["input_tokens"] += used["input_tokens"]
        total["output_tokens"] += used["output_tokens"]
        run.record["cost_usd"] = f"{float(run.record['cost_usd']) + STEP_COST:.6f}"
        said = {"text": text, "reasoning": reasoning or None, "tool_calls": asked}
        run.keep(role="assistant", step=step, **said)
        await run.emit("message", step=step, **said, model=MODEL, finish_reason="stop")
        await run.emit("usage", step=step, cached_tokens=0, **used)

    async def _tool(self, run: FakeRun, model_step: int, number: int, call: Any, *, gated: bool) -> None:
        call_id, name, arguments, result, status, ms = call
        about = {"call_id": call_id, "name": name}
        if name == "refund" and not await self._allowed(run, number, about, arguments):
            run.keep(role="tool", step=model_step, **about, result="A person said no.")
            no = {"status": "error", "result": None, "error": "A person said no.", "duration_ms": 0}
            await run.emit("tool.finished", step=number, **about, **no)
            return
        row = {"number": number, "kind": "tool", "state": "started", "attempt": 1, "arguments": arguments, **about}
        run.record["steps"].append(row | {"started_at": now(), "finished_at": None})
        await run.emit("tool.started", step=number, **about, arguments=arguments, effect="pure")
        await (run.gate.wait() if gated else asyncio.sleep(self.pace * 40))
        error = "The weather service did not answer in time." if status == "error" else None
        state, code = ("failed", "timeout") if error else ("completed", None)
        run.record["steps"][-1].update(state=state, result=result or error, finished_at=now(), error_code=code)
        run.keep(role="tool", step=model_step, **about, result=result or error)
        done = {"status": status, "result": result, "error": error, "duration_ms": ms}
        await run.emit("tool.finished", step=number, **about, **done)

    async def _allowed(self, run: FakeRun, step: int, about: dict[str, str], arguments: Any) -> bool:
        run.record["state"] = "awaiting_input"
        await run.emit("approval.requested", step=step, **about, arguments=arguments, reason="approval")
        await run.decided.wait()
        run.record["state"] = "running"
        return run.approved
