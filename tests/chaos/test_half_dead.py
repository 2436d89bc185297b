"""Half-dead faults: planned from a seed, done to real processes and servers, and undone."""

import asyncio
import json
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from pilothouse.errors import StartupError
from pilothouse.testing.chaos import ChaosPlan
from pilothouse.testing.chaos.evidence import Fault
from pilothouse.testing.chaos.faults import Faults, PlannedFault, plan_faults
from pilothouse.testing.chaos.half_dead import HALF_DEAD, kinds, plan_all, plan_half_dead
from pilothouse.testing.chaos.ledger import Ledger, PipedLedger, read_ledger
from pilothouse.testing.chaos.network import Network, NetworkFaults
from pilothouse.testing.chaos.postgres_faults import LOCKS, PostgresFaults
from pilothouse.testing.chaos.process_faults import Clocks, FailingWrites, FullDisk, faketime
from pilothouse.testing.cluster import Child, Postgres

GUARD = 60
CLUSTER = {"nodes": 3, "workers": 2, "lease_seconds": 10}
SINGLE = {"nodes": 1, "workers": 0, "lease_seconds": 10}


# --- plans ---


def a_plan(**values) -> ChaosPlan:
    return ChaosPlan(app="x:y", folder=Path("unused"), **{"kills": 30, "seed": 15, "cluster": True, **values})


def test_the_dead_of_a_seed_are_those_of_earlier_releases() -> None:
    planned = a_plan(faults="dead").planned()
    assert planned == plan_faults(seed=15, count=30, **CLUSTER)
    first = [(fault.kind, fault.target, round(fault.wait, 3)) for fault in planned[:3]]
    assert first == [("kill", "n2", 2.684), ("deploy", "n1", 0.728), ("pause", "n1", 1.022)]


def test_all_is_half_of_each_in_an_order_of_the_seed() -> None:
    planned = a_plan(faults="all").planned()
    assert sum(fault.kind in HALF_DEAD for fault in planned) == 15
    assert planned == a_plan(faults="all").planned()
    assert [fault for fault in planned if fault.kind not in HALF_DEAD] == plan_faults(seed=15, count=15, **CLUSTER)
    assert [fault for fault in planned if fault.kind in HALF_DEAD] == plan_half_dead(seed=15, count=15, **CLUSTER)


def test_the_half_dead_of_a_cluster_are_of_every_kind_and_hit_what_is_there() -> None:
    planned = plan_half_dead(seed=5, count=160, **CLUSTER)
    assert {fault.kind for fault in planned} == set(kinds(single=False))
    assert {fault.target for fault in planned} == {"n1", "n2", "n3", "w1", "w2", "postgres", "model"}
    assert {fault.detail for fault in planned if fault.kind == "locks"} == set(LOCKS)
    assert {fault.detail for fault in planned if fault.kind == "delay"} <= {"postgres", "valkey", "model"}
    assert planned != plan_half_dead(seed=6, count=160, **CLUSTER)


def test_the_half_dead_of_one_server_need_no_postgres_and_no_valkey() -> None:
    planned = plan_half_dead(seed=5, count=60, **SINGLE)
    assert {fault.kind for fault in planned} == set(kinds(single=True))
    assert {fault.target for fault in planned} == {"n1", "model"}
    assert not {fault.detail for fault in planned} & {"postgres", "valkey"}


def test_only_some_kinds_can_be_asked_for() -> None:
    planned = plan_half_dead(seed=5, count=9, only=frozenset({"locks", "cancel"}), **CLUSTER)
    assert {fault.kind for fault in planned} == {"locks", "cancel"}
    with pytest.raises(StartupError, match=r"locks: no fault of this kind here\. There are .*no-writes"):
        plan_half_dead(seed=5, count=1, only=frozenset({"locks"}), **SINGLE)


def test_plans_are_shuffled_into_one_another_each_in_its_order() -> None:
    dead, half = plan_faults(seed=1, count=10, **CLUSTER), plan_half_dead(seed=1, count=10, **CLUSTER)
    both = plan_all(dead, half, seed=1)
    assert [fault for fault in both if fault in dead] == dead
    assert [fault for fault in both if fault in half] == half
    assert both not in (dead + half, half + dead)


async def test_what_cannot_be_done_here_is_left_out_with_its_reason() -> None:
    done: list[Fault] = []
    skipped: list[str] = []
    said: list[str] = []
    faults = Faults({}, done, said.append, missing={"clock": "no library"}, skipped=skipped)
    await faults.inject([PlannedFault("clock", "n1", 0, 0, "+3600")])
    assert (done, skipped) == ([], ["clock: no library"])
    assert said == ["1/1 clock n1 +3600: left out, no library"]


