"""Text from outside, made such that it can't steer a terminal, forge a line or turn the direction of writing."""

import re

__all__ = ["escape_json", "one_line", "printable"]

# C0 but newline and tab, DEL, C1 (some terminals take U+009B for ESC [), characters that turn the direction of
# writing, line ends of Unicode, invisible format characters, and lone surrogates, which no stream can encode.
_STEERING = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
_UNSAFE = re.compile(f"[{_STEERING}]")
_UNSAFE_IN_LINE = re.compile(f"[{_STEERING}\n\t]")


def printable(text: str) -> str:
    r"""`text` with such characters written out, as `\x1b`; newlines and tabs stay, carriage returns are left out.

    Each character is taken for itself, so a sequence that comes in pieces is no sequence either.
    """
    if text.isprintable():
        return text
    return _UNSAFE.sub(_written_out, text)


def one_line(text: str) -> str:
    r"""As `printable`, with newlines and tabs written out too."""
    return text if text.isprintable() else _UNSAFE_IN_LINE.sub(_written_out, text)


def escape_json(document: str) -> str:
    r"""JSON text that means the same and holds such characters as `\u009b` only; newlines between its tokens stay."""
    return _UNSAFE.sub(_as_json_escape, document)


def _written_out(found: re.Match[str]) -> str:
    character = found[0]
    return "" if character == "\r" else character.encode("unicode_escape").decode("ascii")


def _as_json_escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
