import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from pydantic_ai import RunContext, ToolReturn

from pilothouse.errors import Conflict, Forbidden, InvalidRequest, NotFound, PilothouseError, StartupError
from pilothouse.http.problems import install_problem_handlers
from pilothouse.idempotency.service import Idempotency
from pilothouse.identity.http import current_principal
from pilothouse.identity.principal import Principal
from pilothouse.settings import RunSettings
from pilothouse.tools import ToolCall, current_tool_call, tool, tool_error
from pilothouse.tools.calling import call_tool
from pilothouse.tools.endpoints import router
from pilothouse.tools.registry import ToolRegistry
from pilothouse.tools.service import ToolService

HERE = ToolCall(run_id=None, conversation_id=None, tenant="t", subject="s", call_id="c", idempotency_key="k")
ANYONE = Principal("acme", "mira", frozenset({"tools:call", "agents:read"}), "api_key")


class Item(BaseModel):
    sku: str
    count: int


@tool(effect="pure")
async def total(items: list[Item], note: str = "") -> dict[str, Any]:
    """Count what is in a basket."""
    return {"count": sum(item.count for item in items), "note": note}


@tool(scopes=["orders:write"])
async def refund(order_id: str) -> str:
    return f"refunded {order_id}"


@tool(approval=True)
async def wipe() -> None: ...


@tool
async def needs_context(ctx: RunContext[None]) -> None: ...


@tool(effect="pure")
async def breaks() -> None:
    raise ValueError("password=hunter2")


@tool
async def refuses() -> dict[str, Any]:
    return tool_error("rejected", "Not today.")


@tool(max_output_chars=300)
def big() -> ToolReturn:
    return ToolReturn(return_value="x" * 10_000)


@tool(effect="idempotent")
def who() -> dict[str, Any]:
    call = current_tool_call()
    assert call is not None
    return {"tenant": call.tenant, "subject": call.subject, "run": call.run_id, "key": call.idempotency_key}


@pytest.fixture
def registry() -> ToolRegistry:
    registry = ToolRegistry()
    for function in (total, refund, wipe, needs_context, breaks, refuses, big, who):
        registry.add(function)
    return registry


@pytest.fixture
def service(registry):
    with ThreadPoolExecutor(2) as threads:
        yield ToolService(registry, RunSettings(), threads=threads)


@pytest.fixture
async def client(service, database):
    app = FastAPI()
    install_problem_handlers(app)
    app.include_router(router)
    app.state.tools = service
    app.state.idempotency = Idempotency(database)
    app.dependency_overrides[current_principal] = lambda: ANYONE
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://shop.test") as client:
        client.app = app
        yield client


async def test_a_tool_is_called_with_validated_arguments(service):
    outcome = await service.call(ANYONE, "total", {"items": [{"sku": "a", "count": "2"}, {"sku": "b", "count": 3}]})
    assert (outcome.status, outcome.result) == ("ok", {"count": 5, "note": ""})
    assert outcome.duration_ms >= 0


async def test_sync_tools_run_in_a_thread_and_know_the_call(service):
    outcome = await service.call(ANYONE, "who", {})
    key = outcome.result.pop("key")
    assert (outcome.result, bool(key)) == ({"tenant": "acme", "subject": "mira", "run": None}, True)
    first, second = [(await service.call(ANYONE, "who", {})).result["key"] for _ in range(2)]
    assert first != second
    assert current_tool_call() is None


async def test_the_key_a_tool_is_given_is_one_callers_and_one_tools_only(registry, service):
    @tool
    def who_else() -> str:
        call = current_tool_call()
        assert call is not None
        return call.idempotency_key

    registry.add(who_else)

    async def key(tenant: str, subject: str, sent: str) -> str:
        caller = Principal(tenant, subject, frozenset({"tools:call"}), "api_key")
        return (await service.call(caller, "who", {}, idempotency_key=sent)).result["key"]

    sent = [("acme", "mira", "1"), ("acme", "ada", "1"), ("globex", "mira", "1"), ("acme", "mira", "2")]
    sent += [("acme:mira", "x", "1"), ("acme", "mira:x", "1")]
    keys = [await key(*each) for each in sent]
    keys.append((await service.call(ANYONE, "who_else", {}, idempotency_key="1")).result)
    assert len(set(keys)) == len(keys)
    assert not any("mira" in each or each in ("1", "2") for each in keys)
    assert await key("acme", "mira", "1") == keys[0]


