"""Write a release's fixture of unfinished runs, which every later release must finish. Once per release:

python -m scripts.make_compat_fixture tests/compat/fixtures
"""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, select
from tests.compat.recorded import World, agent_for
from tests.support.node import CutDatabase, Node
from tests.support.tables import all_tables

from pilothouse.db import Database, open_database
from pilothouse.db.migrate import upgrade_schema
from pilothouse.identity.principal import local_principal
from pilothouse.kit.jsons import dumps
from pilothouse.version import VERSION

KEPT = ("conversations", "runs", "messages", "steps", "run_events")


async def main(folder: Path) -> None:
    """Make runs that end at every one of their writes, others that wait, and write them as JSON."""
    with tempfile.TemporaryDirectory() as temporary:
        database = await open_database(f"sqlite:///{temporary}/pilothouse.db")
        try:
            await upgrade_schema(database)
            await fill(database)
            rows = await database.read(export)
        finally:
            await database.close()
    path = folder / f"{VERSION}.json"
    path.write_text(dumps({"version": VERSION, "tables": rows}).replace('},{"', '},\n{"') + "\n")
    sys.stdout.write(f"{path}: {len(rows['runs'])} runs\n")


async def fill(database: Database) -> None:
    """Conversations with runs at every kind of prefix."""
    async with Node(database, agent_for(World(step_seconds=0.05))) as node:
        first = await node.finish("case 0 text")
        if first.state != "completed":
            raise RuntimeError(first)
    writes = await count_writes(database, "case 1 whole")
    for at in range(1, writes):
        await cut(database, f"case 2 cut {at}", at)
        await cut(database, f"case 3 stream {at}", at, stream=True)
    for at in range(1, 3):
        await cut(database, f"case 4 text {at}", at)
    async with Node(database, agent_for(World(step_seconds=0.05))) as node:
        earlier = await node.start("case 5 whole")
        await node.runs.wait(local_principal(), earlier)
        asking = await node.start("case 6 ask", conversation_id=earlier.conversation_id)
        await node.runs.wait(local_principal(), asking)
        for number in (7, 8):
            await node.start(f"case {number} queued", conversation_id=earlier.conversation_id, on_busy="queue")


async def count_writes(database: Database, message: str) -> int:
    """How many writes a run takes."""
    counting: Any = CutDatabase(database)
    async with Node(counting, agent_for(World(step_seconds=0.05))) as node:
        await node.finish(message)
        return counting.writes


async def cut(database: Database, message: str, at: int, *, stream: bool = False) -> None:
    """Run a message in a process that dies right after a write."""
    dying: Any = CutDatabase(database, at=at)
    node = Node(dying, agent_for(World(step_seconds=0.05)))
    starting = asyncio.ensure_future(node.start(message, stream=stream))
    await asyncio.wait([starting])
    tasks = [] if starting.exception() is not None else [starting.result().task]
    if tasks:
        await asyncio.wait([task for task in tasks if task is not None])
    await node.abandon(tasks)


def export(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    """All rows by table and column."""
    tables: dict[str, Table] = dict(all_tables().tables)
    return {name: [dict(row) for row in connection.execute(select(tables[name])).mappings()] for name in KEPT}


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
