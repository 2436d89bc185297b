"""A person's yes is to one call, by somebody who may say it, and holds while the credential of its run does."""

import asyncio
import time
from typing import Any

import jwt
import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from sqlalchemy import select, update
from tests.promises.test_p3_in_doubt_is_said_not_guessed import World
from tests.support.logs import logged_by
from tests.support.node import Crash, CutDatabase, Node
from tests.support.server import ALL_SCOPES, AUDIENCE, ISSUER, SECRET, Person, RunningServer, running

from pilothouse.errors import Conflict, Forbidden, NotFound, StartupError, Unavailable
from pilothouse.identity.principal import Principal, local_principal
from pilothouse.kit.jsons import dumps, loads
from pilothouse.runs import refusals
from pilothouse.runs.tables import runs as run_rows
from pilothouse.runs.tables import steps as step_rows
from pilothouse.testing.provider import Rule, Script, ToolCall, Turn, When
from pilothouse.tools import tool

ENTITLED = f"{ALL_SCOPES} orders:write"
CHECKER = "approvals:decide orders:write"
ME = local_principal()

SCRIPT = Script(
    rules=[
        Rule(
            when=When(user_contains="go"),
            turn=Turn(tool_calls=[ToolCall(name="refund", arguments={"order_id": "7"})]),
            times=1,
        ),
        Rule(when=When(after_tool=True), turn=Turn(text="{tool_result}")),
    ],
    turns=["Hello."],
)


class Shop:
    """A tool that pays back, and what it paid."""

    def __init__(self, **policy: Any) -> None:
        self.made: list[str] = []

        @tool(**{"effect": "once", "approval": True, "scopes": ["orders:write"], **policy})
        async def refund(order_id: str) -> str:
            """Pay back."""
            self.made.append(order_id)
            return f"refunded {order_id}"

        self.agent = Agent(name="helper", tools=[refund])


async def waiting(person: Person) -> tuple[str, dict[str, Any]]:
    """A run that waits for a person, and the call."""
    response = await person.send("go")
    assert response.status_code == 202, response.text
    run = await person.run(response.json()["run_id"])
    [call] = run["waiting"]
    return run["id"], call


async def decide(person: Person, run_id: str, call: dict[str, Any], *, approve: bool = True, **seen: Any):
    body = {"call_id": call["call_id"], "approve": approve, **seen}
    return await person.post(f"/v1/runs/{run_id}/input", body)


