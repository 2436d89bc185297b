"""API keys, on both databases."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import Connection, select, update
from tests.support.clock import Clock

from pilothouse.db import Database, open_database
from pilothouse.errors import Forbidden, InvalidRequest, NotFound, Unauthenticated, Unavailable
from pilothouse.identity import repository
from pilothouse.identity.keys import Keys
from pilothouse.identity.principal import Principal
from pilothouse.identity.tables import api_keys


def person(subject: str, *scopes: str, tenant: str = "acme") -> Principal:
    return Principal(tenant, subject, frozenset(scopes or {"chat", "runs:*", "keys:*"}), "jwt")


ADA = person("ada")
BOB = person("bob")
ADMIN = person("root", "admin", "keys:*")


def rows(connection: Connection) -> list[dict[str, object]]:
    return [dict(row) for row in connection.execute(select(api_keys)).mappings()]


class SlowRead:
    """A database's `read` whose answer is held back once it is known."""

    def __init__(self, database: Database) -> None:
        self.read = database.read
        self.was_read, self.may_return = asyncio.Event(), asyncio.Event()

    async def __call__(self, *args, **kwargs):
        found = await self.read(*args, **kwargs)
        self.was_read.set()
        await self.may_return.wait()
        return found


async def test_a_new_key_authenticates_as_its_maker_with_its_own_scopes(keys: Keys) -> None:
    record, token = await keys.create(ADA, "nightly", scopes=["runs:read", "chat", "chat"])
    assert await keys.authenticate(token) == Principal(
        "acme", "ada", frozenset({"chat", "runs:read"}), "api_key", record.id
    )
    assert len(token) == 3 + 8 + 1 + 43
    assert token.startswith(record.prefix + "_")


async def test_the_database_holds_no_secret(keys: Keys, database: Database) -> None:
    _, token = await keys.create(ADA, "nightly", scopes=["chat"])
    assert token.rpartition("_")[2] not in str(await database.read(rows))
    assert token[12:] not in str(await database.read(rows))


@pytest.mark.parametrize(
    "wrong",
    ["", "ph_", "ph_x", "sk-abc", "ph_00000000_" + "A" * 43, "ph_00000000_" + "A" * 42, "ph_é", "ph_" + "a" * 100_000],
)
async def test_what_is_no_key_is_refused(keys: Keys, wrong: str) -> None:
    with pytest.raises(Unauthenticated, match="not an API key") as caught:
        await keys.authenticate(wrong)
    assert caught.value.headers["WWW-Authenticate"].startswith("Bearer ")


async def test_a_key_with_one_character_changed_is_refused(keys: Keys) -> None:
    _, token = await keys.create(ADA, "nightly", scopes=["chat"])
    for at in (4, 15, len(token) - 1):
        other = "1" if token[at] != "1" else "2"
        with pytest.raises(Unauthenticated):
            await keys.authenticate(token[:at] + other + token[at + 1 :])
    with pytest.raises(Unauthenticated):
        await keys.authenticate(token + "\n")


async def test_an_expired_key_is_refused_even_while_remembered(keys: Keys, clock: Clock) -> None:
    _, token = await keys.create(ADA, "short", scopes=["chat"], expires_at=clock.at(seconds=2))
    await keys.authenticate(token)
    clock.turn(seconds=2)
    with pytest.raises(Unauthenticated, match="expired"):
        await keys.authenticate(token)


async def test_a_revoked_key_is_refused_at_once_here(keys: Keys) -> None:
    record, token = await keys.create(ADA, "nightly", scopes=["chat"])
    await keys.authenticate(token)
    await keys.revoke(ADA, record.id)
    with pytest.raises(Unauthenticated, match="revoked"):
        await keys.authenticate(token)


async def test_a_key_revoked_on_another_node_is_refused_within_five_seconds(
    keys: Keys, database: Database, clock: Clock
) -> None:
    record, token = await keys.create(ADA, "nightly", scopes=["chat"])
    await keys.authenticate(token)
    other_node = Keys(database, clock=clock.now, monotonic=clock.monotonic)
    await other_node.revoke(ADA, record.id)
    clock.turn(seconds=4.9)
    await keys.authenticate(token)
    clock.turn(seconds=0.1)
    with pytest.raises(Unauthenticated, match="revoked"):
        await keys.authenticate(token)


