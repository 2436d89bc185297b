"""`GET /v1/agents` and `GET /v1/agents/{name}`. Needs `app.state.agents`, an `AgentRegistry`."""

from typing import Annotated, cast

from fastapi import APIRouter, Depends, Path, Request

from pilothouse.agents.registry import AgentRegistry
from pilothouse.agents.schemas import AgentPage, AgentSummary, AgentView
from pilothouse.http.problems import problem_responses
from pilothouse.identity.http import Scoped
from pilothouse.identity.principal import Principal

router = APIRouter(prefix="/v1/agents", tags=["agents"])


async def _registry(request: Request) -> AgentRegistry:
    return cast("AgentRegistry", request.app.state.agents)


Agents = Annotated[AgentRegistry, Depends(_registry)]
Reader = Annotated[Principal, Scoped("agents:read")]


@router.get("", summary="List agents", operation_id="list_agents", responses=problem_responses(401, 403, 503))
async def list_agents(_principal: Reader, agents: Agents) -> AgentPage:
    """The agents this server has. Needs the scope `agents:read`."""
    return AgentPage(items=[AgentSummary.of(served, agents.default) for served in agents])


@router.get(
    "/{name}", summary="Get an agent", operation_id="get_agent", responses=problem_responses(401, 403, 404, 503)
)
async def get_agent(
    name: Annotated[str, Path(description="The agent's name.", examples=["support"])],
    _principal: Reader,
    agents: Agents,
) -> AgentView:
    """One agent: its tools with their schemas, limits, prompt and output schema. Needs the scope `agents:read`."""
    return AgentView.of(agents.get(name), agents.default)
