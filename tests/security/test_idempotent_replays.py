"""A stored answer is given to nobody who could not have had it made; a key whose work failed is answered at once."""

import asyncio
from typing import Any

import pytest
from pydantic_ai import Agent
from tests.support.server import ALL_SCOPES, running

from pilothouse.errors import CallerError, Conflict, InvalidRequest, PilothouseError, Unavailable
from pilothouse.idempotency import repository
from pilothouse.idempotency import service as module
from pilothouse.idempotency.service import Idempotency, key_use
from pilothouse.testing.provider import Script
from pilothouse.tools import tool

NARROW = "chat runs:read tools:call keys:write agents:read"


def shop(made: list[str]):
    @tool(effect="once", scopes=["orders:write"])
    async def refund(order_id: str) -> str:
        """Pay back."""
        made.append(order_id)
        return f"refunded {order_id}"

    return Agent(name="helper", tools=[refund])


async def test_a_tools_answer_is_not_given_to_a_credential_without_the_tools_scopes(database_url):
    made: list[str] = []
    async with running(database_url, agents=[shop(made)]) as server:
        entitled = server.person("ada", scope=f"{ALL_SCOPES} orders:write")
        body = {"arguments": {"order_id": "7"}}
        first = await entitled.post("/v1/tools/refund", body, idempotency_key="k")
        assert first.status_code == 200, first.text
        narrow = server.person("ada", scope=NARROW)
        answer = await narrow.post("/v1/tools/refund", body, idempotency_key="k")
        assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope")
        assert answer.json()["missing_scope"] == "orders:write"
        assert "refunded" not in answer.text
        again = await entitled.post("/v1/tools/refund", body, idempotency_key="k")
        assert again.json() == first.json()
        assert made == ["7"]


async def test_a_keys_record_is_not_given_to_a_credential_that_could_not_make_the_key(database_url):
    async with running(database_url) as server:
        maker = server.person("ada", scope=f"{ALL_SCOPES} orders:write")
        body = {"name": "till", "scopes": ["orders:write"]}
        first = await maker.post("/v1/keys", body, idempotency_key="k")
        assert first.status_code == 201, first.text
        answer = await server.person("ada", scope=NARROW).post("/v1/keys", body, idempotency_key="k")
        assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope")
        assert first.json()["prefix"] not in answer.text


@pytest.mark.parametrize(
    ("path", "body", "scope"),
    [
        ("/v1/chat", {"message": "hi"}, "runs:read"),
        ("/v1/chat/stream", {"message": "hi"}, "runs:read"),
        ("/v1/conversations", {"agent": "helper"}, "conversations:read"),
        ("/v1/runs/{run}/fork", {}, "runs:read"),
        ("/v1/chat", {"message": "hi", "on_busy": "interrupt"}, "chat"),
    ],
)
async def test_no_route_gives_a_stored_answer_without_its_scopes(sqlite_url, path, body, scope):
    async with running(sqlite_url, Script(turns=["My secret."])) as server:
        path = path.format(run=(await server.chat("before"))["run_id"])
        first = await server.post(path, body, idempotency_key="k")
        assert first.status_code in (200, 201, 202), first.text
        answer = await server.person("ada", scope=scope).post(path, body, idempotency_key="k")
        assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope")
        assert "secret" not in answer.text


# --- keys whose work failed ---


def use(key: str = "k", body: Any = "b"):
    return key_use("acme", "ada", key, route="tools", body=body)


