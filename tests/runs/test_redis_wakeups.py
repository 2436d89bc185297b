"""Wake-ups over Redis that breaks in all ways: nothing ends the listener, and each new connection is a look at all."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from tests.support.blackhole import Blackhole
from tests.support.certificates import make_certificates
from tests.support.logs import logged_by
from tests.support.valkey import ValkeyServer
from tests.support.watching import until

from pilothouse.engine.supervisor import LoopReport, Supervisor
from pilothouse.runs import redis_wakeups
from pilothouse.runs.redis_wakeups import RedisWakeups

CHANNEL = "pilothouse:look"


class Listener:
    """A node's wake-ups, and what it heard."""

    def __init__(self, url: str, **timing: float) -> None:
        self.supervisor = Supervisor()
        self.runs: list[str] = []
        self.looks = 0
        self.connects = 0
        quick = {"ping_seconds": 0.1, "timeout_seconds": 0.5, **timing}
        self.wakeups = RedisWakeups(
            url, on_run=self.runs.append, on_look=self._on_look, on_connected=self._on_connected, **quick
        )

    def _on_look(self) -> None:
        self.looks += 1

    def _on_connected(self) -> None:
        self.connects += 1

    def report(self, name: str = "wakeups-in") -> LoopReport:
        return next(report for report in self.supervisor.reports() if report.name == name)

    async def hears(self, speaker: RedisWakeups, run_id: str) -> None:
        """Wait until this listener hears of a run."""
        async with asyncio.timeout(60):
            while run_id not in self.runs:
                speaker.run_changed(run_id)
                await asyncio.sleep(0.02)


@asynccontextmanager
async def listening(url: str, **timing: float) -> AsyncIterator[Listener]:
    listener = Listener(url, **timing)
    listener.wakeups.start(listener.supervisor)
    try:
        yield listener
    finally:
        async with asyncio.timeout(60):
            await listener.wakeups.close()
            await listener.supervisor.close()


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Any]:
    redis: Any = Redis.from_url(url)
    try:
        yield redis
    finally:
        await redis.aclose()


def port_of(url: str) -> int:
    found = re.search(r":(\d+)/", url)
    assert found is not None
    return int(found[1])


async def test_what_one_node_says_all_hear_and_many_runs_come_in_pieces(redis_url: str) -> None:
    async with listening(redis_url) as one, listening(redis_url) as two:
        await until(lambda: one.wakeups.healthy and two.wakeups.healthy)
        run_ids = {f"run_{number}" for number in range(1500)}
        for run_id in run_ids:
            one.wakeups.run_changed(run_id)
        one.wakeups.reapers_look()
        await until(lambda: set(two.runs) >= run_ids and set(one.runs) >= run_ids)
        assert len(two.runs) == 1500
        await until(lambda: two.looks == 1)


async def test_a_half_open_connection_is_noticed_and_made_anew_with_a_look_at_everything(redis_url: str) -> None:
    async with (
        Blackhole(port_of(redis_url)) as hole,
        listening(redis_url) as speaker,
        listening(f"redis://127.0.0.1:{hole.port}/0") as listener,
    ):
        await listener.hears(speaker.wakeups, "run_before")
        connects = listener.connects
        hole.swallow()
        await until(lambda: not listener.wakeups.healthy)
        await until(lambda: listener.report().failures)
        assert listener.report().reason in ("Redis does not answer in time.", "Redis has not answered for 0.5 s.")
        hole.cut()
        hole.pass_on()
        await until(lambda: listener.wakeups.healthy)
        assert listener.connects > connects
        await listener.hears(speaker.wakeups, "run_after")
        assert listener.report().failures == 0


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xfe\x00run:\x80",
        b"",
        b"run:",
        b"run",
        b"nonsense:of another program",
        b"x" * 2_000_000,
        b"run:" + b"y" * 300_000,
        b'{"json": true}',
    ],
    ids=["not-utf8", "empty", "no-id", "no-colon", "foreign", "huge", "huge-id", "json"],
)
async def test_a_message_nobody_understands_is_ignored(redis_url: str, garbage: bytes) -> None:
    with logged_by(redis_wakeups) as logs:
        async with listening(redis_url, ping_seconds=60, timeout_seconds=20) as listener, client(redis_url) as redis:
            await until(lambda: listener.wakeups.healthy)
            for _ in range(5):
                await redis.publish(CHANNEL, garbage)
            await listener.hears(listener.wakeups, "run_1")
            assert set(listener.runs) == {"run_1"}
            assert (listener.looks, listener.connects, listener.report().failures) == (0, 1, 0)
    assert len([line for line in logs if line["event"] == "wakeups_ignored"]) == 1


async def test_a_connection_the_server_kills_is_made_anew(redis_url: str) -> None:
    async with listening(redis_url) as listener, client(redis_url) as redis:
        for number in range(1, 4):
            await until(lambda: listener.wakeups.healthy)
            connects = listener.connects
            await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda before=connects: listener.connects > before)
            await listener.hears(listener.wakeups, f"run_{number}")


