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


async def agents(tls: ssl.SSLContext | None) -> object:
    ended: list[asyncio.Event] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.append(end := asyncio.Event())
        with suppress(OSError):  # who expects TLS leaves
            await reader.read(65_536)
            writer.write(ANSWER)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        end.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls) as server:
        try:
            async with ServerClient(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", None) as client:
                return await client.get("/v1/agents")
        finally:
            for end in ended:
                await end.wait()


async def test_an_authority_that_ssl_cert_file_names_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = make_certificates(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    assert await agents(certificates.server) == {"items": []}


async def test_a_certificate_that_is_not_accepted_is_said_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with pytest.raises(Refused, match=r"is not trusted: unable to get local issuer certificate\. .*SSL_CERT_FILE"):
        await agents(make_certificates(tmp_path).server)


async def test_a_server_without_tls_is_said() -> None:
    with pytest.raises(Refused, match=r"it does not speak TLS as it should \("):
        await agents(None)


async def test_a_file_of_authorities_that_cannot_be_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content in (None, "no certificates"):
        file = tmp_path / "authorities.pem"
        if content is not None:
            file.write_text(content)
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        with pytest.raises(Refused, match="SSL_CERT_FILE or SSL_CERT_DIR can't be read: "):
            ServerClient("https://127.0.0.1:1", None)
