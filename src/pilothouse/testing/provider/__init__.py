"""A scripted model provider: a real HTTP server that speaks the wires of OpenAI and Anthropic.

Point any client at it (`ScriptedProvider.openai_base_url`, `ScriptedProvider.anthropic_base_url`)
and it answers what a `Script` says, including the ways in which real providers fail.
"""

from pilothouse.testing.provider.errors import FAKE_SECRET
from pilothouse.testing.provider.log import RequestRecord
from pilothouse.testing.provider.script import ErrorReply, Rule, Script, ToolCall, Turn, UsageReport, When
from pilothouse.testing.provider.server import ScriptedProvider

__all__ = [
    "FAKE_SECRET",
    "ErrorReply",
    "RequestRecord",
    "Rule",
    "Script",
    "ScriptedProvider",
    "ToolCall",
    "Turn",
    "UsageReport",
    "When",
]
