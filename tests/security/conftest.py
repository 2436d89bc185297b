"""Logs of these tests are JSON: the development format draws a traceback with all its values, which takes minutes."""

from pilothouse.observability.logs import configure_logging
from pilothouse.settings import LogSettings

configure_logging(LogSettings(level="warning", format="json"), "development")
