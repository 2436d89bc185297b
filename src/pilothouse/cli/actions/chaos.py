"""Run the fault harness and say what came of it."""

import asyncio
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from pydantic_ai import Agent

from pilothouse.app import Pilothouse
from pilothouse.cli.output import say, show
from pilothouse.settings import load_settings
from pilothouse.testing.chaos import ChaosPlan, Outcome, run_chaos
from pilothouse.testing.chaos.agent import ChaosTools
from pilothouse.testing.chaos.figures import as_text
from pilothouse.testing.chaos.harness import FaultKinds
from pilothouse.testing.chaos.ledger import Ledger
from pilothouse.testing.chaos.stage import CLOCK_VARIABLE, LEDGER_VARIABLE, PROCESS_VARIABLE

APP = "pilothouse.cli.actions.chaos:chaos_app"
_MOST_SHOWN = 40


def chaos_app() -> Pilothouse:
    """The application under test: one agent, whose tools write where the harness says."""
    ledger = Ledger(Path(os.environ[LEDGER_VARIABLE]))
    app = Pilothouse(load_settings(env_file=None))
    agent: Agent[Any, Any] = Agent(name="chaos", description="Does as it is told.")
    tools = ChaosTools(ledger, process=os.environ[PROCESS_VARIABLE], clock=float(os.environ[CLOCK_VARIABLE]))
    app.agent(agent, tools=tools.all())
    return app


def run_chaos_command(
    *,
    kills: int,
    faults: FaultKinds,
    only: frozenset[str],
    seed: int,
    in_cluster: bool,
    clients: int,
    lease_seconds: float,
    json_out: Path | None,
    data_dir: Path | None,
) -> None:
    """Play, print the figures, and exit with 1 where a promise was broken.

    Raises:
        StartupError: something does not start.
    """
    folder = data_dir or Path(tempfile.mkdtemp(prefix="pilothouse-chaos-"))
    plan = ChaosPlan(
        app=APP,
        folder=folder,
        kills=kills,
        faults=faults,
        only=only,
        seed=seed,
        cluster=in_cluster,
        clients=clients,
        lease_seconds=lease_seconds,
        say=say,
    )
    outcome = asyncio.run(run_chaos(plan))
    figures = {"mode": "cluster" if in_cluster else "embedded", "kinds": faults, "seed": seed, **outcome.figures}
    show(as_text(figures))
    _tell(outcome, folder, seed=seed)
    if json_out is not None:
        broken = [{"promise": v.promise, "what": v.what, "where": v.where} for v in outcome.violations]
        json_out.write_text(json.dumps({**figures, "broken": broken}, indent=1) + "\n")
    if outcome.violations:
        sys.exit(1)
    if data_dir is None:
        shutil.rmtree(folder, ignore_errors=True)


def _tell(outcome: Outcome, folder: Path, *, seed: int) -> None:
    for violation in outcome.violations[:_MOST_SHOWN]:
        say(f"BROKEN {violation}")
    if len(outcome.violations) > _MOST_SHOWN:
        say(f"... and {len(outcome.violations) - _MOST_SHOWN} more")
    if outcome.violations:
        say(f"Seed {seed}. Data, logs and ledgers are in {folder}")
