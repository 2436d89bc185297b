"""Runs of a server, as tables or JSON."""

import asyncio
from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from pilothouse.cli.actions.client import ServerClient, find_token
from pilothouse.cli.actions.screen import effects
from pilothouse.cli.output import add_row, plain, show, show_json, show_table
from pilothouse.kit.jsons import dumps
from pilothouse.kit.printable import one_line

_COLOURS = {
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "running": "cyan",
    "awaiting_input": "magenta",
}


def list_runs(url: str, token: str | None, filters: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a page of runs."""
    page = asyncio.run(_get(url, token, "/v1/runs", filters))
    if as_json:
        show_json(page)
        return
    if not page["items"]:
        show("No runs.")
        return
    table = _table("run", "agent", "state", "created", "took", "steps", "tokens", "cost")
    for run in page["items"]:
        add_row(
            table,
            one_line(run["id"]),
            one_line(run["agent"]),
            _state(run["state"]),
            _time(run["created_at"]),
            _took(run["duration_ms"]),
            str(run["step_count"]),
            _tokens(run["usage"]),
            _cost(run["cost_usd"]),
        )
    show_table(table)


def show_run(url: str, token: str | None, run_id: str, *, as_json: bool) -> None:
    """Print a run and its steps."""
    run = asyncio.run(_get(url, token, f"/v1/runs/{run_id}"))
    if as_json:
        show_json(run)
        return
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(run).items():
        add_row(facts, Text(name, style="dim"), value)
    show_table(facts)
    steps = _table("#", "step", "state", "took", "tokens", "cost")
    steps.add_column("what", overflow="fold")
    for step in run["steps"]:
        add_row(
            steps,
            str(step["number"]),
            one_line(f"{step['kind']} {step['name']}"),
            _state(step["state"]),
            _took(step["duration_ms"]),
            _tokens(step) if step["kind"] == "model" else "",
            _cost(step["cost_usd"]) if step["kind"] == "model" else "",
            _short(_what(step)),
        )
    show_table(steps)


def cancel_run(url: str, token: str | None, run_id: str, *, as_json: bool) -> None:
    """Stop a run and print what became of it."""
    done = asyncio.run(_post(url, token, f"/v1/runs/{run_id}/cancel"))
    if as_json:
        show_json(done)
    elif done["already_finished"]:
        show(f"It had ended before: {done['state']}.")
    else:
        show(effects(done["took_effect"]))


def release_run(url: str, token: str | None, run_id: str, *, as_json: bool) -> None:
    """Let a parked run go on and print that it does."""
    run = asyncio.run(_post(url, token, f"/v1/runs/{run_id}/release"))
    if as_json:
        show_json(run)
    else:
        show(f"It goes on. Follow it with: pilothouse runs show {run['run_id']}")


async def _get(url: str, token: str | None, path: str, query: Mapping[str, Any] | None = None) -> Any:
    async with ServerClient(url, find_token(url, token)) as client:
        return await client.get(path, query)


async def _post(url: str, token: str | None, path: str) -> Any:
    async with ServerClient(url, find_token(url, token)) as client:
        return await client.post(path)


def _facts(run: Mapping[str, Any]) -> dict[str, Text | str]:
    facts: dict[str, Any] = {
        "run": run["id"],
        "conversation": run["conversation_id"],
        "agent": run["agent"],
        "model": run["model"],
        "created": _time(run["created_at"]),
        "took": _took(run["duration_ms"]),
        "tokens": _tokens(run["usage"]),
        "cost": _cost(run["cost_usd"]),
        "attempts": run["attempt"] if run["attempt"] > 1 else None,
        "message": run["message"],
        "answer": run["text"],
        "error": f"{run['error']['message']} ({run['error']['code']})" if run["error"] else None,
    }
    shown: dict[str, Text | str] = {name: Text(plain(str(value))) for name, value in facts.items() if value}
    return {**shown, "state": _state(run["state"])}


def _what(step: Mapping[str, Any]) -> str:
    if step["kind"] == "model":
        return step["text"] or ""
    return f"{dumps(step['arguments'])} → {step['result'] or step['error_code'] or ''}"


def _table(*headers: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for header in headers:
        table.add_column(header, no_wrap=True)
    return table


def _state(state: str) -> Text:
    return Text(one_line(state), style=_COLOURS.get(state, ""), no_wrap=True)


def _time(text: str | None) -> str:
    return (text or "")[:19]


def _took(milliseconds: int | None) -> str:
    if milliseconds is None:
        return ""
    return f"{milliseconds} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"


def _tokens(usage: Mapping[str, Any]) -> str:
    return f"{usage['input_tokens'] or 0} + {usage['output_tokens'] or 0}"


def _cost(usd: str | None) -> str:
    return "" if usd is None else f"${usd}"


def _short(text: str) -> Text:
    line = plain(" ".join(text.split()))
    return Text(line if len(line) <= 120 else line[:119] + "…")
