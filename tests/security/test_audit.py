"""The audit log: what is in it, what is not, and that neither a flood nor a database that is away breaks it."""

import asyncio
import json
import time
from dataclasses import replace
from typing import Any

import aiohttp
import jwt
import pytest
from pydantic_ai import Agent
from sqlalchemy import select, update
from tests.support.commands import environment, ran
from tests.support.logs import logged_by
from tests.support.server import AUDIENCE, ISSUER, SECRET, Person, running

from pilothouse.audit import AuditRecord, refusals, service
from pilothouse.audit.record import bounded, new_record_id
from pilothouse.audit.refusals import (
    MOST_STRANGER_KINDS,
    MOST_SUBJECT_KINDS,
    MOST_TENANT_KINDS,
    PERIOD_MS,
    Refusals,
)
from pilothouse.audit.service import Audit, Wanted
from pilothouse.audit.tables import audit_records
from pilothouse.errors import Unavailable
from pilothouse.identity.principal import Principal
from pilothouse.runs.tables import runs
from pilothouse.testing.provider import Rule, Script, ToolCall, Turn, When
from pilothouse.tools import tool

EVERYTHING = Wanted()
SECRETS = ("my-secret-message", "my-secret-argument", "my-secret-result", "my-secret-title")
SCRIPT = Script(
    rules=[
        Rule(
            when=When(user_contains="refund"),
            turn=Turn(tool_calls=[ToolCall(name="refund", arguments={"note": "my-secret-argument"})]),
        )
    ],
    turns=[Turn(text="Hello.")],
)


@tool(effect="pure")
async def look(note: str) -> str:
    """Look something up."""
    if note == "break":
        raise RuntimeError(note)
    return "my-secret-result"


@tool(effect="once", approval=True)
async def refund(note: str) -> str:
    """Give money back."""
    return "my-secret-result"


def add_agent(app: Any) -> None:
    app.agent(Agent(name="helper"), tools=[look, refund])


def record(**changes: Any) -> AuditRecord:
    made = AuditRecord(
        id=new_record_id(),
        at=1_000,
        last_at=1_000,
        tenant="acme",
        subject="ada",
        credential="jwt",
        action="run.cancelled",
        outcome="ok",
    )
    return replace(made, **changes)


async def told(auditor: Person, **params: Any) -> list[dict[str, Any]]:
    """All records that `GET /v1/audit` shows, oldest first."""
    found: list[dict[str, Any]] = []
    while True:
        response = await auditor.get("/v1/audit", **params)
        assert response.status_code == 200, response.text
        page = response.json()
        found += page["items"]
        if page["next_cursor"] is None:
            return found[::-1]
        params["cursor"] = page["next_cursor"]


async def everything(audit: Audit) -> list[AuditRecord]:
    await audit.close()
    return (await audit.page_of_everything(wanted=EVERYTHING, limit=100_000))[::-1]


