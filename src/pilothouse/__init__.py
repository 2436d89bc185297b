"""Pilothouse: the production backend for AI agents."""