class Counted:
    """The database, which counts what it is asked and can go away."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.reads = 0
        self.writes = 0
        self.away = False

    async def read(self, unit: Any, *args: Any, **kwargs: Any) -> Any:
        self.reads += 1
        return await self._inner.read(unit, *args, **kwargs)

    async def write(self, unit: Any, *args: Any, **kwargs: Any) -> Any:
        self.writes += 1
        if self.away:
            raise Unavailable("The database is away.")
        return await self._inner.write(unit, *args, **kwargs)


async def fails() -> dict[str, Any]:
    raise PilothouseError("Tool pay did not finish.", code="tool_timeout", status=504)


async def works() -> dict[str, Any]:
    return {"ok": True}


async def test_work_that_may_have_taken_effect_is_remembered_as_failed_and_answered_at_once(database):
    counted = Counted(database)
    once = Idempotency(counted)
    with pytest.raises(PilothouseError):
        await once.once(use(), fails)
    counted.reads = counted.writes = 0
    for _ in range(20):
        with pytest.raises(Conflict) as caught:
            await once.once(use(), works)
        assert (caught.value.code, caught.value.retryable) == ("idempotency_failed", False)
        assert caught.value.extra["failure"]["code"] == "tool_timeout"
    assert (counted.reads, counted.writes) == (0, 20)
    with pytest.raises(InvalidRequest):
        await once.once(use(body="other"), works)
    with pytest.raises(Conflict, match="tool_timeout"):
        await Idempotency(database).once(use(), works)


async def test_the_text_of_an_error_that_is_not_ours_is_not_kept(database):
    async def breaks() -> dict[str, Any]:
        raise ValueError("password=hunter2")

    once = Idempotency(database)
    with pytest.raises(ValueError, match="hunter2"):
        await once.once(use(), breaks)
    with pytest.raises(Conflict) as caught:
        await once.once(use(), works)
    assert "hunter2" not in str(caught.value.extra) + caught.value.message


async def test_work_that_may_be_done_again_gives_its_key_back(database):
    once = Idempotency(database)
    with pytest.raises(PilothouseError):
        await once.once(use(), fails, may_repeat=True)
    assert await once.once(use(), works) == {"ok": True}


async def test_a_repeat_waits_for_work_of_its_own_process_without_asking_the_database(database):
    counted = Counted(database)
    once, begun, go_on = Idempotency(counted), asyncio.Event(), asyncio.Event()

    async def slow() -> dict[str, Any]:
        begun.set()
        await go_on.wait()
        return {"slow": True}

    first = asyncio.create_task(once.once(use(), slow))
    async with asyncio.timeout(30):
        await begun.wait()
        asked = counted.reads, counted.writes
        repeats = [asyncio.create_task(once.once(use(), works)) for _ in range(50)]
        await asyncio.sleep(0)
        with pytest.raises(InvalidRequest):
            await once.once(use(body="other"), works)
        assert (counted.reads, counted.writes) == asked
        go_on.set()
        assert await asyncio.gather(first, *repeats) == [{"slow": True}] * 51
    assert (counted.reads, counted.writes) == (asked[0], asked[1] + 1)


async def test_a_repeat_of_work_that_gave_its_key_back_does_the_work(database):
    once, begun, go_on = Idempotency(database), asyncio.Event(), asyncio.Event()

    async def wrong() -> dict[str, Any]:
        begun.set()
        await go_on.wait()
        raise CallerError("no")

    first = asyncio.create_task(once.once(use(), wrong))
    async with asyncio.timeout(30):
        await begun.wait()
        repeat = asyncio.create_task(once.once(use(), works))
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(CallerError):
            await first
        assert await repeat == {"ok": True}


async def test_repeats_of_work_on_a_dead_node_look_seldom_and_together(database, monkeypatch):
    monkeypatch.setattr(module, "_WAIT_SECONDS", 0.5)
    await database.write(repository.claim, use(), "", 0)
    counted = Counted(database)
    once = Idempotency(counted)
    results = await asyncio.gather(*(once.once(use(), works) for _ in range(30)), return_exceptions=True)
    assert {getattr(result, "code", result) for result in results} == {"idempotency_unfinished"}
    assert counted.reads <= 4
    assert counted.writes <= 31  # one claim each, none to look


async def test_a_repeat_gets_the_answer_of_another_node_when_it_is_there(database):
    await database.write(repository.claim, use(), "", 0)
    repeat = asyncio.create_task(Idempotency(database).once(use(), works))
    await asyncio.sleep(0)
    await database.write(repository.set_response, use(), '{"there":true}')
    async with asyncio.timeout(30):
        assert await repeat == {"there": True}


@pytest.mark.parametrize(("work", "answer"), [(works, {"ok": True}), (fails, "idempotency_failed")])
async def test_how_work_ended_is_known_though_the_database_went_away_meanwhile(database, work, answer):
    counted = Counted(database)
    once = Idempotency(counted)

    async def goes_away() -> dict[str, Any]:
        counted.away = True
        return await work()

    async def asked() -> Any:
        try:
            return await once.once(use(), goes_away)
        except PilothouseError as error:
            return error.code

    assert await asked() in (answer, "tool_timeout")
    assert await asked() == answer
    counted.away = False
    assert await asked() == answer


async def test_a_key_that_could_not_be_given_back_is_free_when_the_database_is_back(database):
    counted = Counted(database)
    once = Idempotency(counted)

    async def goes_away() -> dict[str, Any]:
        counted.away = True
        raise CallerError("no")

    with pytest.raises(CallerError):
        await once.once(use(), goes_away)
    counted.away = False
    assert await once.once(use(), works) == {"ok": True}