async def test_every_act_leaves_who_what_whereto_and_how_it_ended(database_url):
    async with running(database_url, SCRIPT, setup=add_agent) as server:
        ada = server.person("ada", scope="* admin")
        done = await ada.chat("my-secret-message")
        waiting = (await ada.send("refund please, my-secret-message")).json()
        steps = (await ada.run(waiting["run_id"]))["steps"]
        call_id = next(step["call_id"] for step in steps if step["kind"] == "tool")
        headers = {"User-Agent": "a-browser/1", "X-Request-ID": "req-of-mine"}
        key = (await ada.post("/v1/keys", {"name": "n", "scopes": ["chat"]}, **headers)).json()
        robot = Person(server.url, key["token"])
        assert (await robot.send("my-secret-message")).status_code == 200  # a chat leaves nothing
        await robot.close()
        answer = {"call_id": call_id, "approve": True}
        assert (await ada.post(f"/v1/runs/{waiting['run_id']}/input", answer)).status_code == 202
        assert (await ada.post(f"/v1/runs/{done['run_id']}/cancel")).status_code == 200
        fork = (await ada.post(f"/v1/runs/{done['run_id']}/fork", {"message": "my-secret-message"})).json()
        assert (await ada.post(f"/v1/runs/{done['run_id']}/release")).status_code == 409
        parked = {"state": "failed", "error": {"code": "poisoned", "message": "", "category": "fatal"}}
        await server.database.write(
            lambda c: c.execute(update(runs).where(runs.c.id == done["run_id"]).values(**parked)) and None
        )
        assert (await ada.post(f"/v1/runs/{done['run_id']}/release")).status_code == 202
        called = await ada.post("/v1/tools/look", {"arguments": {"note": "my-secret-argument"}})
        assert called.status_code == 200, called.text
        new = (await ada.post("/v1/conversations", {"title": "my-secret-title"})).json()
        assert (await ada.http.delete(f"/v1/conversations/{new['id']}")).status_code == 204
        assert (await ada.http.delete(f"/v1/keys/{key['id']}")).status_code == 204
        await server.services.audit.flush()

        records = await told(server.person("olga", scope="audit:read"))
        assert [(item["action"], item["outcome"], item["object_kind"], item["object_id"]) for item in records] == [
            ("key.created", "ok", "key", key["id"]),
            ("approval.decided", "ok", "run", waiting["run_id"]),
            ("run.cancelled", "ok", "run", done["run_id"]),
            ("run.forked", "ok", "run", done["run_id"]),
            ("run.released", "failed", "run", done["run_id"]),
            ("run.released", "ok", "run", done["run_id"]),
            ("tool.called", "ok", "tool", "look"),
            ("conversation.deleted", "ok", "conversation", new["id"]),
            ("key.revoked", "ok", "key", key["id"]),
        ]
        who = {(item["tenant"], item["subject"], item["credential"], item["client"]) for item in records}
        assert who == {("acme", "ada", "jwt", "127.0.0.1")}
        assert (records[0]["user_agent"], records[0]["request_id"]) == ("a-browser/1", "req-of-mine")
        assert records[0]["detail"]["scopes"] == "chat"
        assert records[1]["detail"] == {"call_id": call_id, "approve": True}
        assert records[3]["detail"] == {"new_run_id": fork["id"]}
        assert records[4]["code"] == "not_parked"
        stored = json.dumps([str(item) for item in await everything(server.services.audit)])
        for secret in (*SECRETS, key["token"], ada.token, key["token"].split("_")[-1]):
            assert secret not in stored


async def test_an_api_key_and_a_jwt_are_named_by_their_ids(sqlite_url):
    async with running(sqlite_url) as server:
        made = (await server.post("/v1/keys", {"name": "n", "scopes": ["keys:*"]})).json()
        robot = Person(server.url, made["token"])
        inner = (await robot.post("/v1/keys", {"name": "inner", "scopes": ["keys:read"]})).json()
        await robot.close()
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "tenant": "acme", "exp": int(time.time()) + 60}
        named = Person(server.url, jwt.encode({**claims, "scope": "keys:*", "jti": "token-7"}, SECRET, "HS256"))
        await named.http.delete(f"/v1/keys/{inner['id']}")
        await named.close()
        records = await told(server.person("olga", scope="audit:read"))
        assert [item["credential"] for item in records] == ["jwt", made["id"], "token-7"]


async def test_a_frame_that_cancels_leaves_a_record_too(database_url, monkeypatch):
    async with running(database_url, SCRIPT, setup=add_agent) as server:
        record, recorded = server.services.audit.record, asyncio.Event()

        async def record_and_say(made: AuditRecord) -> None:
            await record(made)
            recorded.set()

        monkeypatch.setattr(server.services.audit, "record", record_and_say)
        waiting = (await server.send("refund please")).json()
        async with server.session.ws_connect(f"/v1/chat/ws/{waiting['conversation_id']}") as socket:
            await socket.send_json({"type": "resume", "run_id": waiting["run_id"]})
            await socket.send_json({"type": "cancel", "run_id": waiting["run_id"]})
            async with asyncio.timeout(60):
                while (await socket.receive_json())["type"] != "run.cancelled":
                    pass
                await recorded.wait()  # the run's end is told before it
        reader = server.person("bob", scope="chat")
        async with reader.session.ws_connect("/v1/chat/ws/new") as socket:
            await socket.send_json({"type": "cancel", "run_id": waiting["run_id"]})
            assert (await socket.receive_json())["error"]["code"] == "missing_scope"
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await server.nobody().session.ws_connect("/v1/chat/ws/new")
        records = [(item.action, item.outcome, item.subject) for item in await everything(server.services.audit)]
        assert sorted(records, key=str) == [
            ("request.refused", "refused", "bob"),
            ("request.refused", "refused", None),
            ("run.cancelled", "ok", "ada"),
        ]


