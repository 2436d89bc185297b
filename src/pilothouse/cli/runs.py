"""`pilothouse runs`."""

from typing import Annotated

import typer

from pilothouse.cli.options import DEFAULT_URL, AsJson, ServerUrl, Token

app = typer.Typer(help="Look at runs on a server, and stop them.", no_args_is_help=True)

RunId = Annotated[str, typer.Argument(metavar="RUN_ID", help="As in `pilothouse runs list`: run_…")]


@app.command("list")
def list_runs(  # noqa: PLR0917 - Typer makes options of them
    url: ServerUrl = DEFAULT_URL,
    token: Token = None,
    state: Annotated[
        str | None,
        typer.Option(help="Only these: queued, running, awaiting_input, completed, failed or cancelled."),
    ] = None,
    agent: Annotated[str | None, typer.Option(help="Only those of this agent.")] = None,
    conversation: Annotated[str | None, typer.Option(help="Only those of this conversation.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Most runs shown.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List your runs, newest first."""
    from pilothouse.cli.actions.runs import list_runs as action  # noqa: PLC0415 - loaded on use

    filters = {"state": state, "agent": agent, "conversation_id": conversation, "limit": limit}
    action(url, token, filters, as_json=as_json)


@app.command("show")
def show_run(run_id: RunId, url: ServerUrl = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Show a run with its steps: what was called, how long it took, what it cost."""
    from pilothouse.cli.actions.runs import show_run as action  # noqa: PLC0415 - loaded on use

    action(url, token, run_id, as_json=as_json)


@app.command("release")
def release_run(run_id: RunId, url: ServerUrl = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Let a run go on that was parked (`poisoned`) because server processes ended under it."""
    from pilothouse.cli.actions.runs import release_run as action  # noqa: PLC0415 - loaded on use

    action(url, token, run_id, as_json=as_json)


@app.command("cancel")
def cancel_run(run_id: RunId, url: ServerUrl = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Stop a run; says what took effect before it stopped."""
    from pilothouse.cli.actions.runs import cancel_run as action  # noqa: PLC0415 - loaded on use

    action(url, token, run_id, as_json=as_json)
