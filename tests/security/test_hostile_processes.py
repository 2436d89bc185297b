"""`pilothouse serve` as a process of its own: its memory and its file descriptors while it is attacked."""

import asyncio
import contextlib
import resource
from pathlib import Path

import pytest
from tests.support.commands import MAIN, Command, environment, started
from tests.support.raw_http import GUARD_SECONDS, RawClient
from tests.support.server import Person

from pilothouse.testing.provider import Script, ScriptedProvider

LIVE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
HALF = b"POST /v1/chat HTTP/1.1\r\nHost: localhost\r\nX-Half: "


@pytest.fixture
async def provider():
    async with ScriptedProvider(Script(turns=["Hello there."])) as scripted:
        yield scripted


@pytest.fixture
def env(provider) -> dict[str, str]:
    return environment(
        PILOTHOUSE_OPENAI_BASE_URL=provider.openai_base_url,
        PILOTHOUSE_OPENAI_API_KEY="sk-test-1234",
        PILOTHOUSE_SERVER_PORT="0",
    )


def resident_mb(server: Command) -> float:
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


def descriptors(server: Command) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


async def chat(url: str) -> str:
    person = Person(url, None)
    try:
        return (await person.chat("Hi"))["text"]
    finally:
        await person.close()


@pytest.mark.parametrize("connections", ["unset", "more than there are descriptors"])
async def test_300_half_sent_requests_against_256_descriptors_do_not_end_service(
    tmp_path: Path, env: dict[str, str], connections: str
) -> None:
    (tmp_path / "main.py").write_text(MAIN)
    if connections != "unset":
        env["PILOTHOUSE_SERVER_MAX_CONNECTIONS"] = "100000"
    async with started("serve", "main:app", "--local", "--no-check", cwd=tmp_path, env=env) as server:
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (256, 256))  # it reads it later than this
        url = await server.url()
        port = int(url.rpartition(":")[2])
        assert await chat(url) == "Hello there."
        clients = []
        for _ in range(300):
            with contextlib.suppress(OSError):
                clients.append(await RawClient.connect(port))
                await clients[-1].send(HALF)
        assert descriptors(server) <= 256
        assert await chat(url) == "Hello there."
        for client in clients:
            client.close()
        assert await chat(url) == "Hello there."
        assert server.process.returncode is None


async def test_endless_heads_cost_neither_memory_nor_others_time(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "main.py").write_text(MAIN)
    async with started("serve", "main:app", "--local", "--no-check", cwd=tmp_path, env=env) as server:
        url = await server.url()
        port = int(url.rpartition(":")[2])
        assert await chat(url) == "Hello there."
        before = resident_mb(server)

        async def attack(start: bytes, piece: bytes) -> None:
            for _ in range(10):
                client = await RawClient.connect(port)
                await client.send(start)
                with contextlib.suppress(OSError, EOFError):
                    await client.flood(piece, 8 * 1024 * 1024)
                client.close()

        held = [await RawClient.connect(port) for _ in range(100)]
        for client in held:
            await client.send(HALF + b"h" * 60_000)
        attacks = [
            attack(HALF, b"a" * 65536),
            attack(b"GET / HTTP/1.1\r\n", b"X-A: b\r\n" * 8000),
            attack(b"GET /", b"a" * 65536),
            attack(b"", LIVE * 2000),
        ]
        attacking = [asyncio.create_task(made) for made in attacks]
        async with asyncio.timeout(GUARD_SECONDS):
            for _ in range(5):
                assert await chat(url) == "Hello there."
            await asyncio.gather(*attacking)
        assert resident_mb(server) - before < 60
        for client in held:
            client.close()
