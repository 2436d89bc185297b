"""Faults while people use it: real processes are killed at random, then promises are checked from the outside.

The model and the tools keep ledgers of their own, fsynced line by line, in files that no killed process owns. Callers
note what they saw. `check` compares both with what the API says in the end.

    outcome = await run_chaos(ChaosPlan(kills=20, seed=7, app="...", folder=Path("chaos")))
    print(outcome.figures, outcome.violations)
"""

from pilothouse.testing.chaos.check import Violation, check
from pilothouse.testing.chaos.harness import ChaosPlan, Outcome, run_chaos

__all__ = ["ChaosPlan", "Outcome", "Violation", "check", "run_chaos"]
