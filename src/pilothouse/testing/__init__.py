"""Stand-ins that ship to users, so that they can test their own agents without a real provider."""

from pilothouse.testing.provider import Script, ScriptedProvider, Turn

__all__ = ["Script", "ScriptedProvider", "Turn"]