async def test_wrong_arguments_name_the_field(service):
    with pytest.raises(InvalidRequest) as caught:
        await service.call(ANYONE, "total", {"items": [{"sku": "a", "count": "many"}]})
    assert caught.value.code == "invalid_arguments"
    assert "arguments.items.0.count" in caught.value.message
    assert caught.value.extra["errors"][0]["field"] == "arguments.items.0.count"
    with pytest.raises(InvalidRequest, match=r"arguments\.surplus"):
        await service.call(ANYONE, "total", {"items": [], "surplus": 1})


@pytest.mark.parametrize("wrong", ["\ud800", {"note": "a\ud800"}, ["\udfff"]])
async def test_text_that_is_not_unicode_is_a_wrong_argument(service, wrong):
    with pytest.raises(InvalidRequest) as caught:
        await service.call(ANYONE, "total", {"items": [], "note": wrong})
    assert caught.value.code == "invalid_arguments"
    with pytest.raises(InvalidRequest):
        await service.call(ANYONE, "total", {"items": [], "\ud800": 1})


async def test_scopes_of_the_route_and_of_the_tool_are_needed(service):
    with pytest.raises(Forbidden, match="tools:call"):
        await service.call(Principal("t", "s", frozenset({"orders:write"}), "jwt"), "refund", {"order_id": "1"})
    with pytest.raises(Forbidden, match="orders:write"):
        await service.call(ANYONE, "refund", {"order_id": "1"})
    allowed = Principal("t", "s", frozenset({"tools:call", "orders:*"}), "jwt")
    assert (await service.call(allowed, "refund", {"order_id": "1"})).result == "refunded 1"


async def test_tools_that_need_approval_or_a_run_are_refused(service):
    with pytest.raises(Conflict) as caught:
        await service.call(ANYONE, "wipe", {})
    assert caught.value.code == "approval_required"
    with pytest.raises(InvalidRequest) as refused:
        await service.call(ANYONE, "needs_context", {})
    assert refused.value.code == "needs_run"


async def test_unknown_tools_are_answered_with_the_known_ones(service):
    with pytest.raises(NotFound, match="total, refund"):
        await service.call(ANYONE, "nope", {})


async def test_an_exception_is_told_by_class_only(service):
    with pytest.raises(PilothouseError) as caught:
        await service.call(ANYONE, "breaks", {})
    assert (caught.value.status, caught.value.code) == (502, "tool_failed")
    assert caught.value.extra["error"] == tool_error("unexpected", "The tool failed with ValueError.")["error"]
    assert "hunter2" not in caught.value.message


async def test_a_structured_error_of_the_tools_own_is_its_result(service):
    outcome = await service.call(ANYONE, "refuses", {})
    assert outcome.status == "error"
    assert outcome.result["error"]["message"] == "Not today."


async def test_long_results_are_cut(service):
    outcome = await service.call(ANYONE, "big", {})
    assert len(outcome.result) == 300
    assert "10000 characters" in outcome.result


async def test_a_coroutine_tool_that_takes_too_long_is_cancelled(registry):
    cancelled = asyncio.Event()

    @tool(effect="pure", timeout=0.05)
    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    registry.add(endless)
    with ThreadPoolExecutor(1) as threads:
        with pytest.raises(PilothouseError) as caught:
            await ToolService(registry, RunSettings(), threads=threads).call(ANYONE, "endless", {})
        assert (caught.value.status, caught.value.code, caught.value.retryable) == (504, "tool_timeout", True)
        assert cancelled.is_set()


async def test_a_thread_that_takes_too_long_is_not_waited_for(registry):
    release = threading.Event()

    @tool(timeout=0.05)
    def stuck() -> None:
        release.wait(10)

    registry.add(stuck)
    with ThreadPoolExecutor(1) as threads:
        try:
            with pytest.raises(PilothouseError) as caught:
                await ToolService(registry, RunSettings(), threads=threads).call(ANYONE, "stuck", {})
            assert not release.is_set()
            assert (caught.value.code, caught.value.retryable) == ("tool_timeout", False)
        finally:
            release.set()


