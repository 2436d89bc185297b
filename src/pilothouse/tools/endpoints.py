"""`GET /v1/tools` and `POST /v1/tools/{name}`. Needs `app.state.tools`, a `ToolService`."""

from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Path, Request

from pilothouse.http.problems import problem_responses
from pilothouse.idempotency.http import IdempotencyKey, Once
from pilothouse.idempotency.service import key_use
from pilothouse.identity.http import Scoped
from pilothouse.identity.principal import Principal
from pilothouse.tools.schemas import ToolCallAnswer, ToolCallRequest, ToolPage, ToolView
from pilothouse.tools.service import ToolService

router = APIRouter(prefix="/v1/tools", tags=["tools"])


async def _service(request: Request) -> ToolService:
    return cast("ToolService", request.app.state.tools)


Tools = Annotated[ToolService, Depends(_service)]


@router.get("", summary="List tools", operation_id="list_tools", responses=problem_responses(401, 403, 503))
async def list_tools(_principal: Annotated[Principal, Scoped("agents:read")], service: Tools) -> ToolPage:
    """The registered tools. Those with neither `approval` nor `needs_run` can be called without a model.

    Needs the scope `agents:read`.
    """
    return ToolPage(items=[ToolView.of(tool) for tool in service.tools])


@router.post(
    "/{name}",
    summary="Call a tool",
    operation_id="call_tool",
    responses=problem_responses(401, 403, 404, 409, 413, 422, 502, 503, 504),
)
async def call_tool(
    name: Annotated[str, Path(description="The tool's name.", examples=["order_lookup"])],
    body: ToolCallRequest,
    principal: Annotated[Principal, Scoped("tools:call")],
    service: Tools,
    once: Once,
    idempotency_key: IdempotencyKey = None,
) -> ToolCallAnswer:
    """Run a tool without a model and answer with its result. Needs the scope `tools:call` and those of the tool.

    With an `Idempotency-Key` a tool with the effect `once` runs once, however often the request is sent; a repeated
    request needs the same scopes as the first.
    Tools that need approval or a run are refused (409 `approval_required`, 422 `needs_run`).
    """
    tool = service.allowed(principal, name)  # before a stored answer is given: the key may be an earlier credential's

    async def call() -> dict[str, Any]:
        outcome = await service.call(principal, name, body.arguments, idempotency_key=idempotency_key)
        return {"status": outcome.status, "result": outcome.result, "duration_ms": outcome.duration_ms}

    request = [name, body.arguments]
    use = key_use(principal.tenant, principal.subject, idempotency_key, route="tools", body=request)
    may_repeat = tool.policy.effect != "once"
    return ToolCallAnswer.model_validate(await once.once(use, call, may_repeat=may_repeat))
