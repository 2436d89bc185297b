"""Text from outside, made such that it can't steer a terminal, forge a line, turn the direction of writing or hide.

The one definition of unsafe characters: control and format characters, line ends of Unicode, halves of surrogate pairs
(categories Cc, Cf, Zl, Zp, Cs), and the letters and marks that Unicode lets programs show as nothing. Four of them
(`_JOINING`) also stand in honest text and names, in Persian and Indian words and in emoji, and do nothing to a
terminal: they stay, except where a model must be shown all that is there (`is_unsafe`).
"""

import re

__all__ = ["cleaned", "escape_json", "has_unsafe", "is_unsafe", "one_line", "printable"]

_CONTROL = "\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff"
_FORMAT = (
    "\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
)
_SHOWN_AS_NOTHING = "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0d\uffa0\U000e0000-\U000e0fff"
_UNSAFE_IN_TEXT = _CONTROL + _FORMAT + _SHOWN_AS_NOTHING
_JOINING = "\u200c\u200d\ufe0e\ufe0f"

_IN_TEXT = re.compile(f"[{_UNSAFE_IN_TEXT}]")
_IN_LINE = re.compile(f"[{_UNSAFE_IN_TEXT}\n\t]")
_ANYWHERE = re.compile(f"[{_UNSAFE_IN_TEXT}\n\t{_JOINING}]")


def is_unsafe(character: str) -> bool:
    """Whether this is such a character, one of `_JOINING`, a newline or a tab."""
    return _ANYWHERE.match(character) is not None


def has_unsafe(text: str) -> bool:
    """Whether `text` holds such a character, a newline or a tab."""
    return not _is_plain(text) and _IN_LINE.search(text) is not None


def cleaned(text: str, instead: str) -> str:
    """`text` on one line, with `instead` for each such character."""
    return text if _is_plain(text) else _IN_LINE.sub(instead, text)


def printable(text: str) -> str:
    r"""`text` with such characters written out, as `\x1b`; newlines and tabs stay, carriage returns are left out.

    Each character is taken for itself, so a sequence that comes in pieces is no sequence either.
    """
    return text if _is_plain(text) else _IN_TEXT.sub(_written_out, text)


def one_line(text: str) -> str:
    r"""As `printable`, with newlines and tabs written out too."""
    return text if _is_plain(text) else _IN_LINE.sub(_written_out, text)


def escape_json(document: str) -> str:
    r"""JSON text that means the same and holds such characters as `\u009b` only; newlines between its tokens stay."""
    return document if _is_plain(document) else _IN_TEXT.sub(_as_json_escape, document)


def _is_plain(text: str) -> bool:
    """Whether a quick look says that nothing in `text` is unsafe."""
    return text.isascii() and text.isprintable()


def _written_out(found: re.Match[str]) -> str:
    character = found[0]
    return "" if character == "\r" else character.encode("unicode_escape").decode("ascii")


def _as_json_escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
