"""The command line and servers behind TLS."""

import asyncio
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support.certificates import make_certificates

from pilothouse.cli.actions.client import Refused, ServerClient

ANSWER = (
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\nConnection: close\r\n\r\n{"items": []}'
)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, asyncio.IncompleteReadError):  # who expects TLS, or does not trust ours, leaves
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)
        await writer.drain()
    writer.close()


async def agents(port: int, tls: ssl.SSLContext | None) -> object:
    async with (
        await asyncio.start_server(serve, "127.0.0.1", port, ssl=tls) as server,
        ServerClient(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", None) as client,
    ):
        return await client.get("/v1/agents")


async def test_an_authority_that_ssl_cert_file_names_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = make_certificates(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    assert await agents(0, certificates.server) == {"items": []}


async def test_a_certificate_that_is_not_accepted_is_said_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with pytest.raises(Refused, match=r"is not trusted: unable to get local issuer certificate\. .*SSL_CERT_FILE"):
        await agents(0, make_certificates(tmp_path).server)


async def test_a_server_without_tls_is_said() -> None:
    with pytest.raises(Refused, match=r"it does not speak TLS as it should \("):
        await agents(0, None)
