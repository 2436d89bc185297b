"""`pilothouse chaos`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class FaultKinds(StrEnum):
    """Which faults."""

    dead = "dead"
    half_dead = "half-dead"
    all = "all"


def chaos(
    *,
    kills: Annotated[int, typer.Option("--kills", min=0, help="How many faults.")] = 20,
    faults: Annotated[
        FaultKinds,
        typer.Option(
            "--faults",
            help="dead: processes are killed, stopped, paused. half-dead: networks, databases, disks, clocks and "
            "models that neither work nor fail. all: half of each.",
        ),
    ] = FaultKinds.all,
    only: Annotated[
        str, typer.Option("--only", metavar="KIND,...", help="Of the half-dead only these kinds, as locks,host-death.")
    ] = "",
    seed: Annotated[int, typer.Option("--seed", help="The same seed plans the same faults and messages.")] = 1,
    in_cluster: Annotated[
        bool, typer.Option("--cluster", help="Three nodes and two workers on PostgreSQL instead of one server.")
    ] = False,
    clients: Annotated[int, typer.Option("--clients", min=1, max=200, help="Callers at the same time.")] = 6,
    lease_seconds: Annotated[
        float, typer.Option("--lease-seconds", min=3, help="Silence after which a node's runs are taken over.")
    ] = 10,
    json_out: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write the figures here.")] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", file_okay=False, help="Where data, logs and ledgers go, and stay."),
    ] = None,
) -> None:
    """Break it while people use it, and check that it kept its promises.

    Starts real processes and an offline model; kills at random, cuts networks, makes PostgreSQL read-only, cancels its
    statements, holds its locks, fails writes, steps clocks and lets the model answer garbage, while callers chat,
    stream, cancel and reconnect. Then compares what callers saw with ledgers that the model and the tools kept outside,
    and says how long each kind of fault was felt. Exits with 1 if a promise was broken, and says which run broke it.
    """
    from pilothouse.cli.actions.chaos import run_chaos_command  # noqa: PLC0415 - loaded on use

    run_chaos_command(
        kills=kills,
        faults=faults.value,
        only=frozenset(kind.strip() for kind in only.split(",") if kind.strip()),
        seed=seed,
        in_cluster=in_cluster,
        clients=clients,
        lease_seconds=lease_seconds,
        json_out=json_out,
        data_dir=data_dir,
    )
