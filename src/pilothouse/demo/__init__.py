"""The demo: a support agent of an invented shop. `examples/support` wires the same parts as a project of its own."""

from collections.abc import Mapping
from pathlib import Path

from pydantic_ai import Agent
from pydantic_ai.models import Model

from pilothouse.demo.offline import OfflineModel
from pilothouse.demo.shop import Shop
from pilothouse.demo.tools import ShopTools

PROMPT = Path(__file__).with_name("prompts") / "support.md"
"""The support agent's prompt."""

__all__ = ["PROMPT", "OfflineModel", "Shop", "ShopTools", "demo_model", "support_agent"]

_BY_KEY = (
    ("OPENAI_API_KEY", "PILOTHOUSE_OPENAI_API_KEY", "openai:gpt-6-luna"),
    ("ANTHROPIC_API_KEY", "PILOTHOUSE_ANTHROPIC_API_KEY", "anthropic:claude-haiku-5-5"),
    ("AZURE_OPENAI_API_KEY", "PILOTHOUSE_AZURE_API_KEY", "azure:gpt-6-luna"),
)


def demo_model(environ: Mapping[str, str]) -> str | Model:
    """The model to show: `PILOTHOUSE_MODELS_DEFAULT`, else a small one of the first provider there is a key for, else
    the scripted offline model.
    """
    chosen = environ.get("PILOTHOUSE_MODELS_DEFAULT", "").strip()
    if chosen:
        return chosen
    for name, ours, model in _BY_KEY:
        if environ.get(name, "").strip() or environ.get(ours, "").strip():
            return model
    return OfflineModel()


def support_agent() -> Agent[object, str]:
    """The support agent, without model, prompt and tools: those are given where it is registered."""
    return Agent(name="support", description="Answers questions about orders, tracks parcels and gives refunds.")
