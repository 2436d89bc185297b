"""The server the console's tests talk to, and the browser they drive."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.console.fake_server import FakeServer
from tests.console.visitor import Visitor

CHROMIUM = Path("/usr/bin/chromium")
ARGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
def console_server() -> Iterator[FakeServer]:
    """A server with the console: `url`, `token`, `requests`, `release()`, `drop_streams()`, and two agents.

    What it answers to a message is in `scripts.py`.
    """
    with FakeServer(agents=2) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def browser() -> AsyncIterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    async_api = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
    async with async_api.async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGS)
        yield chromium
        await chromium.close()


@pytest_asyncio.fixture(loop_scope="session")
async def stranger(browser: Any, console_server: FakeServer) -> AsyncIterator[Visitor]:
    """Someone with a fresh browser who has not signed in. What their page did wrong fails the test at its end."""
    context = await browser.new_context(viewport={"width": 1280, "height": 800})
    visitor = Visitor(await context.new_page(), console_server)
    yield visitor
    await context.close()
    assert visitor.faults() == []


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(stranger: Visitor) -> Visitor:
    """Someone who came by the link `pilothouse demo` prints."""
    await stranger.open_link()
    return stranger
