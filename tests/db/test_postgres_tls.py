"""TLS to PostgreSQL, as an address asks for it."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from sqlalchemy import Connection, text
from tests.support.certificates import Certificates, make_certificates
from tests.support.tls_postgres import TlsPostgres

from pilothouse.db import open_database
from pilothouse.db.migrate import upgrade_schema
from pilothouse.errors import StartupError


@pytest.fixture(autouse=True)
def no_certificates_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # asyncpg looks for ~/.postgresql/root.crt
    for name in ("PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path)


@pytest.fixture
async def server(empty_postgres_url: str, certificates: Certificates) -> AsyncIterator[TlsPostgres]:
    async with TlsPostgres(urlsplit(empty_postgres_url).port or 0, certificates.server) as proxy:
        yield proxy


@pytest.fixture
def url(empty_postgres_url: str, server: TlsPostgres) -> str:
    parts = urlsplit(empty_postgres_url)
    return empty_postgres_url.replace(f":{parts.port}/", f":{server.port}/")


def name_of(connection: Connection) -> str:
    return connection.execute(text("SELECT current_setting('application_name')")).scalar_one()


async def opens(url: str) -> str:
    database = await open_database(url, pool_size=1)
    try:
        await upgrade_schema(database)  # over the connection that has no time limit
        return await database.read(name_of)
    finally:
        await database.close()


@pytest.mark.parametrize("options", ["sslmode=prefer", "sslmode=require", "ssl=require", ""])
async def test_tls_without_a_check_of_the_certificate(options: str, url: str, server: TlsPostgres) -> None:
    await opens(f"{url}?{options}")
    assert server.encrypted >= 2
    assert server.plain == 0


@pytest.mark.parametrize("mode", ["sslmode=verify-ca", "sslmode=verify-full", "ssl=verify-full", "sslmode=require"])
async def test_tls_with_a_certificate_of_a_named_authority(
    mode: str, url: str, server: TlsPostgres, certificates: Certificates
) -> None:
    await opens(f"{url}?{mode}&sslrootcert={quote(str(certificates.authority), safe='')}")
    assert server.encrypted >= 2
    assert server.plain == 0


async def test_tls_can_be_turned_off(url: str, server: TlsPostgres) -> None:
    await opens(f"{url}?sslmode=disable")
    assert server.encrypted == 0


async def test_other_options_of_an_address_are_settings_of_the_session(url: str) -> None:
    assert await opens(f"{url}?application_name=shop&sslmode=require") == "shop"


async def test_the_environment_asks_for_tls_too(
    url: str, server: TlsPostgres, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as environment:
        environment.setenv("PGSSLMODE", "verify-full")
        environment.setenv("PGSSLROOTCERT", str(certificates.authority))
        await opens(url)
    assert (server.encrypted >= 2, server.plain) == (True, 0)


async def test_a_certificate_of_an_unknown_authority_is_refused_and_said(
    url: str, server: TlsPostgres, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = make_certificates(tmp_path / "other").authority
    with pytest.raises(StartupError, match=r"can't be used \(SSLCertVerificationError: .*certificate verify failed"):
        await open_database(f"{url}?sslmode=verify-full&sslrootcert={other}", limit_seconds=0.5)
    assert (server.encrypted, server.plain) == (0, 0)


async def test_a_certificate_for_another_name_is_refused_and_said(url: str, certificates: Certificates) -> None:
    address = url.replace("127.0.0.1", "localhost")
    with pytest.raises(StartupError, match=r"certificate is not valid for 'localhost'"):
        await open_database(f"{address}?sslmode=verify-full&sslrootcert={certificates.authority}", limit_seconds=0.5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("sslmode=verify-full", r"root certificate file .* does not exist"),
        ("ssl=verify-full", r"root certificate file .* does not exist"),
        ("sslmode=always", r"`sslmode` parameter must be one of: .*verify-full"),
        ("sslmode=verify-full&sslrootcert=/nowhere/ca.pem", r"sslrootcert .* can't be found: /nowhere/ca\.pem"),
        ("sslmode=require&channel_binding=require", r"unrecognized configuration parameter \"channel_binding\""),
        ("application_name=a&sslmode=sideways&sslpassword=hunter2", r"`sslmode` parameter must be one of"),
    ],
)
async def test_an_option_that_cannot_be_used_is_said_in_the_drivers_words(url: str, options: str, said: str) -> None:
    with pytest.raises(StartupError, match=said) as raised:
        await open_database(f"{url}?{options}", limit_seconds=0.5)
    assert "hunter2" not in raised.value.message


async def test_a_server_without_tls_is_refused_if_tls_is_required(empty_postgres_url: str) -> None:
    with pytest.raises(StartupError, match=r"rejected SSL upgrade"):
        await open_database(f"{empty_postgres_url}?sslmode=require", limit_seconds=0.5)