async def test_a_server_that_is_started_anew_is_used_again(tmp_path: Any) -> None:
    with ValkeyServer() as server:
        async with listening(server.url) as listener:
            await listener.hears(listener.wakeups, "run_1")
            server.stop()
            await until(lambda: not listener.wakeups.healthy)
            listener.wakeups.run_changed("run_while_away")
            await until(lambda: listener.report("wakeups-out").failures)
            server.start()
            await until(lambda: listener.wakeups.healthy)
            await until(lambda: "run_while_away" in listener.runs)  # kept until it could be said


async def test_a_server_that_is_away_at_the_start_is_used_when_it_comes(tmp_path: Any) -> None:
    with ValkeyServer() as server:
        server.stop()
        async with listening(server.url) as listener:
            assert await listener.wakeups.why_away() is not None
            assert not listener.wakeups.healthy
            assert listener.wakeups.silent_seconds is None
            server.start()
            await listener.hears(listener.wakeups, "run_1")
            assert await listener.wakeups.why_away() is None


class Scripted:
    """Something on a socket that answers every command of a Redis client with the same."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self.asked = 0

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                self.asked += 1
                writer.write(self._answer * max(1, data.count(b"*")))
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", "Redis is loading its data."),
        (b"-NOAUTH Authentication required.\r\n", "Redis refuses the user or the password in PILOTHOUSE_REDIS_URL."),
        (b"-WRONGPASS invalid username-password pair\r\n", "Redis refuses the user or the password"),
        (b"-NOPERM User x has no permissions\r\n", "Redis does not let this user use the channel"),
        (b"-READONLY You can't write against a read only replica.\r\n", "Redis is a read-only replica."),
        (b"-ERR unknown command\r\n", "Redis can't be used (ResponseError)."),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "Redis can't be used"),
        (b"\x00\xff\xfe\r\n", "Redis can't be used"),
        (b"", "Redis does not answer in time."),
    ],
)
async def test_whatever_a_server_answers_the_listener_goes_on_and_says_why(answer: bytes, reason: str) -> None:
    async with Scripted(answer) as url, listening(url) as listener:
        listener.wakeups.run_changed("run_1")
        await until(lambda: listener.report().failures >= 2 and listener.report("wakeups-out").failures)
        assert reason in (listener.report().reason or "")
        assert not listener.wakeups.healthy


async def test_a_wrong_password_is_said_and_a_right_one_taken(redis_url: str) -> None:
    async with client(redis_url) as redis:
        await redis.execute_command("ACL", "SETUSER", "node", "on", ">secret", "~*", "&*", "+@all")
        try:
            wrong = redis_url.replace("redis://", "redis://node:wrong@")
            async with listening(wrong) as listener:
                await until(lambda: listener.report().failures)
                assert listener.report().reason == "Redis refuses the user or the password in PILOTHOUSE_REDIS_URL."
            async with listening(redis_url.replace("redis://", "redis://node:secret@")) as listener:
                await listener.hears(listener.wakeups, "run_1")
        finally:
            await redis.execute_command("ACL", "DELUSER", "node")


async def test_a_slow_server_is_no_reason_to_reconnect(redis_url: str) -> None:
    async with listening(redis_url, ping_seconds=0.1, timeout_seconds=5) as listener, client(redis_url) as redis:
        await until(lambda: listener.wakeups.healthy)
        await redis.execute_command("DEBUG", "SLEEP", "0.6") if await _may_debug(redis) else None
        await listener.hears(listener.wakeups, "run_1")
        assert (listener.connects, listener.report().failures) == (1, 0)


async def _may_debug(redis: Any) -> bool:
    try:
        await redis.execute_command("DEBUG", "SLEEP", "0")
    except Exception:  # noqa: BLE001 - whatever the reason: it may not
        return False
    return True


async def test_tls_with_an_authority_of_ones_own(redis_url: str, tmp_path: Any) -> None:
    certificates = make_certificates(tmp_path)
    async with Blackhole(port_of(redis_url), tls=certificates.server) as proxy:
        url = f"rediss://127.0.0.1:{proxy.port}/0"
        async with listening(f"{url}?ssl_ca_certs={certificates.authority}") as listener:
            await listener.hears(listener.wakeups, "run_1")
            proxy.cut()
            await until(lambda: listener.connects >= 2)
            await listener.hears(listener.wakeups, "run_2")
        async with listening(url) as listener:
            await until(lambda: listener.report().failures)
            assert (listener.report().reason or "").startswith("The certificate of Redis is not trusted (")
            assert "ssl_ca_certs" in (listener.report().reason or "")
            assert (await listener.wakeups.why_away() or "").startswith("The certificate of Redis is not trusted (")


async def test_tls_where_none_is_spoken_is_said(redis_url: str) -> None:
    async with listening(redis_url.replace("redis://", "rediss://")) as listener:
        await until(lambda: listener.report().failures)
        assert "TLS" in (listener.report().reason or "") or "Redis" in (listener.report().reason or "")
        assert not listener.wakeups.healthy