async def test_the_next_fault_waits_for_one_that_is_half_dead() -> None:
    order: list[str] = []

    class Slow:
        kinds = frozenset({"slow"})

        async def strike(self, planned: PlannedFault) -> None:
            order.append(f"{planned.target} begins")
            await asyncio.sleep(0)
            order.append(f"{planned.target} ends")

    done: list[Fault] = []
    await Faults({}, done, order.append, strikers=[Slow()]).inject(
        [PlannedFault("slow", "n1", 0, 0), PlannedFault("slow", "n2", 0, 0, "x")]
    )
    assert order == ["1/2 slow n1", "n1 begins", "n1 ends", "2/2 slow n2 x", "n2 begins", "n2 ends"]
    assert [(fault.name, fault.until is not None) for fault in done] == [("slow n", True), ("slow n-x", True)]


# --- networks and hosts ---


async def test_a_dead_host_leaves_its_connections_to_the_server_and_comes_back_on_fresh_ones(tmp_path: Path) -> None:
    lines: asyncio.Queue[str] = asyncio.Queue()
    ends: asyncio.Queue[str] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionResetError):
            while line := await reader.readline():
                lines.put_nowait(line.decode().strip())
        ends.put_nowait("ended")
        writer.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    network = Network({"postgres": server.sockets[0].getsockname()[1]})
    await network.connect(["n1"])
    program = (
        f"import socket,os,time; s=socket.create_connection(('127.0.0.1',{network.port('n1', 'postgres')}));"
        "s.sendall(b'%d\\n' % os.getpid()); print('ready', flush=True); time.sleep(60)"
    )
    child = Child(name="n1", command=[sys.executable, "-c", program], log=tmp_path / "log", ready_line="ready")
    try:
        await child.start()
        async with asyncio.timeout(GUARD):
            first = await lines.get()
            await NetworkFaults(network, {"n1": child}).strike(PlannedFault("host-death", "n1", 0, 0))
            assert await lines.get() != first
        assert ends.empty()
        assert child.running
    finally:
        await child.kill()
        await network.stop()
        async with asyncio.timeout(GUARD):
            for _ in range(2):
                await ends.get()
        server.close()


# --- PostgreSQL ---


async def answer(url: str, *statements: str) -> str:
    """`ok`, or the SQLSTATE of the first statement that fails, in a session of its own."""
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"), poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            for statement in statements:
                await connection.execute(text(statement))
            await connection.commit()
        return "ok"
    except DBAPIError as error:
        return str(getattr(error.orig, "sqlstate", None) or "connection lost")
    finally:
        await engine.dispose()


async def until(url: str, wanted: str, *statements: str) -> None:
    async with asyncio.timeout(GUARD):
        while await answer(url, *statements) != wanted:
            pass


WRITE = "UPDATE api_keys SET name = name"


async def strike(url: str, kind: str, detail: str = "", *, seconds: float = 3600) -> asyncio.Task[None]:
    faults = PostgresFaults(url)

    async def run() -> None:
        try:
            await faults.strike(PlannedFault(kind, "postgres", 0, seconds, detail))
        finally:
            await faults.close()

    return asyncio.create_task(run())


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_read_only_postgres_refuses_writes_until_it_is_over(postgres_url: str) -> None:
    striking = await strike(postgres_url, "read-only")
    await until(postgres_url, "25006", WRITE)
    assert await answer(postgres_url, "SELECT 1") == "ok"
    await ended(striking)
    await until(postgres_url, "ok", WRITE)


@pytest.mark.parametrize(
    ("kind", "wanted"), [("cancel", {"57014"}), ("terminate", {"57P01", "08003", "connection lost"})]
)
async def test_statements_are_cancelled_and_sessions_terminated(postgres_url: str, kind: str, wanted: set[str]) -> None:
    striking = await strike(postgres_url, kind)
    assert await answer(postgres_url, "SELECT pg_sleep(60)") in wanted
    await ended(striking)
    assert await answer(postgres_url, "SELECT 1") == "ok"


@pytest.mark.parametrize("detail", ["leases", "table"])
async def test_a_forgotten_session_holds_locks_until_it_is_over(postgres_url: str, detail: str) -> None:
    await answer(
        postgres_url, "INSERT INTO leases (owner, host, pid, started_at, expires_at) VALUES ('x', 'y', 1, 0, 0)"
    )
    writes = {"leases": "UPDATE leases SET pid = 2", "table": "UPDATE runs SET attempt = 1"}
    striking = await strike(postgres_url, "locks", detail)
    await until(postgres_url, "55P03", "SET lock_timeout = '50ms'", writes[detail])
    await ended(striking)
    await until(postgres_url, "ok", "SET lock_timeout = '50ms'", writes[detail])


