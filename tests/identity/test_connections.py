"""Open connections: counted, and ended with their credential. On both databases where keys are asked for."""

from collections.abc import Callable

import pytest
from tests.identity.test_keys import ADA
from tests.support.clock import Clock
from tests.support.logs import logged_by

from pilothouse.db import Database
from pilothouse.errors import TooMany, Unauthenticated, Unavailable
from pilothouse.identity import connections as connections_module
from pilothouse.identity.connections import Connections
from pilothouse.identity.keys import Keys
from pilothouse.identity.principal import Principal
from pilothouse.observability.logs import mask_secrets

Make = Callable[..., Connections]


@pytest.fixture
def connections(keys: Keys, clock: Clock) -> Connections:
    return Connections(keys, per_credential=3000, per_subject=5000, clock=clock.now)


def jwt(credential: str, *, expires_at: int | None = None, subject: str = "ada", tenant: str = "acme") -> Principal:
    return Principal(tenant, subject, frozenset(), "jwt", credential=credential, expires_at=expires_at)


async def test_a_connection_ends_when_its_token_expires(connections: Connections, clock: Clock) -> None:
    ended: list[str] = []
    for name, seconds in (("short", 5), ("long", 60)):
        with_it = connections.open(jwt(name, expires_at=clock.now() + seconds * 1000))
        with_it.when_ended(lambda _, name=name: ended.append(name))
    await connections.look()
    assert ended == []
    clock.turn(seconds=5)
    await connections.look()
    await connections.look()
    assert ended == ["short"]


async def test_a_connection_ends_when_its_key_is_revoked_or_its_parent(
    connections: Connections, keys: Keys, database: Database, clock: Clock
) -> None:
    _, parent = await keys.create(ADA, "parent", scopes=["keys:*", "chat"])
    _, child = await keys.create(await keys.authenticate(parent), "child", scopes=["chat"])
    _, other = await keys.create(ADA, "other", scopes=["chat"])
    errors: dict[str, Unauthenticated] = {}
    for name, token in (("parent", parent), ("child", child), ("other", other)):
        connection = connections.open(await keys.authenticate(token))
        connection.when_ended(lambda error, name=name: errors.update({name: error}))
    await connections.look()
    assert errors == {}
    elsewhere = Keys(database, clock=clock.now, monotonic=clock.monotonic)
    await elsewhere.revoke(ADA, (await keys.authenticate(parent)).key_id or "")
    await connections.look()
    assert sorted(errors) == ["child", "parent"]
    assert "revoked" in errors["child"].message


async def test_who_asks_late_is_told_that_it_has_ended(connections: Connections, clock: Clock) -> None:
    connection = connections.open(jwt("short", expires_at=clock.now()))
    await connections.look()
    told: list[Unauthenticated] = []
    connection.when_ended(told.append)
    assert [error.code for error in told] == ["unauthenticated"]


async def test_a_connection_that_fails_to_end_stops_no_other_and_is_told_again(
    connections: Connections, clock: Clock
) -> None:
    told: list[str] = []
    failures = [RuntimeError("no"), None]

    def fail_once(_: Unauthenticated) -> None:
        failure = failures.pop(0)
        if failure is not None:
            raise failure
        told.append("late")

    for name in ("one", "one", "two"):
        connections.open(jwt(name, expires_at=clock.now())).when_ended(lambda _, name=name: told.append(name))
    connections.open(jwt("zero", expires_at=clock.now())).when_ended(fail_once)
    connections.open(jwt("zero", expires_at=clock.now())).when_ended(lambda _: told.append("zero"))
    connections.open(jwt("three", expires_at=clock.now())).when_ended(lambda _: told.append("three"))
    with logged_by(connections_module) as lines:
        await connections.look()
        assert sorted(told) == ["one", "one", "three", "two", "zero"]
        await connections.look()
    assert told[-1] == "late"
    assert [line["event"] for line in lines].count("connection_not_ended") == 1


async def test_the_log_names_the_credential_whose_connections_ended(connections: Connections, keys: Keys) -> None:
    key, token = await keys.create(ADA, "key", scopes=["chat"])
    connections.open(await keys.authenticate(token))
    await keys.revoke(ADA, key.id)
    with logged_by(connections_module) as lines:
        await connections.look()
    (line,) = [mask_secrets(None, "info", line) for line in lines]
    assert (line["event"], line["by"], line["subject"]) == ("connections_ended", key.id, ADA.subject)


async def test_two_thousand_idle_connections_cost_one_query(
    connections: Connections, keys: Keys, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    read = database.read

    async def counted(*args, **kwargs):
        nonlocal reads
        reads += 1
        return await read(*args, **kwargs)

    tokens = [(await keys.create(ADA, f"key {number}", scopes=["chat"]))[1] for number in range(3)]
    callers = [await keys.authenticate(token) for token in tokens]
    for number in range(2000):
        connections.open(callers[number % 3])
        connections.open(jwt(f"jwt {number}", subject=f"subject {number}"))
    monkeypatch.setattr(database, "read", counted)
    await connections.look()
    assert reads == 1
    assert len(connections) == 4000


async def test_looks_come_often_enough_to_end_what_was_revoked_within_five_seconds(
    connections: Connections, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Unauthenticated] = []
    connections.open(jwt("short", expires_at=clock.now())).when_ended(told.append)
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("pilothouse.identity.connections.asyncio.sleep", sleep)
    await connections.round()
    assert len(told) == 1
    assert sum(waited) < 5


async def test_without_connections_of_keys_the_database_is_not_asked(
    connections: Connections, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*args, **kwargs):
        raise Unavailable("It is away.")

    monkeypatch.setattr(database, "read", fail)
    connections.open(jwt("a token"))
    await connections.look()


async def test_tokens_expire_though_the_database_is_away(
    connections: Connections, keys: Keys, database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, token = await keys.create(ADA, "a key", scopes=["chat"])
    told: list[str] = []
    for name, principal in (("key", await keys.authenticate(token)), ("jwt", jwt("short", expires_at=clock.now()))):
        connections.open(principal).when_ended(lambda _, name=name: told.append(name))

    async def fail(*args, **kwargs):
        raise Unavailable("It is away.")

    monkeypatch.setattr(database, "read", fail)
    with pytest.raises(Unavailable):
        await connections.look()
    assert told == ["jwt"]  # what can't be known stays open


async def test_limits_hold_for_a_credential_and_for_a_subject_of_a_tenant(keys: Keys) -> None:
    connections = Connections(keys, per_credential=2, per_subject=3)
    opened = [connections.open(jwt(name)) for name in ("one", "one", "two")]
    with pytest.raises(TooMany, match="This token has 2") as caught:
        connections.open(jwt("one"))
    assert (caught.value.status, caught.value.code) == (429, "too_many_connections")
    with pytest.raises(TooMany, match="You have 3"):
        connections.open(jwt("two"))
    connections.open(jwt("three", tenant="other"))
    opened[0].close()
    opened[0].close()
    connections.open(jwt("two"))
    with pytest.raises(TooMany):
        connections.open(jwt("one"))


async def test_what_is_closed_leaves_nothing_behind(keys: Keys) -> None:
    connections = Connections(keys, per_credential=2, per_subject=3)
    with connections.open(jwt("one")), connections.open(jwt("one")):
        assert len(connections) == 2
    assert len(connections) == 0
    assert not connections._by_credential
    assert not connections._of_subject