def code_of(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


# --- who ---


async def test_who_decides_holds_the_tools_scopes(database_url):
    shop = Shop()
    async with running(database_url, SCRIPT, agents=[shop.agent]) as server:
        entitled = server.person("ada", scope=ENTITLED)
        run_id, call = await waiting(entitled)
        assert call["scopes"] == ["orders:write"]
        for approve in (True, False):
            answer = await decide(server, run_id, call, approve=approve)
            assert code_of(answer) == (403, "missing_scope")
            assert answer.json()["missing_scope"] == "orders:write"
        assert (await server.run(run_id))["state"] == "awaiting_input"
        assert (await decide(entitled, run_id, call)).status_code == 202
        assert (await entitled.events(run_id))[-1].type == "run.completed"
        assert shop.made == ["7"]


async def test_nothing_that_was_stored_of_a_call_makes_its_scopes_fewer(database_url):
    """A release that asks for more scopes holds for calls that already wait."""
    shop = Shop()
    async with running(database_url, SCRIPT, agents=[shop.agent]) as server:
        entitled = server.person("ada", scope=ENTITLED)
        run_id, call = await waiting(entitled)
        await server.database.write(lambda c: c.execute(update(step_rows).values(approval=None)) and None)
        assert code_of(await decide(server, run_id, call)) == (403, "missing_scope")
        assert (await decide(entitled, run_id, call, arguments_hash=call["arguments_hash"])).status_code == 202


async def test_interrupting_a_run_needs_what_stopping_it_needs(database_url):
    script = Script(turns=[Turn(text="Hello.", gate="go"), "Again."])
    async with running(database_url, script) as server, server.stream("hi") as stream:
        await server.provider.wait_for_gate("go")
        chatter = server.person("ada", scope="chat")
        body = {"on_busy": "interrupt", "conversation_id": stream.conversation_id}
        assert code_of(await chatter.send("me first", **body)) == (403, "missing_scope")
        frame = {"type": "message", "message": "me first", "on_busy": "interrupt"}
        async with chatter.session.ws_connect(f"/v1/chat/ws/{stream.conversation_id}") as socket:
            await socket.send_json(frame)
            answer = await socket.receive_json(timeout=30)
        assert (answer["type"], answer["error"]["code"]) == ("error", "missing_scope")
        server.provider.release("go")
        assert (await stream.rest())[-1].type == "run.completed"


# --- which call ---


async def test_a_decision_about_another_step_or_other_arguments_is_refused(database_url):
    shop = Shop()
    async with running(database_url, SCRIPT, agents=[shop.agent]) as server:
        entitled = server.person("ada", scope=ENTITLED)
        run_id, call = await waiting(entitled)
        [asked] = [event for event in await events_so_far(entitled, run_id) if event["type"] == "approval.requested"]
        assert {name: asked["data"][name] for name in ("step", "arguments_hash", "four_eyes", "scopes")} == {
            name: call[name] for name in ("step", "arguments_hash", "four_eyes", "scopes")
        }
        for seen in (
            {"step": 1},
            {"step": 99},
            {"arguments_hash": "0" * 64},
            {"step": call["step"], "arguments_hash": "x"},
        ):
            assert code_of(await decide(entitled, run_id, call, **seen)) == (409, "approval_mismatch"), seen
        assert shop.made == []
        seen = {"step": call["step"], "arguments_hash": call["arguments_hash"]}
        assert (await decide(entitled, run_id, call, **seen)).status_code == 202
        await entitled.events(run_id)
        assert shop.made == ["7"]


async def test_a_call_is_not_answered_the_other_way_while_another_one_waits(database_url):
    shop = Shop()
    both = Turn(tool_calls=[ToolCall(name="refund", arguments={"order_id": order}) for order in ("7", "8")])
    script = Script(rules=[Rule(when=When(user_contains="go"), turn=both, times=1)], turns=["Done."])
    async with running(database_url, script, agents=[shop.agent]) as server:
        entitled = server.person("ada", scope=ENTITLED)
        run_id = (await entitled.send("go")).json()["run_id"]
        first, second = (await entitled.run(run_id))["waiting"]
        assert (await decide(entitled, run_id, first)).status_code == 202
        assert code_of(await decide(entitled, run_id, first, approve=False)) == (409, "already_answered")
        assert (await decide(entitled, run_id, first)).status_code == 202  # the same again changes nothing
        assert (await decide(entitled, run_id, second, approve=False)).status_code == 202
        assert (await entitled.events(run_id))[-1].type == "run.completed"
        assert shop.made == [first["arguments"]["order_id"]]


async def events_so_far(person: Person, run_id: str) -> list[dict[str, Any]]:
    response = await person.http.get(f"/v1/runs/{run_id}/events", headers={"Accept": "application/json"})
    return response.json()["items"]


class SameIds:
    """A model that gives each of its calls the same id, and a tool that waits for a person."""

    def __init__(self, orders: list[str]) -> None:
        self.paid: list[str] = []
        self.orders = orders

        @tool(effect="once", approval=True)
        async def pay(order_id: str) -> str:
            self.paid.append(order_id)
            return "paid"

        def answer(messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
            done = sum(isinstance(part, ToolReturnPart) for message in messages for part in message.parts)
            if done == len(self.orders):
                return ModelResponse(parts=[TextPart("done")])
            return ModelResponse(parts=[ToolCallPart("pay", {"order_id": self.orders[done]}, tool_call_id="c0")])

        self.agent = Agent(FunctionModel(answer), name="payer", tools=[pay])


async def test_a_late_yes_to_an_earlier_call_is_none_to_a_later_one_with_its_id(database):
    world = SameIds(["small", "large"])
    async with Node(database, world.agent) as node:
        outcome = await node.finish("go")
        assert outcome.state == "awaiting_input"
        run_id = (await node.runs.page(ME, limit=1))[0].id
        [small] = (await node.runs.waiting(ME, run_id)).calls
        seen = {"step": small.step.number, "arguments_hash": small.arguments_hash}
        accepted = await node.runs.answer(ME, run_id, call_id="c0", approve=True, **seen)
        assert accepted.task is not None
        await accepted.task
        assert world.paid == ["small"]
        for body, code in (({}, "step_required"), (seen, "already_answered")):
            with pytest.raises(Conflict) as caught:
                await node.runs.answer(ME, run_id, call_id="c0", approve=True, **body)
            assert caught.value.code == code
        [large] = (await node.runs.waiting(ME, run_id)).calls
        hashed = {"arguments_hash": small.arguments_hash}
        with pytest.raises(Conflict) as caught:
            await node.runs.answer(ME, run_id, call_id="c0", approve=True, step=large.step.number, **hashed)
        assert caught.value.code == "approval_mismatch"
        assert world.paid == ["small"]
        accepted = await node.runs.answer(ME, run_id, call_id="c0", approve=True, step=large.step.number)
        assert accepted.task is not None
        await accepted.task
        assert world.paid == ["small", "large"]


async def test_a_late_yes_to_a_call_is_none_to_making_it_again(database):
    world = World()
    agent = world.agent(["pay"], approval=True)
    first = Node(CutDatabase(database), agent)
    accepted = await first.start("go")
    assert accepted.task is not None
    await accepted.task
    [call] = (await first.runs.waiting(ME, accepted.run_id)).calls
    seen = {"step": call.step.number, "arguments_hash": call.arguments_hash}
    answered = await first.runs.answer(ME, accepted.run_id, call_id="c0", approve=True, **seen)
    assert answered.task is not None
    await asyncio.wait([answered.task])
    assert isinstance(answered.task.exception(), Crash)
    await first.abandon()
    async with Node(database, agent) as node:
        assert (await node.resume(accepted.run_id)).state == "awaiting_input"
        with pytest.raises(Conflict) as caught:
            await node.runs.answer(ME, accepted.run_id, call_id="c0", approve=True, **seen)
        assert caught.value.code == "approval_mismatch"
        [again] = (await node.runs.waiting(ME, accepted.run_id)).calls
        assert (again.reason, len(world.effects)) == ("in_doubt", 1)
        seen = {"step": again.step.number, "arguments_hash": again.arguments_hash}
        answered = await node.runs.answer(ME, accepted.run_id, call_id="c0", approve=True, **seen)
        assert answered.task is not None
        await answered.task
        assert len(world.effects) == 2


async def test_a_yes_is_none_to_arguments_that_were_not_shown(database):
    world = SameIds(["7"])
    async with Node(database, world.agent) as node:
        await node.finish("go")
        run_id = (await node.runs.page(ME, limit=1))[0].id
        other = '{"arguments_hash":"' + "0" * 64 + '","reason":"approval","scopes":[],"four_eyes":false}'
        answered = {"state": "approved", "approval": other}
        await database.write(
            lambda c: c.execute(update(step_rows).where(step_rows.c.call_id == "c0").values(**answered)) and None
        )
        assert (await node.resume(run_id)).state == "awaiting_input"
        assert world.paid == []


# --- the credential that started the run ---


async def key_for(server: RunningServer, scopes: list[str]) -> tuple[str, Person]:
    maker = server.person("ada", scope=f"{ENTITLED} keys:write")
    key = (await maker.post("/v1/keys", {"name": "till", "scopes": scopes})).json()
    return key["id"], Person(server.url, key["token"])


async def test_an_approved_call_is_not_made_once_the_key_of_its_run_is_revoked(database_url):
    shop = Shop()
    async with running(database_url, SCRIPT, agents=[shop.agent]) as server:
        entitled = server.person("ada", scope=ENTITLED)
        key_id, till = await key_for(server, ["chat", "runs:read", "orders:write"])
        run_id, call = await waiting(till)
        await till.close()
        assert (await entitled.http.delete(f"/v1/keys/{key_id}")).status_code == 204
        with logged_by(refusals) as lines:
            assert (await decide(entitled, run_id, call)).status_code == 202
            events = await entitled.events(run_id)
        assert events[-1].type == "run.completed"
        assert shop.made == []
        [finished] = [event.data for event in events if event.type == "tool.finished"]
        assert (finished["status"], finished["error"]) == ("error", "forbidden")
        assert "revoked" in events[-1].data["text"]
        [line] = [line for line in lines if line["event"] == "approved_call_refused"]
        assert (line["reason"], line["key_id"], line["tool"]) == ("credential_revoked", key_id, "refund")


async def test_an_approved_call_is_not_made_once_the_token_of_its_run_has_expired(database_url):
    shop = Shop()
    async with running(database_url, SCRIPT, agents=[shop.agent], auth={"leeway_seconds": 0}) as server:
        entitled = server.person("ada", scope=ENTITLED)
        run_id, call = await waiting(entitled)
        stored = (await server.database.read(request_of, run_id)) | {"expires_at": 1_000}
        values = {"request": stored}
        await server.database.write(lambda c: c.execute(update(run_rows).values(**values)) and None)
        assert (await decide(entitled, run_id, call)).status_code == 202
        events = await entitled.events(run_id)
        assert shop.made == []
        [finished] = [event.data for event in events if event.type == "tool.finished"]
        assert finished["error"] == "credential_expired"
        assert events[-1].type == "run.completed"


async def test_a_credential_that_cannot_be_checked_for_a_moment_stops_no_call_half_way(database):
    """Seen in review: the error of one call's check cancelled its neighbour, which had begun."""
    neighbour_runs, asked = asyncio.Event(), asyncio.Event()
    paid: list[str] = []

    @tool(effect="once", approval=True)
    async def pay(order_id: str) -> str:
        if order_id == "first":
            neighbour_runs.set()
            await asked.wait()
        paid.append(order_id)
        return "paid"

    async def lapsed(_principal: Principal) -> None:
        checks.append(len(checks))
        if len(checks) == 2:
            await neighbour_runs.wait()
            raise Unavailable("The database can't be reached.")
        if len(checks) == 3:
            asked.set()

    def answer(messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
        if len(messages) > 1:
            return ModelResponse(parts=[TextPart("done")])
        return ModelResponse(
            parts=[ToolCallPart("pay", {"order_id": name}, tool_call_id=name) for name in ("first", "second")]
        )

    checks: list[int] = []
    async with Node(database, Agent(FunctionModel(answer), name="payer", tools=[pay]), lapsed=lapsed) as node:
        accepted = await node.start("go")
        assert (await accepted.task).state == "awaiting_input"
        for name in ("first", "second"):
            await node.runs.answer(ME, accepted.run_id, call_id=name, approve=True)
        async with asyncio.timeout(60):
            while (run := await node.runs.get(ME, accepted.run_id)).state != "completed":
                await asyncio.sleep(0.01)
        assert sorted(paid) == ["first", "second"]
        assert run.error is None


def request_of(connection: Any, run_id: str) -> dict[str, Any]:
    row = connection.execute(run_rows.select().where(run_rows.c.id == run_id)).one()
    return dict(row.request)


async def test_a_run_keeps_when_the_token_it_was_started_with_expires(sqlite_url):
    shop = Shop()
    async with running(sqlite_url, SCRIPT, agents=[shop.agent]) as server:
        expires = int(time.time()) + 1234
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "tenant": "acme", "scope": ENTITLED, "exp": expires}
        person = Person(server.url, jwt.encode(claims, SECRET, algorithm="HS256"))
        run_id, _ = await waiting(person)
        await person.close()
        kept = await server.database.read(request_of, run_id)
        leeway = server.services.identity._settings.leeway_seconds
        assert (kept["expires_at"], kept["key_id"]) == ((expires + leeway) * 1000, None)


async def test_a_yes_does_not_give_a_run_more_scopes_than_it_began_with(database_url):
    shop = Shop()
    async with running(database_url, SCRIPT, agents=[shop.agent]) as server:
        run_id = (await server.send("go")).json()["run_id"]  # without the tool's scope: refused before anybody is asked
        events = await server.events(run_id)
        assert [event.data["error"] for event in events if event.type == "tool.finished"] == ["forbidden"]
        assert shop.made == []


async def test_a_run_from_before_keys_were_kept_goes_on(database_url):
    shop = Shop()
    async with running(database_url, SCRIPT, agents=[shop.agent]) as server:
        entitled = server.person("ada", scope=ENTITLED)
        run_id, call = await waiting(entitled)
        kept = await server.database.read(request_of, run_id)
        before = {name: value for name, value in kept.items() if name not in ("key_id", "expires_at")}
        values = {"request": before}
        await server.database.write(lambda c: c.execute(update(run_rows).values(**values)) and None)
        assert (await decide(entitled, run_id, call)).status_code == 202
        await entitled.events(run_id)
        assert shop.made == ["7"]


# --- four eyes ---


def test_four_eyes_without_approval_is_refused_at_definition():
    with pytest.raises(StartupError, match="four_eyes"):

        @tool(four_eyes=True)
        async def pay() -> None: ...


async def test_four_eyes_need_another_subject_who_sees_only_what_waits(database_url):
    shop = Shop(four_eyes=True)
    async with running(database_url, SCRIPT, agents=[shop.agent]) as server:
        entitled = server.person("ada", scope=f"{ENTITLED} approvals:decide")
        run_id, call = await waiting(entitled)
        assert call["four_eyes"] is True
        for approve in (True, False):
            assert code_of(await decide(entitled, run_id, call, approve=approve)) == (403, "four_eyes")
        checker = server.person("bob", scope=CHECKER)
        shown = (await checker.get(f"/v1/runs/{run_id}/input")).json()
        assert (shown["run_id"], shown["requested_by"], shown["items"]) == (run_id, "ada", [call])
        assert call["arguments"] == {"order_id": "7"}
        for path in ("", "/events"):
            assert (
                await server.person("bob", scope=f"{CHECKER} runs:*").get(f"/v1/runs/{run_id}{path}")
            ).status_code == 404
        seen = {"step": call["step"], "arguments_hash": call["arguments_hash"]}
        answer = await decide(checker, run_id, call, **seen)
        assert answer.status_code == 202, answer.text
        assert set(answer.json()) == {"run_id", "state", "call_id", "approve"}
        events = await entitled.events(run_id)
        assert events[-1].type == "run.completed"
        assert shop.made == ["7"]
        assert code_of(await checker.get(f"/v1/runs/{run_id}/input")) == (404, "run_not_found")
        assert code_of(await decide(checker, run_id, call, **seen)) == (404, "run_not_found")


@pytest.mark.parametrize(
    ("subject", "tenant", "scope"),
    [
        ("bob", "acme", ENTITLED),  # no approvals:decide
        ("bob", "acme", f"{ALL_SCOPES} approvals:decide"),  # not the tool's scopes
        ("bob", "other", f"{ENTITLED} approvals:decide"),
        ("bob", "other", "*"),
        ("bob", "acme", "admin runs:* orders:write"),
    ],
)
async def test_for_everybody_else_the_run_is_not_there(database_url, subject, tenant, scope):
    shop = Shop(four_eyes=True)
    async with running(database_url, SCRIPT, agents=[shop.agent]) as server:
        run_id, call = await waiting(server.person("ada", scope=ENTITLED))
        stranger = server.person(subject, tenant=tenant, scope=scope)
        for answer in (await stranger.get(f"/v1/runs/{run_id}/input"), await decide(stranger, run_id, call)):
            assert answer.status_code == 404 or answer.json()["code"] == "missing_scope"
            assert run_id not in answer.text
        assert (await server.run(run_id))["state"] == "awaiting_input"
        assert shop.made == []


async def test_who_decides_for_others_sees_no_call_that_does_not_need_four_eyes(database_url):
    shop = Shop()
    async with running(database_url, SCRIPT, agents=[shop.agent]) as server:
        run_id, call = await waiting(server.person("ada", scope=ENTITLED))
        for scope in (CHECKER, "*"):
            checker = server.person("bob", scope=scope)
            assert code_of(await checker.get(f"/v1/runs/{run_id}/input")) == (404, "run_not_found")
            assert code_of(await decide(checker, run_id, call)) == (404, "run_not_found")


@pytest.mark.parametrize(("decider", "holds"), [(None, False), (ME.subject, False), ("somebody else", True)])
async def test_a_starters_own_yes_does_not_hold_where_four_eyes_are_needed(database, decider, holds):
    """However it came into the row: by a release whose tool did not need them yet, or by hand."""
    world = SameIds(["7"])
    async with Node(database, world.agent) as node:
        await node.finish("go")
        run_id = (await node.runs.page(ME, limit=1))[0].id
        await node.executor.close(grace_seconds=0)
    paid: list[str] = []

    @tool(effect="once", approval=True, four_eyes=True)
    async def pay(order_id: str) -> str:
        paid.append(order_id)
        return "paid"

    def approve(connection: Any) -> None:
        mine = step_rows.c.call_id == "c0"
        stored = loads(connection.execute(select(step_rows.c.approval).where(mine)).scalar_one())
        approval = dumps({**stored, "decided_by": decider})
        connection.execute(update(step_rows).where(mine).values(state="approved", approval=approval))

    stricter = Agent(world.agent.model, name="payer", tools=[pay])
    await database.write(approve)
    async with Node(database, stricter) as node:
        assert (await node.resume(run_id)).state == ("completed" if holds else "awaiting_input")
        assert paid == (["7"] if holds else [])
        with pytest.raises(NotFound):
            await node.runs.waiting(Principal("else", "bob", frozenset({"*"}), "local"), run_id)


@pytest.mark.parametrize(("then", "now"), [(False, True), (True, False)])
async def test_four_eyes_are_needed_if_they_were_when_the_call_was_asked_about_or_are_today(database, then, now):
    world = SameIds(["7"])

    def payer(*, four_eyes: bool) -> Agent:
        @tool(effect="once", approval=True, four_eyes=four_eyes)
        async def pay(order_id: str) -> str:
            world.paid.append(order_id)
            return "paid"

        return Agent(world.agent.model, name="payer", tools=[pay])

    async with Node(database, payer(four_eyes=then)) as node:
        assert (await node.finish("go")).state == "awaiting_input"
        run_id = (await node.runs.page(ME, limit=1))[0].id
        await node.executor.close(grace_seconds=0)
    async with Node(database, payer(four_eyes=now)) as node:
        [call] = (await node.runs.waiting(ME, run_id)).calls
        assert call.four_eyes
        for approve in (True, False):
            with pytest.raises(Forbidden) as caught:
                await node.runs.answer(ME, run_id, call_id="c0", approve=approve)
            assert caught.value.code == "four_eyes"
    assert world.paid == []


async def test_two_deciders_at_once_make_one_decision(database_url):
    shop = Shop(four_eyes=True)
    async with running(database_url, SCRIPT, agents=[shop.agent]) as server:
        entitled = server.person("ada", scope=ENTITLED)
        run_id, call = await waiting(entitled)
        checkers = [server.person(name, scope=CHECKER) for name in ("bob", "cid", "dan", "eve")]
        answers = await asyncio.gather(
            *(decide(person, run_id, call, approve=index % 2 == 0) for index, person in enumerate(checkers))
        )
        assert {answer.status_code for answer in answers} <= {202, 404, 409}
        assert any(answer.status_code == 202 for answer in answers)
        await entitled.events(run_id)
        assert shop.made in (["7"], [])
        steps = [step for step in (await entitled.run(run_id))["steps"] if step["kind"] == "tool"]
        assert [step["state"] for step in steps] == ["completed" if shop.made else "failed"]