async def test_a_key_read_before_its_revocation_here_is_not_remembered_after(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look-up that started before the revocation and ends after it must not bring the key back."""
    keys = Keys(database, clock=clock.now, monotonic=clock.monotonic)
    record, token = await keys.create(ADA, "nightly", scopes=["chat"])
    slow = SlowRead(database)
    monkeypatch.setattr(database, "read", slow)
    early = asyncio.create_task(keys.authenticate(token))
    await slow.was_read.wait()
    await keys.revoke(ADA, record.id)
    slow.may_return.set()
    await early
    with pytest.raises(Unauthenticated, match="revoked"):
        await keys.authenticate(token)
    await keys.close()


async def test_a_key_that_is_found_revoked_is_refused_from_then_on(
    keys: Keys, database: Database, clock: Clock
) -> None:
    record, token = await keys.create(ADA, "nightly", scopes=["chat"])
    await keys.authenticate(token)
    await Keys(database, clock=clock.now, monotonic=clock.monotonic).revoke(ADA, record.id)
    assert await keys.usable([record.id]) == set()
    with pytest.raises(Unauthenticated, match="revoked"):
        await keys.authenticate(token)


async def test_a_key_read_before_it_was_found_revoked_is_not_remembered_after(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys(database, clock=clock.now, monotonic=clock.monotonic)
    record, token = await keys.create(ADA, "nightly", scopes=["chat"])
    slow = SlowRead(database)
    monkeypatch.setattr(database, "read", slow)
    early = asyncio.create_task(keys.authenticate(token))
    await slow.was_read.wait()
    monkeypatch.setattr(database, "read", slow.read)
    await Keys(database, clock=clock.now, monotonic=clock.monotonic).revoke(ADA, record.id)
    assert await keys.usable([record.id]) == set()
    slow.may_return.set()
    await early
    with pytest.raises(Unauthenticated, match="revoked"):
        await keys.authenticate(token)
    await keys.close()


async def test_a_known_key_costs_no_query_for_five_seconds(
    keys: Keys, database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, token = await keys.create(ADA, "nightly", scopes=["chat"])
    await keys.authenticate(token)
    await keys.close()
    reads = 0
    read = database.read

    async def counted(*args, **kwargs):
        nonlocal reads
        reads += 1
        return await read(*args, **kwargs)

    monkeypatch.setattr(database, "read", counted)
    for _ in range(10):
        await keys.authenticate(token)
    assert reads == 0
    clock.turn(seconds=5)
    await keys.authenticate(token)
    assert reads == 1


async def test_what_is_remembered_is_bounded(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilothouse.identity.keys._MOST_CACHED", 3)
    tokens = [(await keys.create(ADA, f"key {number}", scopes=["chat"]))[1] for number in range(6)]
    for token in tokens:
        await keys.authenticate(token)
    assert len(keys._known) == 3
    assert len(keys._touched) == 3


async def test_use_is_noted_at_most_once_a_minute(keys: Keys, database: Database, clock: Clock) -> None:
    _, token = await keys.create(ADA, "nightly", scopes=["chat"])
    seen: list[object] = []
    for seconds in (0, 10, 49, 1, 30, 30):  # at 0, 10, 59, 60, 90, 120 s
        clock.turn(seconds=seconds)
        await keys.authenticate(token)
        await keys.close()
        seen.append((await database.read(rows))[0]["last_used_at"])
    start = seen[0]
    assert isinstance(start, int)
    assert seen == [start, start, start, start + 60_000, start + 60_000, start + 120_000]


async def test_two_nodes_note_a_use_once(keys: Keys, database: Database, clock: Clock) -> None:
    record, token = await keys.create(ADA, "nightly", scopes=["chat"])
    await keys.authenticate(token)
    await keys.close()
    clock.turn(seconds=30)
    await database.write(repository.touch_key, record, now=clock.now())  # as a node would that has not heard of it
    assert (await database.read(rows))[0]["last_used_at"] == clock.now() - 30_000


async def test_many_at_once_with_one_key_all_get_in(keys: Keys) -> None:
    _, token = await keys.create(ADA, "nightly", scopes=["chat"])
    found = await asyncio.gather(*(keys.authenticate(token) for _ in range(50)))
    assert {principal.subject for principal in found} == {"ada"}


async def test_noting_a_use_never_fails_a_request(
    keys: Keys, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, token = await keys.create(ADA, "nightly", scopes=["chat"])
    tried = asyncio.Event()

    async def fail(*args, **kwargs):
        tried.set()
        raise Unavailable("The disk is full.")

    monkeypatch.setattr(database, "write", fail)
    assert (await keys.authenticate(token)).subject == "ada"
    await keys.close()
    assert tried.is_set()


async def test_while_the_database_is_away_a_known_key_still_works_and_then_503_not_401(
    sqlite_url: str, clock: Clock
) -> None:
    database = await open_database(sqlite_url)
    keys = Keys(database, clock=clock.now, monotonic=clock.monotonic)
    _, token = await keys.create(ADA, "nightly", scopes=["chat"])
    await keys.authenticate(token)
    await keys.close()
    await database.close()
    clock.turn(seconds=4)
    await keys.authenticate(token)
    clock.turn(seconds=1)
    with pytest.raises(Unavailable):
        await keys.authenticate(token)


@pytest.mark.parametrize("scope", ["admin", "*", "conversations:read", "conversations:*"])
async def test_a_key_never_has_a_scope_its_maker_lacks(keys: Keys, scope: str) -> None:
    with pytest.raises(Forbidden) as caught:
        await keys.create(ADA, "more", scopes=["chat", scope])
    assert caught.value.extra == {"missing_scope": scope}


async def test_a_key_of_a_key_has_no_more_than_the_first(keys: Keys) -> None:
    _, token = await keys.create(ADA, "first", scopes=["keys:write", "runs:read"])
    first = await keys.authenticate(token)
    await keys.create(first, "second", scopes=["runs:read"])
    for scope in ("runs:*", "runs:write", "chat", "keys:read"):
        with pytest.raises(Forbidden):
            await keys.create(first, "third", scopes=[scope])


async def test_without_keys_write_no_key_is_made_or_revoked(keys: Keys) -> None:
    record, _ = await keys.create(ADA, "nightly", scopes=["chat"])
    reader = person("ada", "keys:read", "chat")
    with pytest.raises(Forbidden, match="keys:write"):
        await keys.create(reader, "nightly", scopes=["chat"])
    with pytest.raises(Forbidden, match="keys:write"):
        await keys.revoke(reader, record.id)
    with pytest.raises(Forbidden, match="keys:read"):
        await keys.page(person("ada", "chat"), limit=10)


@pytest.mark.parametrize("name", ["", "  ", "a\x00b", "\ud800", "x" * 101])
async def test_a_bad_name_is_refused(keys: Keys, name: str) -> None:
    with pytest.raises(InvalidRequest, match="name"):
        await keys.create(ADA, name, scopes=["chat"])


@pytest.mark.parametrize("scopes", [[], ["Chat"], ["runs:"], ["a b"], ["chat\n"], ["*:read"], ["x" * 65], ["é"]])
async def test_a_bad_scope_is_refused(keys: Keys, scopes: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="scope"):
        await keys.create(person("ada", "*"), "nightly", scopes=scopes)


async def test_an_expiry_in_the_past_or_without_offset_is_refused(keys: Keys, clock: Clock) -> None:
    for wrong in (clock.at(seconds=0), clock.at(seconds=-1), clock.at(seconds=60).replace(tzinfo=None)):
        with pytest.raises(InvalidRequest, match="expires_at"):
            await keys.create(ADA, "nightly", scopes=["chat"], expires_at=wrong)


async def test_names_in_any_script_are_kept(keys: Keys) -> None:
    owner = person("渡辺|👩‍🚀")
    _, token = await keys.create(owner, "ключ", scopes=["chat"])
    assert (await keys.authenticate(token)).subject == "渡辺|👩‍🚀"
    assert [key.name for key in await keys.page(owner, limit=10)] == ["ключ"]


async def test_p10_nobody_lists_or_revokes_anothers_keys(keys: Keys) -> None:
    record, token = await keys.create(ADA, "nightly", scopes=["chat"])
    stranger = person("ada", "*", tenant="other")
    for other in (BOB, stranger):
        assert await keys.page(other, limit=10) == []
        with pytest.raises(NotFound):
            await keys.revoke(other, record.id)
    assert await keys.page(stranger, limit=10, everyone=True) == []
    await keys.authenticate(token)


async def test_an_admin_sees_and_revokes_all_keys_of_its_tenant(keys: Keys) -> None:
    record, token = await keys.create(ADA, "nightly", scopes=["chat"])
    assert [key.id for key in await keys.page(ADMIN, limit=10, everyone=True)] == [record.id]
    assert await keys.page(ADMIN, limit=10) == []
    await keys.revoke(ADMIN, record.id)
    with pytest.raises(Unauthenticated, match="revoked"):
        await keys.authenticate(token)
    with pytest.raises(Forbidden, match="admin"):
        await keys.page(ADA, limit=10, everyone=True)


async def test_revoking_again_keeps_the_first_time(keys: Keys, clock: Clock) -> None:
    record, _ = await keys.create(ADA, "nightly", scopes=["chat"])
    first = await keys.revoke(ADA, record.id)
    clock.turn(seconds=60)
    again = await keys.revoke(ADA, record.id)
    assert again.revoked_at == first.revoked_at == clock.now() - 60_000


@pytest.mark.parametrize("key_id", ["", "key_none", "a\x00b", "\ud800", "x" * 10_000])
async def test_revoking_what_is_no_key_is_not_found(keys: Keys, key_id: str) -> None:
    with pytest.raises(NotFound):
        await keys.revoke(ADA, key_id)


async def test_pages_hold_every_key_once_newest_first(keys: Keys, clock: Clock) -> None:
    made: list[str] = []
    for number in range(7):
        made.append((await keys.create(ADA, f"key {number}", scopes=["chat"]))[0].id)
        clock.turn(seconds=number % 2)  # pairs share their millisecond
    seen = []
    after = None
    while page := await keys.page(ADA, limit=2, after=after):
        seen += page
        after = (page[-1].created_at, page[-1].id)
    assert sorted(key.id for key in seen) == sorted(made)
    assert [key.created_at for key in seen] == sorted((key.created_at for key in seen), reverse=True)


async def test_only_keys_that_open_the_door_count_as_usable(keys: Keys, clock: Clock) -> None:
    assert not await keys.any_usable()
    short, _ = await keys.create(ADA, "short", scopes=["chat"], expires_at=clock.at(seconds=60))
    assert await keys.any_usable()
    clock.turn(seconds=60)
    assert not await keys.any_usable()
    lasting, _ = await keys.create(ADA, "lasting", scopes=["chat"], expires_at=clock.at(seconds=1) + timedelta(days=1))
    assert await keys.any_usable()
    await keys.revoke(ADA, lasting.id)
    assert not await keys.any_usable()
    assert short.id != lasting.id


# --- keys made with keys


async def test_a_key_expires_with_its_maker_unless_it_is_to_expire_earlier(keys: Keys, clock: Clock) -> None:
    _, token = await keys.create(ADA, "maker", scopes=["keys:*", "chat"], expires_at=clock.at(seconds=100))
    maker = await keys.authenticate(token)
    for wanted, expires_at in ((None, 100), (50, 50), (100, 100)):
        when = None if wanted is None else clock.at(seconds=wanted)
        record, _ = await keys.create(maker, "child", scopes=["chat"], expires_at=when)
        assert (record.expires_at, record.parent_id) == (clock.now() + expires_at * 1000, maker.key_id)
    with pytest.raises(InvalidRequest, match="expires_at can be") as caught:
        await keys.create(maker, "child", scopes=["chat"], expires_at=clock.at(seconds=101))
    assert caught.value.code == "expiry_too_late"


async def test_a_key_without_expiry_makes_keys_of_any_length(keys: Keys, clock: Clock) -> None:
    _, token = await keys.create(ADA, "maker", scopes=["keys:*", "chat"])
    maker = await keys.authenticate(token)
    assert (await keys.create(maker, "child", scopes=["chat"]))[0].expires_at is None
    assert (await keys.create(maker, "child", scopes=["chat"], expires_at=clock.at(seconds=9)))[0].expires_at


async def test_a_key_made_with_a_jwt_expires_with_it_and_has_no_parent(keys: Keys, clock: Clock) -> None:
    signed_in = Principal("acme", "ada", ADA.scopes, "jwt", credential="jwt_x", expires_at=clock.now() + 60_000)
    record, _ = await keys.create(signed_in, "child", scopes=["chat"])
    assert (record.expires_at, record.parent_id) == (clock.now() + 60_000, None)
    with pytest.raises(InvalidRequest, match="expires_at"):
        await keys.create(signed_in, "child", scopes=["chat"], expires_at=clock.at(seconds=61))
    clock.turn(seconds=60)
    with pytest.raises(Unauthenticated, match="expired"):
        await keys.create(signed_in, "child", scopes=["chat"])


async def test_a_revoked_or_expired_key_that_is_remembered_makes_no_key(
    keys: Keys, database: Database, clock: Clock
) -> None:
    record, token = await keys.create(ADA, "maker", scopes=["keys:*", "chat"])
    maker = await keys.authenticate(token)
    elsewhere = Keys(database, clock=clock.now, monotonic=clock.monotonic)
    await elsewhere.revoke(ADA, record.id)
    with pytest.raises(Unauthenticated, match="revoked"):
        await keys.create(await keys.authenticate(token), "child", scopes=["chat"])
    assert maker.key_id == record.id
    assert len(await database.read(rows)) == 1


async def test_a_revocation_reaches_every_generation_and_nobody_else(keys: Keys, clock: Clock) -> None:
    root, token = await keys.create(ADA, "root", scopes=["keys:*", "chat"])
    line = [token]
    for number in range(40):
        clock.turn(seconds=number % 2)
        line.append((await keys.create(await keys.authenticate(line[-1]), "child", scopes=["keys:*", "chat"]))[1])
    for _ in range(5):
        line.append((await keys.create(await keys.authenticate(line[20]), "child", scopes=["chat"]))[1])
    _, other = await keys.create(ADA, "other", scopes=["chat"])
    middle = (await keys.authenticate(line[20])).key_id or ""
    await keys.revoke(ADA, middle)
    first = clock.now()
    for token in line[:20]:
        await keys.authenticate(token)
    for token in line[20:]:
        with pytest.raises(Unauthenticated, match="revoked"):
            await keys.authenticate(token)
    clock.turn(seconds=60)
    await keys.revoke(ADA, root.id)
    for token in line:
        with pytest.raises(Unauthenticated, match="revoked"):
            await keys.authenticate(token)
    await keys.authenticate(other)
    times = {key.id: key.revoked_at for key in await keys.page(ADA, limit=100)}
    assert times[middle] == first  # an earlier revocation keeps its time
    assert times[root.id] == first + 60_000


async def test_a_revocation_stays_in_its_tenant_whatever_the_rows_say(keys: Keys, database: Database) -> None:
    parent, _ = await keys.create(ADA, "parent", scopes=["chat"])
    theirs, token = await keys.create(person("bob", tenant="other"), "theirs", scopes=["chat"])
    astray = update(api_keys).where(api_keys.c.id == theirs.id).values(parent_id=parent.id)
    await database.write(lambda connection: connection.execute(astray) and None)
    await keys.revoke(ADA, parent.id)
    assert (await keys.authenticate(token)).tenant == "other"


async def test_two_revocations_that_meet_both_succeed(keys: Keys, database: Database, clock: Clock) -> None:
    root, token = await keys.create(ADA, "root", scopes=["keys:*", "chat"])
    ids = [root.id]
    for _ in range(15):
        record, token = await keys.create(await keys.authenticate(token), "child", scopes=["keys:*", "chat"])
        ids.append(record.id)
    nodes = [Keys(database, clock=clock.now, monotonic=clock.monotonic) for _ in ids]
    await asyncio.gather(*(node.revoke(ADA, key_id) for node, key_id in zip(nodes, reversed(ids), strict=True)))
    assert all(row["revoked_at"] for row in await database.read(rows))


async def test_why_a_key_is_no_longer_good_is_asked_for_anew_each_time(keys: Keys, clock: Clock) -> None:
    short, _ = await keys.create(ADA, "short", scopes=["chat"], expires_at=clock.at(seconds=5))
    revoked, _ = await keys.create(ADA, "revoked", scopes=["chat"])
    assert [await keys.lapsed("acme", key.id) for key in (short, revoked)] == [None, None]
    await keys.revoke(ADA, revoked.id)
    clock.turn(seconds=5)
    assert [await keys.lapsed("acme", key.id) for key in (short, revoked)] == ["expired", "revoked"]
    assert await keys.lapsed("other", short.id) == "revoked"  # it has no such key
    assert await keys.lapsed("acme", "key_nosuch") == "revoked"


async def test_which_keys_are_usable_is_asked_for_many_at_once(keys: Keys, clock: Clock) -> None:
    good, _ = await keys.create(ADA, "good", scopes=["chat"])
    short, _ = await keys.create(ADA, "short", scopes=["chat"], expires_at=clock.at(seconds=5))
    revoked, _ = await keys.create(ADA, "revoked", scopes=["chat"])
    await keys.revoke(ADA, revoked.id)
    clock.turn(seconds=5)
    asked = [good.id, short.id, revoked.id, *(f"key_{number}" for number in range(2000))]
    assert await keys.usable(asked) == {good.id}
    assert await keys.usable([]) == set()
