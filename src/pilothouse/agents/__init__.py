"""Agents: which are served, with which prompts, models, tools and limits."""

from pilothouse.agents.limits import RunLimits
from pilothouse.agents.prompts import Prompt, load_prompt
from pilothouse.agents.registry import AgentRegistry, DepsRequest, ServedAgent

__all__ = ["AgentRegistry", "DepsRequest", "Prompt", "RunLimits", "ServedAgent", "load_prompt"]
