"""The load's part of `silent`: makes runs that wait for a person, follows them, and takes the time when they end."""

import asyncio
import itertools
import json
import time
from typing import Any

import aiohttp

Job = dict[str, Any]
_END = "run.cancelled"
_WAITS = "approval.requested"


class Silent:
    """Streams and WebSockets that are open on runs which wait, until the runs are cancelled."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None
        self._ended: list[tuple[str, float]] = []
        self._lost: list[str] = []

    async def make_runs(self, job: Job) -> Job:
        """`count` runs that wait for a person. Returns their ids."""
        session = self._begin()
        run_ids: list[str] = []
        taken = iter(range(job["count"]))

        async def client() -> None:
            for _ in taken:
                async with session.post(f"{job['url']}/v1/chat", json=job["body"], headers=job["headers"]) as response:
                    answer = await response.json()
                    if response.status != 202:
                        raise RuntimeError(f"{response.status}: {answer}")
                    run_ids.append(answer["run_id"])

        await asyncio.gather(*(client() for _ in range(job["clients"])))
        return {"run_ids": run_ids}

    async def open(self, job: Job) -> Job:
        """Open `streams` and `sockets` over the runs in turn; return when each has shown that its run waits."""
        gate = asyncio.Semaphore(job["clients"])
        waiting: list[asyncio.Future[None]] = []
        run_ids = itertools.cycle(job["run_ids"])
        for number in range(job["streams"] + job["sockets"]):
            begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            waiting.append(begun)
            await gate.acquire()
            begun.add_done_callback(lambda _: gate.release())
            follow = self._stream if number < job["streams"] else self._socket
            self._tasks.append(asyncio.create_task(self._keep(follow(job, next(run_ids), begun), begun)))
        await asyncio.gather(*waiting)
        return {"errors": len(self._lost), "error": self._lost[0] if self._lost else None}

    async def wake(self, job: Job) -> Job:
        """Cancel all runs; milliseconds from each request to the last event of each stream, and until all have it."""
        session = self._begin()
        asked: dict[str, float] = {}
        taken = iter(job["run_ids"])

        async def client() -> None:
            for run_id in taken:
                asked[run_id] = time.perf_counter()
                url = f"{job['url']}/v1/runs/{run_id}/cancel"
                async with session.post(url, headers=job["headers"]) as response:
                    await response.read()

        cpu, began = time.process_time(), time.perf_counter()
        await asyncio.gather(*(client() for _ in range(job["clients"])))
        cancelled = time.perf_counter()
        _done, late = await asyncio.wait(self._tasks, timeout=job["seconds"])
        last = max((at for _, at in self._ended), default=began)
        return {
            "durations": [(at - asked[run_id]) * 1000 for run_id, at in self._ended],
            "all_ms": (last - began) * 1000,
            "cancels_ms": (cancelled - began) * 1000,
            "load_cpu": (time.process_time() - cpu) / max(last - began, 0.001),
            "errors": len(late) + len(self._lost),
            "error": self._lost[0] if self._lost else None,
        }

    async def end(self) -> None:
        """Drop what is still open."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
        self._tasks, self._session, self._ended, self._lost = [], None, [], []

    def _begin(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=1),
                timeout=aiohttp.ClientTimeout(total=None, sock_read=120),
            )
        return self._session

    async def _keep(self, following: Any, begun: asyncio.Future[None]) -> None:
        try:
            await following
        except (aiohttp.ClientError, TimeoutError, RuntimeError) as error:
            self._lost.append(repr(error)[:300])
        finally:
            if not begun.done():
                self._lost.append("ended before its run had been seen to wait")
                begun.set_result(None)

    async def _stream(self, job: Job, run_id: str, begun: asyncio.Future[None]) -> None:
        url = f"{job['url']}/v1/runs/{run_id}/events"
        async with self._begin().get(url, headers=job["headers"]) as response:
            async for line in response.content:
                self._note(line.decode(), run_id, begun)

    async def _socket(self, job: Job, run_id: str, begun: asyncio.Future[None]) -> None:
        url = f"{job['url']}/v1/chat/ws/new"
        async with self._begin().ws_connect(url, headers=job["headers"]) as socket:
            await socket.send_str(json.dumps({"type": "resume", "run_id": run_id}))
            async for message in socket:
                if self._note(str(message.data), run_id, begun):
                    return

    def _note(self, text: str, run_id: str, begun: asyncio.Future[None]) -> bool:
        if _WAITS in text and not begun.done():
            begun.set_result(None)
        if _END not in text or text.startswith("data:"):
            return False
        self._ended.append((run_id, time.perf_counter()))
        return True
