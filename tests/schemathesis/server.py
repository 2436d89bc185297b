"""A process with a server and its scripted provider; prints one line of JSON with its address, ends with its input."""

import asyncio
import json
import sys

from pydantic import BaseModel
from pydantic_ai import Agent
from tests.support.server import RunningServer, running

from pilothouse.app import Pilothouse
from pilothouse.testing.provider import Rule, Script, ToolCall, Turn, When
from pilothouse.tools import tool

SCRIPT = Script(
    rules=[
        Rule(when=When(after_tool=True), turn=Turn(text="It ships tomorrow.")),
        Rule(
            when=When(offers_tool="refund", user_contains="refund"),
            turn=Turn(tool_calls=[ToolCall(name="refund", arguments={"order_id": "1042", "cents": 100})]),
        ),
        Rule(
            when=When(offers_tool="order_lookup", user_matches="[aeiou]"),
            turn=Turn(reasoning="Look it up.", tool_calls=[ToolCall(name="order_lookup", arguments={"order_id": "1"})]),
        ),
        Rule(
            when=When(offers_tool="final_result"),
            turn=Turn(tool_calls=[ToolCall(name="final_result", arguments={"total": 3})]),
        ),
    ],
    turns=[Turn(text="Hello there.")],
)


class Report(BaseModel):
    """A structured answer."""

    total: int


@tool(effect="pure")
async def order_lookup(order_id: str, detail: int = 0) -> dict[str, object]:
    """Look up one order."""
    return {"order_id": order_id, "status": "packed", "detail": detail}


@tool(effect="once", approval=True)
async def refund(order_id: str, cents: int) -> str:
    """Give money back."""
    return f"{cents} given back for {order_id}"


@tool(effect="idempotent", scopes=["orders:write"])
async def cancel_order(order_id: str) -> str:
    """Cancel an order."""
    raise ValueError(order_id)


def add_agents(app: Pilothouse) -> None:
    """Agents of all kinds: with tools, approvals, structured output and none of them."""
    app.agent(Agent(name="support", tools=[order_lookup, refund, cancel_order]), default=True)
    app.agent(Agent(name="reporter", output_type=Report))
    app.agent(Agent(name="helper"))


async def seed(server: RunningServer) -> dict[str, list[str]]:
    """One thing of each kind, for requests that name one that exists."""
    answered = [await server.chat("Where is order 1042?", agent=name) for name in ("support", "helper", "reporter") * 2]
    waiting = (await server.send("refund please")).json()
    key = (await server.post("/v1/keys", {"name": "seeded", "scopes": ["chat"]})).json()
    return {
        "run_id": [*(answer["run_id"] for answer in answered), waiting["run_id"]],
        "conversation_id": [answer["conversation_id"] for answer in answered],
        "key": ["1.1", "1.2", "2.1"],
        "key_id": [key["id"]],
        "name": ["support", "reporter", "order_lookup", "refund", "cancel_order"],
    }


async def main(database_url: str) -> None:
    async with running(database_url, SCRIPT, setup=add_agents, server={"heartbeat_seconds": 1}) as server:
        sys.stdout.write(json.dumps({"url": server.url, "token": server.token, "known": await seed(server)}) + "\n")
        sys.stdout.flush()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
