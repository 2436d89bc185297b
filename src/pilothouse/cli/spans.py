"""Spans of time as they are written on the command line."""

import re
from datetime import timedelta

SPANS = "12h, 90d, 2w or 1y"
"""Examples of a span, for messages."""

_SPAN = re.compile(r"([0-9]{1,5})([hdwy])")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1), "y": timedelta(days=365)}


def parse_span(text: str) -> timedelta | None:
    """The length of `12h`, `90d`, `2w` or `1y` (365 days); None if `text` is no span."""
    span = _SPAN.fullmatch(text.strip())
    return None if span is None else int(span[1]) * _UNITS[span[2]]
