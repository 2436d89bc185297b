"""Install the built wheel with each extra, without the lock file, and start what the extra is for.

The lock file holds more than the package asks for, so that an environment made from it can't show what a user's
`pip install 'pilothouse[postgres]'` lacks. Run by `make extras`, with the development environment's Python: it brings
PostgreSQL and Valkey; what is tried is installed in environments of its own. Ends with 1 if one of them doesn't serve.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import aiohttp

from pilothouse.errors import StartupError
from pilothouse.testing.cluster import Child, Postgres, Valkey, free_port

ROOT = Path(__file__).parents[1]
_APP = "pilothouse.cli.actions.cluster:demo_node"
_START_SECONDS = 90
_FOREIGN = ("PILOTHOUSE_", "OPENAI_", "ANTHROPIC_", "AZURE_", "PYTHON", "VIRTUAL_ENV")


class Failed(Exception):
    """An installation does not do what its extra promises; the text says why."""


def _run(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))}\n{(done.stdout + done.stderr)[-2000:]}")


def _build(folder: Path) -> tuple[Path, Path]:
    """The wheel, and an environment with nothing but it and what it asks for."""
    base = folder / "base"
    _run(sys.executable, "-m", "venv", base)
    _run(base / "bin" / "python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
    wheel = next(folder.glob("pilothouse-*.whl"))
    _run(base / "bin" / "python", "-m", "pip", "install", "--quiet", wheel)
    return wheel, base


def _with_extra(extra: str, wheel: Path, base: Path) -> Path:
    """A copy of the environment, plus the extra. Files are linked: pip replaces files and never writes into one."""
    copy = base.with_name(extra)
    shutil.copytree(base, copy, symlinks=True, copy_function=os.link)
    _run(copy / "bin" / "python", "-m", "pip", "install", "--quiet", f"{wheel}[{extra}]")
    return copy


# --- what each is for ---


def _program(venv: Path, *arguments: str, folder: Path, ready_line: str, **settings: str) -> Child:
    """`pilothouse` of an environment, with no setting but these."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    environ |= {"PYTHONUNBUFFERED": "1", "PILOTHOUSE_DATA_DIR": str(folder / "data")}
    return Child(
        name=f"pilothouse {arguments[0]} ({venv.name})",
        command=[venv / "bin" / "python", "-m", "pilothouse", *arguments],
        log=folder / "log",
        ready_line=ready_line,
        environ={**environ, **settings},
        folder=folder,
    )


@asynccontextmanager
async def _started(child: Child) -> AsyncIterator[str]:
    """The child runs, and this is what it said at its start."""
    try:
        await child.start(seconds=_START_SECONDS)
        yield child.said_since(0)
    finally:
        await child.stop()


async def _chat(url: str, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    body = {"message": "Where is order 1042?"}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session,
        session.post(f"{url}/v1/chat", json=body, headers=headers) as response,
    ):
        text = await response.text()
    if response.status != 200:
        raise Failed(f"POST {url}/v1/chat: {response.status} {text[:500]}")


def _word_after(label: str, said: str) -> str:
    found = next((line for line in said.splitlines() if line.startswith(label)), None)
    if found is None:
        raise Failed(f"No line {label!r} in what was said: {said[-1000:]}")
    return found.removeprefix(label).split()[0]


async def _demo(venv: Path, folder: Path) -> None:
    port = str(free_port())
    child = _program(venv, "demo", "--port", port, folder=folder, ready_line="Ctrl-C stops it")
    async with _started(child) as said:
        await _chat(f"http://127.0.0.1:{port}", _word_after("token:", said))


async def _serve(venv: Path, folder: Path, **settings: str) -> None:
    port = str(free_port())
    command = ("serve", _APP, "--local", "--port", port)
    async with _started(_program(venv, *command, folder=folder, ready_line="Listening on http", **settings)):
        await _chat(f"http://127.0.0.1:{port}", "")


async def _postgres(venv: Path, folder: Path) -> None:
    server = Postgres.at(folder, durable=False)
    try:
        await server.create()
        await _serve(venv, folder, PILOTHOUSE_DATABASE_URL=server.url)
    finally:
        await server.stop()


async def _redis(venv: Path, folder: Path) -> None:
    async with _started(server := Valkey.at(folder)):
        await _serve(venv, folder, PILOTHOUSE_REDIS_URL=server.url)


async def _cluster(venv: Path, folder: Path) -> None:
    command = ("cluster", "--nodes", "1", "--workers", "1", "--data-dir", str(folder / "cluster"))
    async with _started(_program(venv, *command, folder=folder, ready_line="Ctrl-C stops it")) as said:
        await _chat(_word_after("n1:", said), _word_after("token:", said))


CHECKS: dict[str, Callable[[Path, Path], Awaitable[None]]] = {
    "base": _demo,
    "postgres": _postgres,
    "redis": _redis,
    "cluster": _cluster,
}


def _check(name: str, venv: Path, folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o755)
    try:
        asyncio.run(CHECKS[name](venv, folder))
    except StartupError as error:
        raise Failed(error.message) from None


def main() -> int:
    """Try all; returns the exit code."""
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="pilothouse-extras-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL refuses to be root and runs as somebody who has to get in
        wheel, base = _build(folder)
        for extra in CHECKS:
            began = monotonic()
            try:
                venv = base if extra == "base" else _with_extra(extra, wheel, base)
                _check(extra, venv, folder / f"try-{extra}")
                print(f"{extra}: installed alone, started, answered ({monotonic() - began:.0f} s)", flush=True)
            except Failed as error:
                failed.append(extra)
                print(f"{extra}: FAILED\n{error}", flush=True)
    print(f"{len(CHECKS) - len(failed)} of {len(CHECKS)} installations serve.")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as error:
        sys.exit(str(error))
