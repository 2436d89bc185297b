"""What columns of both databases can hold, made of what they can't."""

import re
from typing import Final

MOST_INTEGER: Final = 2**31 - 1
"""The largest number of an integer column, which has 32 bits."""

_UNWRITABLE = re.compile("[\ud800-\udfff]")  # UTF-8 has no lone surrogates
_REPLACEMENT = "\ufffd"


def column_text(text: str, most: int | None = None) -> str:
    """Text for a column of `most` characters: cut, and without the NULs PostgreSQL can't store."""
    clean = _UNWRITABLE.sub(_REPLACEMENT, text.replace("\x00", _REPLACEMENT))
    return clean if most is None else clean[:most]


def encodable(text: str) -> str:
    """Text that UTF-8 can encode: lone surrogates are replaced."""
    return text if text.isascii() else _UNWRITABLE.sub(_REPLACEMENT, text)


def column_count(number: int) -> int:
    """A count for an integer column: what a provider reports may be anything."""
    return max(0, min(number, MOST_INTEGER))