async def test_a_frame_that_cancels_no_run_of_ones_own_is_recorded_as_the_request_is(sqlite_url):
    async with running(sqlite_url, SCRIPT, setup=add_agent) as server:
        async with server.session.ws_connect("/v1/chat/ws/new") as socket:
            await socket.send_json({"type": "cancel", "run_id": "run_none"})
            assert (await socket.receive_json())["error"]["code"] == "run_not_found"
        await server.post("/v1/runs/run_none/cancel")
        records = [
            (item.action, item.outcome, item.code, item.object_id) for item in await everything(server.services.audit)
        ]
        failed = ("run.cancelled", "failed", "run_not_found")  # of one kind: the second is counted
        assert records == [(*failed, "run_none"), (*failed, None)]


async def test_a_flood_of_refused_requests_makes_two_records_that_hold_their_number(database_url, monkeypatch):
    monkeypatch.setattr(refusals, "PERIOD_MS", 10**9)  # however long the flood takes
    async with running(database_url) as server:
        garbage = Person(server.url, "ph_00000000_" + "A" * 43)
        narrow = server.person("bob", scope="orders:write")
        for number in range(60):
            assert (await garbage.get(f"/v1/runs/run_{number}")).status_code == 401
            assert (await garbage.post("/v1/keys", {"name": "n", "scopes": ["chat"]})).status_code == 401
            assert (await narrow.get(f"/v1/runs/run_{number}")).status_code == 403
            assert (await narrow.http.delete(f"/v1/keys/key_{number}")).status_code == 403
        await garbage.close()
        found = await everything(server.services.audit)
        counts: dict[tuple[Any, ...], list[int]] = {}
        for item in found:
            counts.setdefault((item.action, item.subject, item.credential, item.code), []).append(item.count)
        assert counts == {
            ("request.refused", None, "ph_00000000", "unauthenticated"): [1, 59],
            ("key.created", None, "ph_00000000", "unauthenticated"): [1, 59],
            ("request.refused", "bob", "jwt", "missing_scope"): [1, 59],
            ("key.revoked", "bob", "jwt", "missing_scope"): [1, 59],
        }
        assert found[0].object_id == "GET /v1/runs/run_0"
        mine = await told(server.person("olga", scope="audit:read"))
        assert {item["subject"] for item in mine} == {"bob"}  # who nobody knows belongs to no tenant


def refusal(number: int, **changes: Any) -> AuditRecord:
    return record(at=number, outcome="refused", code="missing_scope", **changes)


def stranger(number: int, **changes: Any) -> AuditRecord:
    made_up = {"tenant": None, "subject": None, "credential": f"ph_{number:08d}"}
    return refusal(number, **{**made_up, "client": f"2001:db8::{number:x}", **changes})


def test_strangers_of_ever_new_kinds_make_few_records_and_none_is_forgotten():
    counter = Refusals()
    written: list[AuditRecord] = []
    sent = 20 * MOST_STRANGER_KINDS
    for number in range(sent):
        written += counter.add(stranger(number, client=f"2001:db8::{number % (10 * MOST_STRANGER_KINDS):x}"))
    written += counter.due(sent + PERIOD_MS)
    assert len(written) <= 2 * MOST_STRANGER_KINDS + 1
    assert sum(item.count for item in written) == sent
    assert [item.count for item in written if item.code == "too_many_kinds"] == [18 * MOST_STRANGER_KINDS]
    assert counter.due(10**15) == []
    assert len(counter.add(record(at=10**15))) == 1  # a new minute begins


def test_what_strangers_make_up_hides_no_refusal_of_a_recognised_caller():
    counter = Refusals()
    for number in range(20 * MOST_STRANGER_KINDS):
        counter.add(stranger(number))
    theft = refusal(5_000, subject="mallory", action="approval.decided")
    assert counter.add(theft) == [theft]


def test_tokens_that_a_stranger_makes_up_are_of_one_kind_and_their_record_names_none():
    counter = Refusals()
    written = [item for number in range(50) for item in counter.add(stranger(number, client="6.6.6.6"))]
    written += counter.take()
    assert [(item.count, item.credential) for item in written] == [(1, "ph_00000000"), (49, None)]


