"""A client that speaks bytes."""

import asyncio
import contextlib
import json
import socket
from dataclasses import dataclass
from typing import Self

GUARD_SECONDS = 60
"""Only against hanging."""


@dataclass(frozen=True)
class RawAnswer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """Of a problem document."""
        assert self.headers["content-type"] == "application/problem+json", self
        return json.loads(self.body)["code"]


class RawClient:
    """A connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.sent = 0

    @classmethod
    async def connect(cls, port: int, *, receive_buffer: int | None = None) -> Self:
        connection = socket.socket()
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
        return cls(*await asyncio.open_connection(sock=connection, limit=2**16))

    async def send(self, data: bytes) -> bool:
        """False once the server has closed."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except OSError:
            return False
        self.sent += len(data)
        return True

    async def flood(self, piece: bytes, most: int) -> RawAnswer:
        """Send `piece` again and again until the server answers, at most `most` bytes; its answer."""
        answering = asyncio.create_task(self.answer())
        while self.sent < most and not answering.done() and await self.send(piece):
            await asyncio.wait({answering}, timeout=0.002)
        return await answering

    async def answer(self) -> RawAnswer:
        """The next response, whole."""
        async with asyncio.timeout(GUARD_SECONDS):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
            if headers.get("transfer-encoding") == "chunked":
                body = b""
                while size := int((await self.reader.readline()).strip(), 16):
                    body += await self.reader.readexactly(size)
                    await self.reader.readline()
                await self.reader.readline()
            else:
                body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return RawAnswer(int(head[0].split(" ")[1]), headers, body)

    async def ask(self, request: bytes) -> RawAnswer:
        await self.send(request)
        return await self.answer()

    async def rest(self) -> bytes:
        """All that comes until the server closes."""
        async with asyncio.timeout(GUARD_SECONDS):
            data = b""
            with contextlib.suppress(ConnectionError):
                while piece := await self.reader.read(65536):
                    data += piece
            return data

    def close(self) -> None:
        self.writer.transport.abort()
