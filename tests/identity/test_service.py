"""Which credentials a server takes, and where it may listen."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import jwt
import pytest

from pilothouse.db import Database
from pilothouse.errors import StartupError, Unauthenticated
from pilothouse.identity import Identity, Principal, local_principal
from pilothouse.identity.demo import ensure_local_key
from pilothouse.kit.addresses import is_loopback
from pilothouse.settings import AuthSettings

SECRET = "0123456789abcdef0123456789abcdef"
MAKER = Principal("acme", "ada", frozenset({"*"}), "local")
JWT = {"jwt_secret": SECRET, "jwt_issuer": "https://login.example", "jwt_audience": "pilothouse"}


def settings(**changes) -> AuthSettings:
    return AuthSettings.model_validate(changes)


def a_jwt() -> str:
    payload = {"sub": "ada", "iss": JWT["jwt_issuer"], "aud": "pilothouse", "exp": int(time.time()) + 60}
    return jwt.encode(payload, SECRET, "HS256")


@pytest.fixture
async def identity(database: Database) -> AsyncIterator[Identity]:
    made = Identity(settings(**JWT), database)
    await made.start()
    yield made
    await made.close()


async def test_api_keys_and_jwts_are_both_taken(identity: Identity) -> None:
    _, token = await identity.keys.create(MAKER, "nightly", scopes=["chat"])
    assert (await identity.authenticate(f"Bearer {token}")).kind == "api_key"
    assert (await identity.authenticate(f"Bearer {a_jwt()}")).kind == "jwt"
    assert (await identity.authenticate(f"bearer   {token} ")).kind == "api_key"


async def test_without_credentials_the_answer_is_401_and_says_what_to_send(identity: Identity) -> None:
    with pytest.raises(Unauthenticated, match="Authorization: Bearer") as caught:
        await identity.authenticate(None)
    assert caught.value.headers == {"WWW-Authenticate": 'Bearer realm="pilothouse"'}


@pytest.mark.parametrize(
    "header",
    [
        "",
        " ",
        "Bearer",
        "Bearer ",
        "Basic YTpi",
        "Token abc",
        "Bearer\tabc",
        "Bearer é",
        "Bearer ph_\ud800",
        "Bearer abc",
        "Bearer a b c",
        "Bearer " + "x" * 100_000,
        "Bearer ph_" + "x" * 8_000,
    ],
)
async def test_any_other_header_is_401(identity: Identity, header: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await identity.authenticate(header)
    assert caught.value.status == 401
    assert 'error="invalid_token"' in caught.value.headers["WWW-Authenticate"]


async def test_api_keys_can_be_switched_off(database: Database) -> None:
    identity = Identity(settings(**JWT, api_keys=False), database)
    _, token = await identity.keys.create(MAKER, "nightly", scopes=["chat"])
    await identity.start()
    with pytest.raises(Unauthenticated, match="does not accept API keys"):
        await identity.authenticate(f"Bearer {token}")
    await identity.close()


async def test_jwts_are_refused_where_none_are_configured(database: Database) -> None:
    identity = Identity(settings(), database)
    with pytest.raises(Unauthenticated, match="no other tokens"):
        await identity.authenticate(f"Bearer {a_jwt()}")


async def test_p10_nobody_gets_in_without_credentials_unless_local_mode_was_asked_for(database: Database) -> None:
    unconfigured = Identity(settings(), database)
    await unconfigured.start()
    with pytest.raises(Unauthenticated):
        await unconfigured.authenticate(None)
    local = Identity(settings(), database, local=local_principal())
    assert (await local.authenticate(None)).kind == "local"
    assert local.open
    assert not unconfigured.open


async def test_in_local_mode_a_bad_token_is_still_refused(database: Database) -> None:
    local = Identity(settings(), database, local=local_principal())
    with pytest.raises(Unauthenticated):
        await local.authenticate("Bearer ph_wrong")


async def test_a_server_nobody_can_log_in_to_listens_on_this_machine_only(database: Database) -> None:
    identity = Identity(settings(), database)
    await identity.start()
    assert not identity.configured
    identity.check_listen_address("127.0.0.1")
    for host in ("0.0.0.0", "::", "", "192.168.1.5", "example.com"):
        with pytest.raises(StartupError, match="pilothouse keys create"):
            identity.check_listen_address(host)
    with pytest.raises(StartupError, match="pilothouse keys create"):
        identity.require_configured()


async def test_a_key_or_jwt_settings_open_other_addresses(database: Database, identity: Identity) -> None:
    identity.check_listen_address("0.0.0.0")
    with_keys = Identity(settings(), database)
    await with_keys.keys.create(MAKER, "nightly", scopes=["chat"])
    await with_keys.start()
    with_keys.check_listen_address("0.0.0.0")
    with_keys.require_configured()


async def test_keys_do_not_count_where_they_are_switched_off(database: Database) -> None:
    identity = Identity(settings(api_keys=False), database)
    await identity.keys.create(MAKER, "nightly", scopes=["chat"])
    await identity.start()
    assert not identity.configured


async def test_local_mode_never_listens_beyond_this_machine(database: Database) -> None:
    identity = Identity(settings(**JWT), database, local=local_principal())
    await identity.start()
    identity.check_listen_address("::1")
    with pytest.raises(StartupError, match="local development mode"):
        identity.check_listen_address("0.0.0.0")
    with pytest.raises(StartupError, match="production"):
        identity.require_configured()


def test_unsafe_jwt_settings_stop_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="PILOTHOUSE_AUTH_JWT_SECRET"):
        Identity(settings(**{**JWT, "jwt_secret": "short"}), None)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "::1", "[::1]"])
def test_these_are_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "127.0.0.1.evil.example", "localhost.evil.example"])
def test_these_are_not(host: str) -> None:
    assert not is_loopback(host)


async def test_the_demo_key_is_made_once_and_kept_private(database: Database, tmp_path: Path) -> None:
    token = await ensure_local_key(database, tmp_path / "data")
    file = tmp_path / "data" / "demo.key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert await ensure_local_key(database, tmp_path / "data") == token
    principal = await Identity(settings(), database).keys.authenticate(token)
    assert (principal.tenant, principal.subject) == ("local", "demo")
    assert principal.has("keys:write")
    assert [path.name for path in file.parent.iterdir()] == ["demo.key"]


async def test_a_demo_key_that_no_longer_works_is_replaced(database: Database, tmp_path: Path) -> None:
    identity = Identity(settings(), database)
    first = await ensure_local_key(database, tmp_path)
    principal = await identity.keys.authenticate(first)
    assert principal.key_id
    await identity.keys.revoke(principal, principal.key_id)
    second = await ensure_local_key(database, tmp_path)
    assert second != first
    (tmp_path / "demo.key").write_bytes(b"\xff\x00junk")
    (tmp_path / "demo.key").chmod(0o644)
    third = await ensure_local_key(database, tmp_path)
    assert third not in {first, second}
    assert (tmp_path / "demo.key").stat().st_mode & 0o777 == 0o600
    await identity.close()


async def test_a_demo_key_that_cant_be_kept_is_one_clear_sentence(database: Database, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(StartupError, match="can't be kept in"):
        await ensure_local_key(database, tmp_path / "data")