def test_one_tenants_refusals_hide_none_of_another_tenants():
    counter = Refusals()
    for number in range(2 * MOST_TENANT_KINDS):
        counter.add(refusal(number, tenant="evil", subject=f"s{number}"))
    theft = refusal(5_000, subject="mallory")
    assert counter.add(theft) == [theft]


def test_one_subjects_refusals_hide_none_of_another_subjects_and_stay_theirs():
    counter = Refusals()
    for number in range(2 * MOST_TENANT_KINDS):
        action = "key.created" if number % 2 else "run.cancelled"
        counter.add(refusal(number, subject="mallory", client=f"2001:db8::{number:x}", action=action))
    other = refusal(5_000, subject="bob")
    assert counter.add(other) == [other]
    each = MOST_TENANT_KINDS - MOST_SUBJECT_KINDS // 2
    assert [(item.tenant, item.subject, item.action, item.code, item.count) for item in counter.take()] == [
        ("acme", "mallory", "run.cancelled", "too_many_kinds", each),
        ("acme", "mallory", "key.created", "too_many_kinds", each),
    ]


def test_more_kinds_than_a_tenant_may_have_are_counted_by_action_as_its_own():
    counter = Refusals()
    written: list[AuditRecord] = []
    sent = 3 * MOST_TENANT_KINDS
    for number in range(sent):
        written += counter.add(
            refusal(number, subject=f"s{number}", action="key.created" if number % 2 else "run.forked")
        )
    written += counter.take()
    assert sum(item.count for item in written) == sent
    assert {item.tenant for item in written} == {"acme"}
    assert [(item.subject, item.action, item.count) for item in written if item.code == "too_many_kinds"] == [
        (None, "run.forked", MOST_TENANT_KINDS),
        (None, "key.created", MOST_TENANT_KINDS),
    ]


def test_a_clock_that_goes_back_does_not_hold_counted_refusals_for_ever():
    counter = Refusals()
    for at in (10**12, 10**12, 5):
        ready = counter.add(record(at=at))
    assert [item.count for item in ready] == [1, 1]


