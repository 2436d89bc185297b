"""How commands write: results to stdout, remarks to stderr, nothing that could steer a terminal."""

import re
import sys

import typer

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def say(text: str) -> None:
    """A remark for the person at the terminal, on stderr."""
    typer.echo(text, err=True)


def plain(text: str) -> str:
    """`text` without the characters that move a cursor, change colours or turn the direction of writing."""
    return _CONTROLS.sub("", text)


def in_terminal() -> bool:
    """Whether a person sits at both ends: they type, and they read."""
    return sys.stdin.isatty() and sys.stdout.isatty()
