"""How commands write: results to stdout, remarks to stderr, nothing that could steer a terminal.

Everything a command writes goes through here. Names, paths, answers and errors come from outside: control characters in
them are written out, and Rich's markup is text.
"""

import sys
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pilothouse.errors import PilothouseError
from pilothouse.kit.jsons import dumps
from pilothouse.kit.masking import mask_bounded
from pilothouse.kit.printable import escape_json, printable

__all__ = ["add_row", "complain", "in_terminal", "plain", "say", "show", "show_finding", "show_json", "show_table"]

_MOST_ERROR_CHARS = 20_000
_MARKS = {True: ("ok     ", "green"), False: ("problem", "red"), None: ("skipped", "yellow")}


def say(text: str) -> None:
    """A remark for the person at the terminal, on stderr."""
    typer.echo(printable(text), err=True)


def complain(error: PilothouseError) -> None:
    """What is wrong, on stderr; passwords and keys in it are masked."""
    say(mask_bounded(error.message, _MOST_ERROR_CHARS))


def show(text: str) -> None:
    """A result, on stdout at once."""
    typer.echo(printable(text))
    sys.stdout.flush()


def show_json(value: Any) -> None:
    """A result as one line of JSON; what a terminal would act on is escaped in it."""
    typer.echo(escape_json(dumps(value)))


def show_finding(text: str, *, well: bool | None) -> None:
    """What a check found, with a mark (`well` None: it was not made); passwords and keys in it are masked."""
    mark = typer.style(*_MARKS[well])
    typer.echo(f"{mark}  {printable(mask_bounded(text, _MOST_ERROR_CHARS))}")


def show_table(table: Table) -> None:
    """A table whose rows came by `add_row`; in a pipe nothing is cut."""
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 200)
    console.print(table)


def add_row(table: Table, *cells: str | Text) -> None:
    """A row of plain texts; a `Text` keeps its style."""
    table.add_row(*(Text(plain(cell)) if isinstance(cell, str) else cell for cell in cells))


def plain(text: str) -> str:
    """`text` without the characters that move a cursor, change colours or turn the direction of writing: they are
    written out.
    """
    return printable(text)


def in_terminal() -> bool:
    """Whether a person sits at both ends: they type, and they read."""
    return sys.stdin.isatty() and sys.stdout.isatty()
