"""The load, in a process of its own: takes jobs as JSON lines, answers each with one JSON line.

Only 127.0.0.1; every job is bounded in count and time.
"""

import asyncio
import json
import sys
import time
from typing import Any

import aiohttp
import uvloop

from benchmarks.silent_load import Silent

_REQUEST_SECONDS = 60

Job = dict[str, Any]


class Result:
    """What was measured; times in milliseconds."""

    def __init__(self) -> None:
        self.durations: list[float] = []
        self.first: list[float] = []
        self.gaps: list[float] = []
        self.errors: list[str] = []

    def fail(self, reason: str) -> None:
        self.errors.append(reason[:300])

    def document(self, wall: float, cpu: float) -> Job:
        return {
            "wall": wall,
            "load_cpu": cpu,
            "count": len(self.durations),
            "durations": self.durations,
            "first": self.first,
            "gaps": self.gaps,
            "errors": len(self.errors),
            "error": self.errors[0] if self.errors else None,
        }


async def whole_answers(session: aiohttp.ClientSession, job: Job, result: Result) -> None:
    """`count` requests by `clients` clients, each sending its next when its last is answered."""
    bodies = [None if body is None else json.dumps(body).encode() for body in job["bodies"]]
    last, url, headers = job["last"].encode(), job["url"], _headers(job)
    taken = iter(range(job["count"]))
    until = time.perf_counter() + job["seconds"]

    async def client() -> None:
        for number in taken:
            began = time.perf_counter()
            if began > until:
                return
            try:
                async with session.request(
                    job.get("method", "POST"), url, data=bodies[number % len(bodies)], headers=headers
                ) as response:
                    body = await response.read()
                    if response.status != 200 or last not in body:
                        result.fail(f"{response.status} {body[:200]!r}")
                        continue
            except (aiohttp.ClientError, TimeoutError) as error:
                result.fail(repr(error))
                continue
            result.durations.append((time.perf_counter() - began) * 1000)

    await asyncio.gather(*(client() for _ in range(job["clients"])))


async def streams(session: aiohttp.ClientSession, job: Job, result: Result) -> None:
    """As `whole_answers`, for streams; clients start `stagger` seconds apart and stop after `seconds`."""
    until = time.perf_counter() + job["seconds"]
    taken = iter(range(job["count"]))

    async def client(index: int) -> None:
        await asyncio.sleep(index * job.get("stagger", 0.0))
        for _ in taken:
            if time.perf_counter() > until:
                return
            try:
                await one_stream(session, job, result)
            except (aiohttp.ClientError, TimeoutError) as error:
                result.fail(repr(error))

    await asyncio.gather(*(client(index) for index in range(job["clients"])))


async def one_stream(session: aiohttp.ClientSession, job: Job, result: Result) -> None:
    """One stream, read to its end. Bytes are looked at only until the first word has come, and at the end."""
    first, last = job["first"].encode(), job["last"].encode()
    began = previous = time.perf_counter()
    first_at: float | None = None
    longest = 0.0
    head = tail = b""
    complete = False
    async with session.post(job["url"], json=job["bodies"][0], headers=_headers(job)) as response:
        async for chunk in response.content.iter_any():
            now = time.perf_counter()
            if first_at is None:
                head += chunk
                if first in head:
                    first_at = now
            elif now - previous > longest:
                longest = now - previous
            previous = now
            complete = complete or last in tail + chunk
            tail = chunk[-len(last) :]
        if response.status != 200 or first_at is None or not complete:
            result.fail(f"{response.status} {(head + tail)[:200]!r}")
            return
    result.durations.append((previous - began) * 1000)
    result.first.append((first_at - began) * 1000)
    result.gaps.append(longest * 1000)


class Held:
    """Streams that are open and stay so."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self.began = 0

    async def open(self, session: aiohttp.ClientSession, job: Job, result: Result) -> None:
        """Open `count` streams, some at a time; return when each has brought its first word."""
        gate = asyncio.Semaphore(job["clients"])
        waiting: list[asyncio.Future[None]] = []
        for _ in range(job["count"]):
            begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            waiting.append(begun)
            await gate.acquire()
            begun.add_done_callback(lambda _: gate.release())
            task = asyncio.create_task(self._hold(session, job, result, begun))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await asyncio.gather(*waiting)

    async def _hold(
        self, session: aiohttp.ClientSession, job: Job, result: Result, begun: asyncio.Future[None]
    ) -> None:
        first, head = job["first"].encode(), b""
        try:
            async with session.post(job["url"], json=job["bodies"][0], headers=_headers(job)) as response:
                async for chunk in response.content.iter_any():
                    if not begun.done():
                        head += chunk
                        if first in head:
                            result.durations.append(0.0)
                            begun.set_result(None)
        except (aiohttp.ClientError, TimeoutError) as error:
            result.fail(repr(error))
        finally:
            if not begun.done():
                result.fail(f"ended early: {head[:200]!r}")
                begun.set_result(None)

    async def end(self) -> None:
        """Wait until the streams have ended by themselves, then drop what is left."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_REQUEST_SECONDS)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _headers(job: Job) -> dict[str, str]:
    return {"Content-Type": "application/json", **job.get("headers", {})}


def _session() -> aiohttp.ClientSession:
    # One session a job: no connection is used that a server has grown tired of in between.
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
        timeout=aiohttp.ClientTimeout(total=None, sock_read=_REQUEST_SECONDS),
    )


async def _measure(job: Job) -> Job:
    result = Result()
    async with _session() as session:
        cpu, wall = time.process_time(), time.perf_counter()
        work = {"turns": whole_answers, "streams": streams}[job["kind"]]
        await work(session, job, result)
        return result.document(time.perf_counter() - wall, time.process_time() - cpu)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=64 * 1024 * 1024)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    held, held_session = Held(), _session()
    silent = Silent()
    try:
        while line := await reader.readline():
            job: Job = json.loads(line)
            if job["kind"] == "hold":
                result = Result()
                try:
                    async with asyncio.timeout(job["seconds"]):
                        await held.open(held_session, job, result)
                except TimeoutError:
                    result.fail(f"only {len(result.durations)} streams had begun after {job['seconds']} s")
                answer = result.document(0, 0)
            elif job["kind"] in ("silent_runs", "silent_open", "silent_wake"):
                work = {"silent_runs": silent.make_runs, "silent_open": silent.open, "silent_wake": silent.wake}
                answer = await work[job["kind"]](job)
            elif job["kind"] == "silent_end":
                await silent.end()
                answer = {}
            elif job["kind"] == "end":
                await held.end()
                await held_session.close()
                held, held_session = Held(), _session()
                answer = {}
            else:
                answer = await _measure(job)
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    finally:
        await silent.end()
        await held_session.close()


if __name__ == "__main__":
    uvloop.run(_serve())
