"""TLS in front of a PostgreSQL that has none: the server of the wheel is built without it."""

import asyncio
import ssl
import struct
from contextlib import suppress
from typing import Self

_TLS_REQUEST = struct.pack("!ii", 8, 80877103)
"""https://www.postgresql.org/docs/current/protocol-message-formats.html (SSLRequest)"""


class TlsPostgres:
    """Takes connections on 127.0.0.1, speaks TLS to those who ask for it, and passes the bytes on to a server.

    Attributes:
        encrypted: connections that were TLS.
        plain: connections that were not.
    """

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._target = port
        self._context = context
        self._tasks: set[asyncio.Task[None]] = set()
        self.encrypted = 0
        self.plain = 0
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there: asyncio.StreamWriter | None = None
        try:
            first = await reader.readexactly(8)
            if first == _TLS_REQUEST:
                writer.write(b"S")
                await writer.start_tls(self._context)
                self.encrypted += 1
                first = b""
            else:
                self.plain += 1
            source, there = await asyncio.open_connection("127.0.0.1", self._target)
            there.write(first)
            await asyncio.gather(_pass_on(reader, there), _pass_on(source, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass  # a client that does not like the certificate leaves
        finally:
            writer.transport.abort()
            if there is not None:
                there.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    else:
        writer.close()
