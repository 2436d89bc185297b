"""How large a value will be as JSON, found out without making it: with a bound on the work."""

import dataclasses
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, cast

__all__ = ["json_size"]

_SCALAR_CHARS = 4
_UNKNOWN_CHARS = 32


def json_size(value: object, most: int, *, most_values: int = 50_000) -> int:
    """About how many characters a value has as JSON; some number greater than `most` for a larger one.

    Walks no further than that takes, and through `most_values` values at most (some 10 ms): what holds more of them
    counts as larger. Looks into dataclasses and Pydantic models. What contains itself is endlessly large.
    """
    total = walked = 0
    pending: list[Any] = [value]
    while pending and total <= most:
        walked += 1
        if walked > most_values:
            return most + 1
        item = pending.pop()
        if isinstance(item, str):
            total += len(item) + 2
        elif isinstance(item, bytes | bytearray):
            total += len(item) * 4 // 3 + 2
        elif item is None or isinstance(item, bool | int | float):
            total += _SCALAR_CHARS
        else:
            members, weight = _members(item)
            total += weight
            if total <= most:
                pending.extend(members)
    return total


def _members(item: object) -> tuple[Iterable[Any], int]:
    """What a value holds, and what it costs beside that: at least two characters for each member."""
    if isinstance(item, Mapping):
        mapping = cast("Mapping[Any, Any]", item)
        return _of_mapping(mapping), 2 + 4 * len(mapping)
    if isinstance(item, list | tuple | set | frozenset):
        items = cast("list[Any]", item)
        return items, 2 + 2 * len(items)
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        names = [field.name for field in dataclasses.fields(item)]
        return [getattr(item, name, None) for name in names], 2 + sum(map(len, names)) + 4 * len(names)
    if isinstance(item, deque):
        return (), 2 * len(cast("deque[Any]", item))
    fields: object = getattr(item, "__dict__", None)
    if isinstance(fields, dict) and hasattr(type(item), "__pydantic_fields__"):
        members = cast("dict[str, Any]", fields)
        return _of_mapping(members), 2 + 4 * len(members)
    return (), _UNKNOWN_CHARS


def _of_mapping(mapping: Mapping[Any, Any]) -> Iterable[Any]:
    for name, member in mapping.items():
        yield str(name) if not isinstance(name, str) else name
        yield member
