"""A real uvicorn server in the test's own loop, and a client that speaks bytes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import uvicorn
from starlette.types import ASGIApp


class Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @property
    def port(self) -> int:
        return self.servers[0].sockets[0].getsockname()[1]


@asynccontextmanager
async def serving(app: ASGIApp, **options: object):
    options = {"lifespan": "off", **options}
    config = uvicorn.Config(app, port=0, log_config=None, access_log=False, timeout_graceful_shutdown=1, **options)
    server = Server(config)
    task = asyncio.create_task(server.serve())
    waiter = asyncio.create_task(server.ready.wait())
    await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield server
    finally:
        server.should_exit = True
        await task


@pytest.fixture
async def serve() -> AsyncIterator[Callable]:
    """`server = await serve(app)`: it listens until the test ends."""
    async with AsyncExitStack() as stack:

        async def start(app: ASGIApp, **options: object) -> Server:
            return await stack.enter_async_context(serving(app, **options))

        yield start


@pytest.fixture
async def connect() -> AsyncIterator[Callable]:
    """`reader, writer = await connect(port)`; closed at the end."""
    writers = []

    async def open_one(port: int, **options: object):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)
        writers.append(writer)
        return reader, writer

    yield open_one
    for writer in writers:
        writer.close()
