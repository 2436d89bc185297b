"""(d) Pilothouse with everything on: SQLite on disk, API keys, journal, event log, middleware, JSON logs at info."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, UserPromptPart
from sqlalchemy import Connection

from benchmarks.workload import ASK_SHORT, INSTRUCTIONS, MODEL, SHORT_TOKENS, order_lookup
from pilothouse import Pilothouse, tool
from pilothouse.conversations import repository as conversation_rows
from pilothouse.conversations.transcript import StoredMessage, encode
from pilothouse.db import open_database
from pilothouse.db.migrate import upgrade_schema
from pilothouse.demo import PROMPT, OfflineModel, Shop, ShopTools, support_agent
from pilothouse.identity.keys import Keys
from pilothouse.identity.principal import Principal
from pilothouse.kit.clock import now_ms
from pilothouse.kit.ids import new_id
from pilothouse.settings import Settings, load_settings


@dataclass(frozen=True)
class Seed:
    """Conversations to make before the server starts: so many of each length in messages."""

    lengths: tuple[int, ...] = ()
    each: int = 0


def settings(provider: str, folder: Path, database_url: str | None, redis_url: str | None = None) -> Settings:
    """Everything as it comes; only where the provider, the database and the key are."""
    database: dict[str, Any] = {} if database_url is None else {"url": database_url}
    return load_settings(
        None,
        data={"dir": folder},
        database=database,
        redis={} if redis_url is None else {"url": redis_url},
        log={"level": "info", "format": "json"},
        openai={"base_url": f"{provider}/v1", "api_key": "bench"},
    )


def make(provider: str, folder: Path, database_url: str | None = None, redis_url: str | None = None) -> Pilothouse:
    """The app. Agent `shop` declares its tool pure, which it is; `shop_once` leaves it at the default, `once`; the
    tool of `asker` waits for a person.
    """
    app = Pilothouse(settings(provider, folder, database_url, redis_url), base=folder)
    model = f"openai-chat:{MODEL}"
    app.agent(Agent(name="plain", instructions=INSTRUCTIONS), model=model, default=True)
    for name, lookup in (("shop", tool(effect="pure")(order_lookup)), ("shop_once", _once())):
        app.agent(Agent(name=name, instructions=INSTRUCTIONS), model=model, tools=[lookup])
    app.agent(Agent(name="asker", instructions=INSTRUCTIONS), model=model, tools=[_sign_off()])
    return app


def _sign_off() -> Any:
    @tool(effect="once", approval=True)
    async def sign_off() -> str:
        """Ask the manager."""
        return "granted"

    return sign_off


def _once() -> Any:
    async def order_lookup(order_id: str) -> str:
        """Look up where an order is.

        Args:
            order_id: the number of the order.
        """
        return f'{{"order_id": "{order_id}", "status": "packed", "arrives_on": "2026-11-24"}}'

    return order_lookup


def make_demo(folder: Path) -> Pilothouse:
    """As `pilothouse demo`: the support agent with the scripted offline model, for one person's machine."""
    app = Pilothouse(load_settings(None, data={"dir": folder}, log={"format": "json"}), local=True, base=folder)
    shop = Shop(folder / "shop.db")
    app.agent(
        support_agent(), prompt=PROMPT, model=OfflineModel(delay_seconds=0), tools=ShopTools(shop).all(), default=True
    )
    return app


async def prepare(settings: Settings, seed: Seed) -> dict[str, Any]:
    """Make an API key, and conversations by our own repository, in a database no server has open yet.

    Returns:
        `token`, and `conversations`: ids by length in messages.
    """
    database = await open_database(settings.database_url, pool_size=1)
    try:
        await upgrade_schema(database)
        owner = Principal("bench", "bench", frozenset({"*"}), "local")
        key, token = await Keys(database).create(owner, "benchmark", scopes=["chat", "runs:*", "conversations:*"])
        conversations: dict[str, list[str]] = {}
        for length in seed.lengths:
            ids = conversations[str(length)] = [new_id("conv") for _ in range(seed.each)]
            for conversation_id in ids:
                await database.write(_insert_conversation, key.tenant, key.owner, conversation_id, length)
    finally:
        await database.close()
    return {"token": token, "conversations": conversations}


def _insert_conversation(connection: Connection, tenant: str, owner: str, conversation_id: str, length: int) -> None:
    now, turns = now_ms(), length // 2
    conversation_rows.insert_conversation(
        connection,
        {
            "id": conversation_id,
            "tenant": tenant,
            "owner": owner,
            "agent": "plain",
            "title": "benchmark",
            "turns": turns,
            "created_at": now,
            "updated_at": now,
        },
    )
    answer = " ".join(f"w{index:03d}" for index in range(SHORT_TOKENS))
    asked = encode(ModelRequest(parts=[UserPromptPart(ASK_SHORT)]))
    answered = encode(ModelResponse(parts=[TextPart(answer)], model_name=MODEL))
    rows: list[StoredMessage] = []
    for turn in range(1, turns + 1):
        run_id = new_id("run")
        rows.append(_row(turn, 1, run_id, 0, "user", asked, now))
        rows.append(_row(turn, 2, run_id, 1, "assistant", answered, now))
    conversation_rows.insert_messages(connection, conversation_id, rows)


def _row(turn: int, seq: int, run_id: str, step: int, role: Any, payload: str, now: int) -> StoredMessage:
    return StoredMessage(turn, seq, run_id, step, role, None, payload, 20, pinned=False, created_at=now)