@pytest.mark.parametrize("detail", list(LOCKS))
async def test_every_kind_of_lock_is_taken_and_let_go(postgres_url: str, detail: str) -> None:
    await (await strike(postgres_url, "locks", detail, seconds=0))


# --- processes ---

_WRITER = """
import sys, time
while True:
    try:
        with open(sys.argv[1], "ab") as file:
            file.write(b"x" * 10_000)
        print("wrote", flush=True)
    except OSError as error:
        open(sys.argv[2], "a").write(f"{error.errno}\\n")
    time.sleep(0.01)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process can be changed on Linux only")
async def test_writes_of_a_process_fail_and_work_again(tmp_path: Path) -> None:
    grows, errors = tmp_path / "grows", tmp_path / "errors"
    command = [sys.executable, "-c", _WRITER, str(grows), str(errors)]
    child = Child(name="n1", command=command, log=tmp_path / "log", ready_line="wrote")
    await child.start()
    try:
        striking = asyncio.create_task(FailingWrites({"n1": child}).strike(PlannedFault("no-writes", "n1", 0, 3600)))
        async with asyncio.timeout(GUARD):
            while not errors.exists():
                await asyncio.sleep(0)
            await ended(striking)
            size = grows.stat().st_size
            while grows.stat().st_size == size:
                await asyncio.sleep(0)
    finally:
        await child.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process can be changed on Linux only")
async def test_a_full_disk_takes_postgres_writes_and_gives_them_back() -> None:
    with tempfile.TemporaryDirectory(prefix="pilothouse-chaos-") as name:
        Path(name).chmod(0o755)
        postgres = Postgres.at(Path(name), durable=False)
        await postgres.create()
        try:
            assert await answer(postgres.url, "CREATE TABLE t (n int)") == "ok"
            write = "INSERT INTO t SELECT generate_series(1, 100000)"
            striking = asyncio.create_task(FullDisk(postgres).strike(PlannedFault("full-disk", "postgres", 0, 3)))
            async with asyncio.timeout(GUARD):
                while await answer(postgres.url, "SELECT pg_sleep(0.3)", write) == "ok" and not striking.done():
                    pass
                assert not striking.done(), "every write went well"
                await striking
            await until(postgres.url, "ok", write)
        finally:
            await postgres.stop()


_CLOCK = """
import sys, threading, time
threading.Thread(target=time.sleep, args=(0.01,)).start()
print("ready", flush=True)
for _ in sys.stdin:
    print(time.time(), time.monotonic(), flush=True)
"""


@pytest.mark.skipif(faketime() is None, reason="libfaketime is not installed (Debian: apt-get install libfaketime)")
async def test_a_clock_is_stepped_while_its_process_runs_and_back_and_the_monotonic_one_stays(tmp_path: Path) -> None:
    clocks = Clocks(tmp_path / "clocks", faketime() or Path())
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _CLOCK),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **clocks.environment("n1")},
    )
    assert process.stdin is not None
    assert process.stdout is not None

    async def offsets() -> tuple[int, int]:
        """How far its two clocks are from ours, in minutes."""
        process.stdin.write(b"?\n")
        wall, monotonic = map(float, (await process.stdout.readline()).split())
        return round((wall - time.time()) / 60), round((monotonic - time.monotonic()) / 60)

    try:
        async with asyncio.timeout(GUARD):
            await process.stdout.readline()
            assert await offsets() == (0, 0)
            stepping = asyncio.create_task(clocks.strike(PlannedFault("clock", "n1", 0, 3600, "-3600")))
            while await offsets() != (-60, 0):
                pass
            await ended(stepping)
            assert await offsets() == (0, 0)
    finally:
        process.kill()
        await process.communicate()


# --- ledgers ---


def test_lines_of_several_writers_go_through_a_pipe_into_the_file(tmp_path: Path) -> None:
    piped = PipedLedger(tmp_path / "pipe", tmp_path / "file")
    writers = [Ledger(tmp_path / "pipe") for _ in range(3)]
    for number in range(300):
        writers[number % 3].write(number=number, text="x" * 200)
    for writer in writers:
        os.close(writer._file)
    piped.close()
    assert [line["number"] for line in read_ledger(tmp_path / "file")] == list(range(300))


def test_a_ledger_in_a_file_is_read_back(tmp_path: Path) -> None:
    Ledger(tmp_path / "file").write(a=1)
    assert read_ledger(tmp_path / "file") == [{"a": 1}]
    assert json.loads((tmp_path / "file").read_text()) == {"a": 1}