class Flaky:
    """A database that can be away: before a write, or after it, when only the answer is lost."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.away: str | None = None
        self.dialect = database.dialect

    async def write(self, unit: Any, *args: Any, **kwargs: Any) -> Any:
        if self.away == "before":
            raise Unavailable("away")
        result = await self._database.write(unit, *args, **kwargs)
        if self.away == "after":
            raise Unavailable("away")
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_act_whose_record_can_not_be_written_stands_and_is_recorded_once_later(database, when):
    flaky = Flaky(database)
    audit = Audit(flaky)
    flaky.away = when
    mine = record()
    with logged_by(service) as lines:
        await audit.record(mine)
    assert [line["event"] for line in lines] == ["audit", "audit_record_waits"]  # the log has it already
    with pytest.raises(Unavailable):
        await audit.flush()
    flaky.away = None
    await audit.flush()
    await audit.flush()
    assert await everything(audit) == [mine]


async def test_an_act_is_recorded_before_its_caller_is_answered(sqlite_url, monkeypatch):
    async with running(sqlite_url, Script(turns=["Hello."])) as server:
        path = f"/v1/runs/{(await server.chat('hi'))['run_id']}/cancel"
        order: list[str] = []
        record = server.services.audit.record

        async def noted(entry):
            await record(entry)
            order.append("recorded")

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            order.append(message["type"])

        monkeypatch.setattr(server.services.audit, "record", noted)
        headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {server.token}".encode())]
        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": "POST"}
        scope |= {"path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"", "headers": headers}
        await server.app({**scope, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)}, receive, send)
    assert order[:2] == ["recorded", "http.response.start"]


async def test_a_write_that_is_cancelled_is_made_up_for(database):
    class Slow(Flaky):
        async def write(self, unit: Any, *args: Any, **kwargs: Any) -> Any:
            if self.away is not None:
                await asyncio.Event().wait()
            return await super().write(unit, *args, **kwargs)

    slow = Slow(database)
    slow.away = "for ever"
    audit, mine = Audit(slow), record()
    task = asyncio.create_task(audit.record(mine))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    slow.away = None
    assert await everything(audit) == [mine]


async def test_more_than_memory_holds_is_counted_and_said(sqlite_url, database, monkeypatch):
    monkeypatch.setattr(service, "MOST_WAITING", 3)
    flaky = Flaky(database)
    flaky.away = "before"
    audit = Audit(flaky)
    for _ in range(10):
        await audit.record(record())
    flaky.away = None
    await audit.flush()
    await audit.flush()
    found = await everything(audit)
    assert sorted((item.action, item.count) for item in found) == [("audit.lost", 7), *[("run.cancelled", 1)] * 3]


async def test_a_record_that_can_not_be_stored_does_not_hold_up_the_others(database):
    audit = Audit(database)
    good = [record(at=number, last_at=number) for number in range(3)]
    with logged_by(service) as lines:
        for item in (good[0], record(action=None), good[1], good[2]):
            audit.note(item)
        await audit.flush()
    assert "audit_record_not_written" in [line["event"] for line in lines]
    found = await everything(audit)
    assert [item for item in found if item.action == "run.cancelled"] == good
    assert [item.count for item in found if item.action == "audit.lost"] == [1]


async def test_records_are_dropped_after_the_retention_in_batches_and_not_before(database, monkeypatch):
    monkeypatch.setattr(service, "_AT_ONCE", 10)
    day = 24 * 3600 * 1000
    audit = Audit(database, retention_days=30, clock=lambda: 100 * day)
    old = [record(at=70 * day - 1 - number, last_at=0) for number in range(35)]
    young = [record(at=70 * day + number, last_at=0) for number in range(5)]
    for item in (*old, *young):
        audit.note(item)
    await audit.flush()
    assert await audit.drop_old() == 35
    assert {item.id for item in await everything(audit)} == {item.id for item in young}


async def test_the_background_loop_writes_what_waits_and_drops_what_is_old(database):
    audit = Audit(database, clock=lambda: 10**13)
    audit.note(record(at=10**13))
    audit.note(record(at=5))
    await audit.round()
    rows = await database.read(lambda connection: connection.execute(select(audit_records.c.at)).scalars().all())
    assert rows == [10**13]


async def test_nobody_reads_another_tenants_records_or_reads_without_the_scope(database_url):
    async with running(database_url) as server:
        await server.post("/v1/keys", {"name": "n", "scopes": ["chat"]})
        assert len(await told(server.person("olga", scope="audit:read"))) == 1
        assert len(await told(server.person("olga", scope="*"))) == 1
        assert await told(server.person("eve", tenant="other", scope="*")) == []
        for scope in ("admin", "runs:* conversations:* keys:* chat", "audit:write"):
            response = await server.person("bob", scope=scope).get("/v1/audit")
            assert (response.status_code, response.json()["missing_scope"]) == (403, "audit:read")


async def test_records_are_filtered_and_paged(database_url):
    async with running(database_url) as server:
        audit = server.services.audit
        for number in range(7):
            await audit.record(
                record(
                    at=number * 1000,
                    subject=f"s{number % 2}",
                    action="tool.called" if number < 3 else "key.created",
                    outcome="failed" if number == 6 else "ok",
                    credential="key_1" if number == 6 else "jwt",
                )
            )
        auditor = server.person("olga", scope="audit:read")

        async def seconds(**params: Any) -> list[int]:
            return [int(item["at"][17:19]) for item in await told(auditor, limit=2, **params)]

        assert await seconds() == [0, 1, 2, 3, 4, 5, 6]
        assert await seconds(action="tool.called") == [0, 1, 2]
        assert await seconds(subject="s1") == [1, 3, 5]
        assert await seconds(credential="key_1") == [6]
        assert await seconds(outcome="failed") == [6]
        assert await seconds(since="1970-01-01T00:00:02Z", until="1970-01-01T00:00:05Z") == [2, 3, 4]
        assert await seconds(subject="s1", action="key.created") == [3, 5]
        for wrong in (
            {"action": "key.stolen"},
            {"outcome": "?"},
            {"since": "yesterday"},
            {"since": "2026-01-01T00:00:00"},
        ):
            assert (await auditor.get("/v1/audit", **wrong)).status_code == 422


async def test_no_route_changes_or_deletes_a_record(sqlite_url):
    async with running(sqlite_url) as server:
        await server.post("/v1/keys", {"name": "n", "scopes": ["chat"]})
        root = server.person("root", scope="*")
        (item,) = await told(root)
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            for path in ("/v1/audit", f"/v1/audit/{item['id']}"):
                assert (await root.http.request(method, path, json={})).status_code in {404, 405}
        assert await told(root) == [item]


async def test_hostile_texts_are_cut_and_cleaned_and_stored_on_both_databases(database_url):
    async with running(database_url, setup=add_agent) as server:
        person = server.person("ada", scope="*")
        path = f"/v1/tools/{'%1B[2J' * 60}%FF%E2%80%AE"
        for agent in (b"\xff\xfe\x80", b"x" * 5000, b"\x1b".replace(b"\x1b", b"e") + b"\t[31m"):
            response = await person.http.post(path, json={"arguments": {}}, headers={"User-Agent": agent})
            assert response.status_code == 404
        found = await everything(server.services.audit)
        assert [(item.action, item.outcome, item.count) for item in found] == [
            ("tool.called", "failed", 1),
            ("tool.called", "failed", 2),
        ]
        assert len(found[0].object_id) <= 256
        assert "\x1b" not in found[0].object_id


def test_a_bounded_text_has_no_control_characters_and_no_half_pairs():
    assert bounded("a\x00\x1b\x9b\ud800\nb", 5) == "a" + "\ufffd" * 4
    assert bounded(None, 5) is None


async def test_an_act_that_fails_unforeseen_is_recorded_as_failed(sqlite_url, monkeypatch):
    async with running(sqlite_url, SCRIPT, setup=add_agent) as server:

        async def fail(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError("unforeseen")

        monkeypatch.setattr(server.services.conversations, "get", fail)
        assert (await server.http.delete("/v1/conversations/conv_1")).status_code == 500
        (item,) = await everything(server.services.audit)
        assert (item.action, item.outcome, item.object_id) == ("conversation.deleted", "failed", "conv_1")


async def test_keys_made_and_revoked_by_a_command_are_recorded_and_shown_by_one(tmp_path):
    env = environment()
    create = ("keys", "create", "robot", "--subject", "ada", "--tenant", "acme")
    code, token, err = await ran(*create, cwd=tmp_path, env=env)
    assert code == 0, err
    (key,) = json.loads((await ran("keys", "list", "--tenant", "acme", "--json", cwd=tmp_path, env=env))[1])
    assert (await ran("keys", "revoke", key["id"], "--tenant", "acme", cwd=tmp_path, env=env))[0] == 0
    code, out, err = await ran("audit", "--json", "--since", "1d", cwd=tmp_path, env=env)
    assert code == 0, err
    shown = [(item["action"], item["tenant"], item["subject"], item["object_id"]) for item in json.loads(out)]
    assert shown == [("key.revoked", "acme", "cli", key["id"]), ("key.created", "acme", "cli", key["id"])]
    assert json.loads(out)[0]["detail"]["user"]
    assert token.strip() not in out
    code, out, _ = await ran("audit", "--tenant", "acme", "--action", "key.created", cwd=tmp_path, env=env)
    assert (code, "key.created" in out, "key.revoked" in out) == (0, True, False)
    code, out, _ = await ran("audit", "--credential", "cli", "--json", cwd=tmp_path, env=env)
    assert (code, len(json.loads(out))) == (0, 2)
    assert json.loads((await ran("audit", "--credential", "key_1", "--json", cwd=tmp_path, env=env))[1]) == []
    assert (await ran("audit", "--tenant", "other", cwd=tmp_path, env=env))[1] == "There are no such records.\n"
    code, _, err = await ran("audit", "--action", "key.stolen", cwd=tmp_path, env=env)
    assert (code, "There is no action" in err) == (1, True)


def test_a_principal_must_hold_the_scope_below_http_too(sqlite_url):
    async def ask() -> None:
        audit = Audit(None)  # type: ignore[arg-type]
        await audit.page(Principal("acme", "ada", frozenset({"admin"}), "jwt"), wanted=EVERYTHING, limit=1)

    with pytest.raises(Exception, match="audit:read"):
        asyncio.run(ask())
