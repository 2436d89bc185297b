"""A run's transcript as the history its model is given, with the bytes of the files it names.

Bytes are read for what is sent, in small units of work, and kept by nobody but the run. The same transcript always
gives the same history (P2). A conversation without files costs no query and no wait here.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, TypeVar

from pydantic_ai.messages import BinaryContent, ModelMessage, UserContent

from pilothouse.conversations import attachment_repository
from pilothouse.conversations.attachments import Reference, references_in, refers_to_files
from pilothouse.conversations.sendable import (
    holds_files,
    inline_bytes,
    left_out,
    sendable_file,
    text_of_file,
    with_sendable_files,
)
from pilothouse.conversations.transcript import StoredMessage, assemble, decode
from pilothouse.db import Database
from pilothouse.runs import repository
from pilothouse.runs.active import ActiveRun

P = ParamSpec("P")
T = TypeVar("T")

_UNIT_BYTES = 2_097_152
_UNIT_FILES = 50
_SMALL_BYTES = 65_536
_TOO_OLD = "it was sent with earlier messages"
_NOT_TAKEN = "the model did not take it"
_GONE = "it is not stored any more"
# A provider that refuses a file once refuses it with each later message too.
_REFUSED = frozenset({"provider_bad_request", "context_too_long", "content_filtered", "internal_error"})
_REFUSED_TEXT = frozenset({"context_too_long", "content_filtered"})
# Release 0.1.0 failed with internal_error by any text that was not UTF-8: those are readable now.
_REFUSED_INLINE = _REFUSED - {"internal_error"}


@dataclass(slots=True)
class _Plan:
    """What is sent of the files of a history.

    Attributes:
        named: files by the message that names them.
        out: why a file that a message names is left out, by its id.
        out_inline: why files that a message holds itself are left out, by the message's key.
    """

    named: dict[str, list[Reference]] = field(default_factory=dict[str, list[Reference]])
    out: dict[str, str] = field(default_factory=dict[str, str])
    out_inline: dict[str, str] = field(default_factory=dict[str, str])


class Histories:
    """Makes histories. One instance serves all runs of a process."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of(self, run: ActiveRun) -> list[ModelMessage]:
        """The history a run goes on from; its rows are let go of.

        Raises:
            Unavailable: files have to be read and the database is away.
        """
        rows, run.rows = run.rows, []
        if not any(_has_files(row) for row in rows):
            return assemble(rows)
        plan = await self._plan(run, rows)
        contents = await self._read(run, plan)
        messages = [await _filled(row, plan, contents, is_past=row.turn < run.journal.place.turn) for row in rows]
        return assemble(rows, messages)

    async def _plan(self, run: ActiveRun, rows: Sequence[StoredMessage]) -> _Plan:
        plan = _Plan({row.key: _references(row) for row in rows if _names_files(row)})
        past = [row for row in rows if row.turn < run.journal.place.turn and _has_files(row)]
        _leave_out_older(plan, past, run.agent.limits.history_attachment_bytes)
        answered = {row.turn for row in rows if row.role == "assistant"}
        failed = {row.run_id for row in past if row.turn not in answered}
        if failed:
            principal = run.principal
            codes = await self._database.read(
                repository.failures_of, principal.tenant, principal.subject, sorted(failed)
            )
            _leave_out_refused(plan, [row for row in past if row.turn not in answered], codes)
        return plan

    async def _read(self, run: ActiveRun, plan: _Plan) -> dict[str, UserContent]:
        """The content of the files that are sent, by their ids."""
        contents: dict[str, UserContent] = {}
        wanted = {item.id: item for items in plan.named.values() for item in items if item.id not in plan.out}
        for unit in _units(wanted.values()):
            found = await self._database.read(
                attachment_repository.load_attachments,
                run.principal.tenant,
                run.principal.subject,
                run.conversation_id,
                unit,
            )
            for row in found:
                contents[row.id] = await _off_loop(len(row.data), _content, wanted[row.id], row.data)
        return contents


def _has_files(row: StoredMessage) -> bool:
    return refers_to_files(row.payload) or holds_files(row.payload)


def _names_files(row: StoredMessage) -> bool:
    """Only people attach files: what a tool's result calls an attachment is none."""
    return row.role == "user" and refers_to_files(row.payload)


def _references(row: StoredMessage) -> list[Reference]:
    [message] = decode([row])
    return references_in(message)


def _leave_out_older(plan: _Plan, past: Sequence[StoredMessage], most_bytes: int) -> None:
    """Of earlier turns the newest images and PDFs are sent, as many as `most_bytes`. (Texts count as tokens.)"""
    spent = 0
    for row in reversed(past):
        files = [item for item in plan.named.get(row.key, ()) if not _is_text(item)]
        for item in files:
            spent += item.size
            if spent > most_bytes:
                plan.out[item.id] = _TOO_OLD
        spent += inline_bytes(row.payload)
        if spent > most_bytes and not files:
            plan.out_inline[row.key] = _TOO_OLD


def _leave_out_refused(plan: _Plan, unanswered: Sequence[StoredMessage], codes: dict[str, str]) -> None:
    """Files that no model has answered and whose run failed as if by them are not sent again (P7)."""
    for row in unanswered:
        code = codes.get(row.run_id)
        for item in plan.named.get(row.key, ()):
            if code in (_REFUSED_TEXT if _is_text(item) else _REFUSED):
                plan.out[item.id] = _NOT_TAKEN
        if code in _REFUSED_INLINE:
            plan.out_inline[row.key] = _NOT_TAKEN


def _is_text(item: Reference) -> bool:
    return item.media_type.startswith("text/")


def _units(wanted: Iterable[Reference]) -> Iterator[list[str]]:
    """Ids of files to read together: a unit of work ends within seconds, whatever the network."""
    unit: list[str] = []
    size = 0
    for item in wanted:
        if unit and (size + item.size > _UNIT_BYTES or len(unit) == _UNIT_FILES):
            yield unit
            unit, size = [], 0
        unit.append(item.id)
        size += item.size
    if unit:
        yield unit


def _content(item: Reference, data: bytes) -> UserContent:
    if _is_text(item):
        return text_of_file(data, item.media_type, name=item.name, file_id=item.id, charset=item.charset)
    return BinaryContent(data=data, media_type=item.media_type, identifier=item.id)


async def _filled(row: StoredMessage, plan: _Plan, contents: dict[str, UserContent], *, is_past: bool) -> ModelMessage:
    def fill(item: Reference) -> UserContent:
        why = plan.out.get(item.id, _GONE)
        return contents.get(item.id) or left_out(item.media_type, item.size, item.name, why)

    def leave_out(item: BinaryContent) -> str:
        return left_out(item.media_type, len(item.data), None, plan.out_inline[row.key])

    def work() -> ModelMessage:
        [message] = decode([row])
        if not _has_files(row):
            return message
        take = leave_out if row.key in plan.out_inline else partial(sendable_file, is_past=is_past)
        return with_sendable_files(message, fill=fill if _names_files(row) else None, take=take)

    return await _off_loop(len(row.payload), work)


async def _off_loop(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Small work at once, large work in a thread."""
    if size <= _SMALL_BYTES:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)
