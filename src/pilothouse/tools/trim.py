"""Results of any size, cut to about what will be shown of them before anybody walks through the whole.

To convert a value to JSON is one call that nothing interrupts, some ten nanoseconds a byte: a result of 100 MB would
hold the event loop for a second. So a large one is cut first, by walks that end early. Pydantic models stay what they
are, since their serializers may leave out or mask what is in them.
"""

import copy
import dataclasses
from collections import deque
from collections.abc import Iterable, Mapping
from types import GeneratorType
from typing import Any, cast

from pilothouse.kit.sizes import json_size

__all__ = ["Trimmed", "trim"]

_LEAST_BUDGET = 100_000
_VALUES = 20_000
_MOST_DEPTH = 200
# A tuple of few items has a shape that its serializer may insist on.
_SHAPED = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Trimmed:
    """A result, and if it was cut, what is known of the whole.

    `chars` are those of the whole, exact for text and otherwise a lower bound; `items` are those of a list.
    """

    value: Any
    was_cut: bool = False
    chars: int = 0
    items: int | None = None


def trim(value: Any, max_chars: int) -> Trimmed:
    """A value of which `max_chars` characters will be shown; itself, if it isn't much larger than that.

    Raises:
        ValueError: it contains itself, or is nested too deep to be written.
    """
    budget = max(_LEAST_BUDGET, 2 * max_chars)
    if isinstance(value, str):
        # Exact, and cut where it is shown: the rest must not even be looked at.
        return Trimmed(value[:budget], was_cut=True, chars=len(value)) if len(value) > budget else Trimmed(value)
    if not isinstance(value, GeneratorType) and json_size(value, budget, most_values=_VALUES) <= budget:
        return Trimmed(value)
    items = len(cast("list[Any]", value)) if isinstance(value, list | tuple) else None
    return Trimmed(_Trimmer(budget).cut(value), was_cut=True, chars=budget, items=items)


class _Trimmer:
    def __init__(self, budget: int) -> None:
        self._left = budget
        self._values = _VALUES
        self._depth = 0

    def cut(self, value: Any) -> Any:
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise ValueError("the value contains itself or is nested too deep")
        try:
            return self._cut(value)
        finally:
            self._depth -= 1

    @property
    def _is_spent(self) -> bool:
        return self._left <= 0 or self._values <= 0

    def _cut(self, value: Any) -> Any:
        self._values -= 1
        if isinstance(value, str | bytes | bytearray):
            kept = value[: max(self._left, 0)] if len(value) > self._left else value
            self._left -= len(kept) + 2
            return kept
        self._left -= 4
        if isinstance(value, dict):
            return self._mapping(cast("dict[Any, Any]", value))
        if isinstance(value, list | GeneratorType):
            return list(self._items(cast("Iterable[Any]", value)))
        if type(value) is tuple:
            items = cast("tuple[Any, ...]", value)
            return tuple(self.cut(item) for item in items) if len(items) <= _SHAPED else tuple(self._items(items))
        if isinstance(value, set | frozenset):
            kept = self._first(cast("Iterable[Any]", value))
            return set(kept) if isinstance(value, set) else frozenset(kept)
        return self._object(value)

    def _items(self, items: Iterable[Any]) -> Iterable[Any]:
        for item in items:
            if self._is_spent:
                return
            yield self.cut(item)

    def _first(self, items: Iterable[Any]) -> Iterable[Any]:
        """Items as they are: those of a set have to stay hashable."""
        for item in items:
            if self._is_spent:
                return
            self._values -= 1
            self._left -= json_size(item, max(self._left, 0), most_values=max(self._values, 1))
            yield item

    def _mapping(self, mapping: Mapping[Any, Any]) -> dict[Any, Any]:
        kept: dict[Any, Any] = {}
        for name, member in mapping.items():
            if self._is_spent:
                break
            self._left -= len(name) if isinstance(name, str) else 4
            kept[name[: self._left + len(name)] if isinstance(name, str) else name] = self.cut(member)
        return kept

    def _object(self, value: Any) -> Any:
        if hasattr(cast("object", type(value)), "__pydantic_serializer__"):
            return self._model(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: self.cut(getattr(value, field.name, None)) for field in dataclasses.fields(value)}
        if isinstance(value, deque):
            # Its text, which would be shown of it, is as large as itself.
            return f"a deque of {len(cast('deque[Any]', value))} items"
        return value

    def _model(self, value: Any) -> Any:
        cut = copy.copy(value)
        for name in ("__dict__", "__pydantic_extra__"):
            members = cast("dict[str, Any]", getattr(cut, name, None) or {})
            for field, member in members.items():
                members[field] = self.cut(member)
        return cut