async def test_a_timeout_inside_the_tool_is_the_tools_failure(registry, service):
    @tool(effect="pure")
    async def impatient() -> None:
        raise TimeoutError

    registry.add(impatient)
    with pytest.raises(PilothouseError) as caught:
        await service.call(ANYONE, "impatient", {})
    assert (caught.value.code, caught.value.extra["error"]["type"]) == ("tool_failed", "timeout")


@pytest.mark.parametrize(
    "raised",
    [
        SystemExit(3),
        asyncio.CancelledError(),
        BaseExceptionGroup("", [SystemExit(3), ValueError()]),
        BaseExceptionGroup("", [BaseExceptionGroup("", [asyncio.CancelledError()])]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("threaded", [False, True])
async def test_whatever_a_tool_raises_is_the_tools_failure(registry, service, raised, threaded):
    @tool(name="ends")
    async def ends() -> None:
        raise raised

    @tool(name="ends")
    def ends_in_thread() -> None:
        raise raised

    registry.add(ends_in_thread if threaded else ends)
    with pytest.raises(PilothouseError) as caught:
        await service.call(ANYONE, "ends", {})
    assert (caught.value.status, caught.value.code) == (502, "tool_failed")
    assert caught.value.extra["error"]["type"] == "unexpected"


async def test_a_call_that_somebody_stops_is_stopped(registry, service):
    begun = asyncio.Event()

    @tool
    async def waits() -> None:
        begun.set()
        await asyncio.Event().wait()

    registry.add(waits)
    calling = asyncio.ensure_future(service.call(ANYONE, "waits", {}))
    await begun.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling


async def test_an_interrupt_from_the_keyboard_is_no_failure_of_the_tool():
    async def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await call_tool(HERE, interrupted, tool="x", seconds=5)


def test_two_functions_cannot_share_a_name(registry):
    registry.add(total)  # the same one again is no error

    @tool(name="total")
    def other() -> None: ...

    with pytest.raises(StartupError, match="Two different tools are named total"):
        registry.add(other)


async def test_tools_are_listed_with_schema_and_effect(client):
    body = (await client.get("/v1/tools")).json()
    tools = {item["name"]: item for item in body["items"]}
    assert body["next_cursor"] is None
    assert tools["total"]["effect"] == "pure"
    assert tools["total"]["description"] == "Count what is in a basket."
    assert tools["total"]["parameters"]["required"] == ["items"]
    assert tools["refund"]["scopes"] == ["orders:write"]
    assert tools["wipe"]["approval"] is True


async def test_a_tool_is_called_over_http(client):
    answer = await client.post("/v1/tools/total", json={"arguments": {"items": []}})
    assert answer.status_code == 200
    body = answer.json()
    assert body.pop("duration_ms") >= 0
    assert body == {"status": "ok", "result": {"count": 0, "note": ""}}


@pytest.mark.parametrize(
    ("name", "body", "status", "code"),
    [
        ("nope", {}, 404, "tool_not_found"),
        ("total", {}, 422, "invalid_arguments"),
        ("total", {"arguments": []}, 422, "invalid_request"),
        ("total", {"args": {}}, 422, "invalid_request"),
        ("wipe", {}, 409, "approval_required"),
        ("needs_context", {}, 422, "needs_run"),
        ("refund", {"arguments": {"order_id": "1"}}, 403, "missing_scope"),
        ("breaks", {}, 502, "tool_failed"),
    ],
)
async def test_refusals_are_problem_documents(client, name, body, status, code):
    answer = await client.post(f"/v1/tools/{name}", json=body)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["status"]) == (status, code, status)
    assert "hunter2" not in answer.text


async def test_every_route_is_described_with_its_problems(client):
    paths = client.app.openapi()["paths"]
    assert {"200", "401", "403", "404", "409", "422", "502", "504"} <= paths["/v1/tools/{name}"]["post"][
        "responses"
    ].keys()
