"""Replay a recorded run, and show where today's code goes another way."""

import asyncio
from collections.abc import Collection
from dataclasses import asdict

import typer

from pilothouse.app import Pilothouse
from pilothouse.cli.actions.database import configured_database
from pilothouse.cli.actions.target import load_target
from pilothouse.cli.output import plain, show, show_json
from pilothouse.runs.replay import Replayed, replay


def replay_run(run_id: str, target: str, *, ignore: Collection[str], as_json: bool) -> None:
    """Print the first difference.

    Raises:
        StartupError: the application or its database can't be used.
        NotFound: there is no such run, or its agent is not served any more.
        typer.Exit: with 1 where there is a difference.
    """
    replayed = asyncio.run(_replay(load_target(target), run_id, ignore))
    if as_json:
        show_json(asdict(replayed))
    else:
        show(_text(replayed))
    if replayed.difference is not None:
        raise typer.Exit(1)


async def _replay(app: Pilothouse, run_id: str, ignore: Collection[str]) -> Replayed:
    async with configured_database(app.settings) as database:
        return await replay(database, app.agents, run_id, ignore=ignore)


def _text(replayed: Replayed) -> str:
    found = replayed.difference
    if found is None:
        return f"No difference: {replayed.responses} recorded model responses, agent {plain(replayed.agent)}."
    lines = [f"Step {found.step}: {plain(found.what)}."]
    lines.append(f"  recorded: {plain(found.recorded) if found.recorded is not None else 'nothing'}")
    lines.append(f"  now:      {plain(found.now) if found.now is not None else 'nothing'}")
    return "\n".join(lines)
