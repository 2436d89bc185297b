"""Traces of exceptions, of bounded length: any text, any chain, any group, any depth of recursion."""

import traceback
from collections.abc import Iterator
from itertools import islice
from types import FrameType, TracebackType
from typing import cast

from pilothouse.kit.masking import mask_bounded

__all__ = ["render_exception"]

_MESSAGE_CHARS = 4_000
_MOST_NOTES = 5
_FIRST_FRAMES = 10
_LAST_FRAMES = 40
_MOST_WALKED = 100_000
_CHAINED = 4
_MOST_MEMBERS = 5
_DEEPEST = 5
_MOST_IN_ALL = 24
_CAUSE = "The above exception was the direct cause of the following exception:"
_CONTEXT = "During handling of the above exception, another exception occurred:"


def render_exception(error: BaseException) -> str:
    """The trace as Python writes it, without the source's carets. Never fails.

    Bounds: 50 frames and 4,000 characters of text of an exception, 8 of a chain, 5 of a group, 24 in all.
    """
    return "\n".join(_Renderer().chain(error, 0))


class _Renderer:
    def __init__(self) -> None:
        self._left = _MOST_IN_ALL

    def chain(self, error: BaseException, depth: int) -> Iterator[str]:
        """The lines of an exception and of those it came from, the oldest first."""
        links = _links(error)
        left_out = max(0, len(links) - 2 * _CHAINED)
        for index, (link, joint) in enumerate(links):
            if left_out and _CHAINED <= index < _CHAINED + left_out:
                if index == _CHAINED:
                    yield f"\n[{left_out} exceptions of the chain left out]\n"
                continue
            yield from self._one(link, depth)
            if joint:
                yield f"\n{joint}\n"

    def _one(self, error: BaseException, depth: int) -> Iterator[str]:
        self._left -= 1
        if self._left < 0:
            yield "[more exceptions left out]"
            return
        if error.__traceback__ is not None:
            yield "Traceback (most recent call last):"
            yield from _frames(error.__traceback__)
        yield _said(error)
        for note in islice(_notes(error), _MOST_NOTES):
            yield mask_bounded(note, _MESSAGE_CHARS)
        if isinstance(error, BaseExceptionGroup):
            group = cast("BaseExceptionGroup[BaseException]", error)
            yield from self._members(group.exceptions, depth + 1)

    def _members(self, members: tuple[BaseException, ...], depth: int) -> Iterator[str]:
        if depth > _DEEPEST:
            yield f"  [{len(members)} inner exceptions left out]"
            return
        for number, member in enumerate(members[:_MOST_MEMBERS], start=1):
            yield f"  +---------------- {number} ----------------"
            for lines in self.chain(member, depth):
                yield "\n".join(f"  | {line}" for line in lines.split("\n"))
        if len(members) > _MOST_MEMBERS:
            yield f"  +---------------- and {len(members) - _MOST_MEMBERS} more"


def _links(error: BaseException) -> list[tuple[BaseException, str]]:
    """A chain from its oldest exception on, each with the words that join it to the next."""
    links = [(error, "")]
    seen = {id(error)}
    at: BaseException = error
    while len(links) < _MOST_WALKED:
        if at.__cause__ is not None:
            before, joint = at.__cause__, _CAUSE
        elif at.__context__ is not None and not at.__suppress_context__:
            before, joint = at.__context__, _CONTEXT
        else:
            break
        if id(before) in seen:
            break
        seen.add(id(before))
        links.append((before, joint))
        at = before
    return links[::-1]


def _frames(trace: TracebackType) -> Iterator[str]:
    frames = list(islice(traceback.walk_tb(trace), _MOST_WALKED))
    left_out = len(frames) - _FIRST_FRAMES - _LAST_FRAMES
    if left_out <= 1:
        yield from _written(frames)
        return
    yield from _written(frames[:_FIRST_FRAMES])
    yield f"  [{left_out} frames left out]"
    yield from _written(frames[-_LAST_FRAMES:])


def _written(frames: list[tuple[FrameType, int]]) -> Iterator[str]:
    for frame in traceback.StackSummary.extract(iter(frames)):
        yield f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}'
        if frame.line:
            yield f"    {mask_bounded(frame.line, 300)}"


def _said(error: BaseException) -> str:
    kind = type(error)
    name = (
        kind.__qualname__ if kind.__module__ in {"builtins", "__main__"} else f"{kind.__module__}.{kind.__qualname__}"
    )
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - someone's __str__
        text = "<its text can't be made>"
    # Its own lines are indented, so that none can pass for a line of the log.
    return f"{name}: {mask_bounded(text, _MESSAGE_CHARS)}".replace("\n", "\n    ") if text else name


def _notes(error: BaseException) -> Iterator[str]:
    notes: object = getattr(error, "__notes__", None)
    if isinstance(notes, list):
        yield from (note for note in cast("list[object]", notes) if isinstance(note, str))
