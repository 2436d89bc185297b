"""The command line. What a command does is in `cli.actions` and loaded when it is used, so that help is quick."""

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from pilothouse.cli import audit, chaos, chat, cluster, db, demo, doctor, keys, replay, runs, serve, worker
from pilothouse.cli.output import complain, show
from pilothouse.errors import PilothouseError, StartupError
from pilothouse.version import VERSION

__all__ = ["main"]

_ORDER = (
    "demo",
    "serve",
    "worker",
    "chat",
    "runs",
    "replay",
    "keys",
    "audit",
    "db",
    "doctor",
    "cluster",
    "chaos",
    "version",
)


class _InOrder(TyperGroup):
    """Help lists commands as one comes to need them."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - Typer's signature
        return list(_ORDER)


app = typer.Typer(
    name="pilothouse",
    cls=_InOrder,
    help="The production backend for AI agents: serve, stream, persist and recover Pydantic AI agents.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("serve")(serve.serve)
app.command("worker")(worker.worker)
app.command("chat")(chat.chat)
app.add_typer(runs.app, name="runs")
app.add_typer(keys.app, name="keys")
app.command("audit")(audit.audit)
app.add_typer(db.app, name="db")
app.command("replay")(replay.replay)
app.command("doctor")(doctor.doctor)
app.command("cluster")(cluster.cluster)
app.command("chaos")(chaos.chaos)


@app.command("version")
def version() -> None:
    """Print the version of Pilothouse."""
    show(VERSION)


def main() -> None:
    """The entry point. Exits with 0; 1 where something failed; 2 where it could not begin."""
    try:
        app()
    except StartupError as error:
        complain(error)
        sys.exit(2)
    except PilothouseError as error:
        complain(error)
        sys.exit(1)
