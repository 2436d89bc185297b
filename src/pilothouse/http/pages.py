"""Pages of a list: opaque cursors, and what a page looks like."""

import base64
import binascii
from typing import Annotated, Any, Generic, TypeVar, overload

from fastapi import Query
from pydantic import BaseModel, Field
from pydantic_core import from_json

from pilothouse.errors import InvalidRequest
from pilothouse.kit import jsons

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
T = TypeVar("T")

DEFAULT_LIMIT = 20
MOST_ITEMS = 100

_LONGEST = 1024

Limit = Annotated[int, Query(ge=1, le=MOST_ITEMS, description="Most items of the page.")]
"""Query parameter; write `limit: Limit = DEFAULT_LIMIT`."""

Cursor = Annotated[str | None, Query(description="`next_cursor` of the page before; left out for the first page.")]
"""Query parameter; write `cursor: Cursor = None`."""


class Page(BaseModel, Generic[T]):
    """Part of a list."""

    items: list[T] = Field(description="The items, in the list's order.")
    next_cursor: str | None = Field(description="Send it as `cursor` for what follows; null at the end.")


def encode_cursor(*values: str | int | None) -> str:
    """Pack the sort values of a page's last item. Opaque to callers, but no secret: never trust what comes back."""
    return base64.urlsafe_b64encode(jsons.dumps(values).encode()).rstrip(b"=").decode()


@overload
def decode_cursor(text: str, first: type[A], /, *, bits: int = 64) -> tuple[A]: ...
@overload
def decode_cursor(text: str, first: type[A], second: type[B], /, *, bits: int = 64) -> tuple[A, B]: ...
@overload
def decode_cursor(
    text: str, first: type[A], second: type[B], third: type[C], /, *, bits: int = 64
) -> tuple[A, B, C]: ...
def decode_cursor(text: str, *types: type[Any], bits: int = 64) -> tuple[Any, ...]:
    """Unpack what `encode_cursor` packed, checked to be of these types (`str`, `int`, `type(None)`).

    Strings hold no NUL and no lone surrogate, so a database takes them.

    Args:
        text: what a caller sent.
        types: of the values, in order.
        bits: the size of the columns that integers are compared with: PostgreSQL refuses larger ones.

    Raises:
        InvalidRequest: code `bad_cursor`: it isn't one of ours, or one of another list.
    """
    values = _unpack(text)
    if len(values) != len(types) or not all(_fits(*pair, bits) for pair in zip(values, types, strict=True)):
        raise _bad_cursor()
    return tuple(values)


def _unpack(text: str) -> list[Any]:
    if len(text) > _LONGEST or not text.isascii():
        raise _bad_cursor()
    try:
        raw = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        values = from_json(raw, allow_inf_nan=False)
    except (ValueError, binascii.Error):
        raise _bad_cursor() from None
    if not isinstance(values, list):
        raise _bad_cursor()
    return values  # pyright: ignore[reportUnknownVariableType] - JSON


def _fits(value: Any, wanted: type[Any], bits: int) -> bool:
    if type(value) is not wanted:
        return False
    if isinstance(value, int):
        return -(2 ** (bits - 1)) <= value < 2 ** (bits - 1)
    return not (isinstance(value, str) and "\x00" in value)


def _bad_cursor() -> InvalidRequest:
    return InvalidRequest("The cursor is not one this list gave out. Start again without it.", code="bad_cursor")
