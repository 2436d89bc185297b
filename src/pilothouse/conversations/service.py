"""What callers can do with their conversations."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.engine import Row

from pilothouse.conversations import attachment_repository, repository
from pilothouse.conversations.attachments import StoredFile
from pilothouse.conversations.transcript import StoredMessage
from pilothouse.db import Database
from pilothouse.errors import NotFound
from pilothouse.identity.principal import Principal
from pilothouse.kit.clock import now_ms
from pilothouse.kit.ids import new_id

MOST_EXPORTED = 10_000
_PAGE_BYTES = 1_048_576
_EXPORT_PAGE = 50


class Conversations:
    """Everything is the caller's own, or not found."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self, principal: Principal, *, agent: str, title: str = "", metadata: Mapping[str, Any] | None = None
    ) -> Row[Any]:
        """Begin an empty conversation."""
        now, conversation_id = now_ms(), new_id("conv")
        values = {
            "id": conversation_id,
            "tenant": principal.tenant,
            "owner": principal.subject,
            "agent": agent,
            "title": title,
            "turns": 0,
            "metadata": None if metadata is None else dict(metadata),
            "created_at": now,
            "updated_at": now,
        }
        await self._database.write(repository.insert_conversation, values)
        return await self.get(principal, conversation_id)

    async def get(self, principal: Principal, conversation_id: str) -> Row[Any]:
        """One conversation.

        Raises:
            NotFound: the caller has none of this id.
        """
        row = await self._database.read(
            repository.get_conversation, principal.tenant, principal.subject, conversation_id
        )
        return _found(row)

    async def page(
        self, principal: Principal, *, limit: int, before: tuple[int, str] | None = None
    ) -> Sequence[Row[Any]]:
        """Conversations, last used first."""
        return await self._database.read(
            repository.list_conversations, principal.tenant, principal.subject, limit=limit, before=before
        )

    async def rename(self, principal: Principal, conversation_id: str, title: str) -> Row[Any]:
        """Give it another title.

        Raises:
            NotFound: the caller has none of this id.
        """
        await self._database.write(repository.set_title, principal.tenant, principal.subject, conversation_id, title)
        return await self.get(principal, conversation_id)

    async def delete(self, principal: Principal, conversation_id: str) -> None:
        """Remove it with its runs, messages and files. Runs must have been stopped before.

        A file stays while another conversation of the caller refers to it.

        Raises:
            NotFound: the caller has none of this id.
        """
        await self._database.write(_delete, principal, conversation_id)

    async def attachment(self, principal: Principal, conversation_id: str, attachment_id: str) -> StoredFile:
        """A file of the conversation.

        Raises:
            NotFound: the caller has no such conversation, or it has no such file.
        """
        found = await self._database.read(
            attachment_repository.get_attachment, principal.tenant, principal.subject, conversation_id, attachment_id
        )
        if found is None:
            raise NotFound("You have no attachment with this id in this conversation.", code="attachment_not_found")
        return found

    async def messages(
        self, principal: Principal, conversation_id: str, *, limit: int, after: tuple[int, int] | None = None
    ) -> list[StoredMessage]:
        """A page of the transcript, oldest first.

        Raises:
            NotFound: the caller has no such conversation.
        """
        return await self._database.read(_page, principal, conversation_id, limit, after)

    async def page_of_messages(
        self, principal: Principal, conversation_id: str, *, limit: int, after: tuple[int, int] | None = None
    ) -> tuple[list[StoredMessage], bool]:
        """A page of the transcript, oldest first, and whether more follows.

        A page ends early, though not before its first message, when it is about a megabyte.

        Raises:
            NotFound: the caller has no such conversation.
        """
        return await self._database.read(_bounded_page, principal, conversation_id, limit, after)

    async def export(self, principal: Principal, conversation_id: str) -> AsyncIterator[StoredMessage]:
        """All messages of the transcript (`MOST_EXPORTED` at most), oldest first, read as they are asked for.

        Raises:
            NotFound: the caller has no such conversation, or it was deleted meanwhile.
        """
        after: tuple[int, int] | None = None
        given, more = 0, True
        while more and given < MOST_EXPORTED:
            limit = min(_EXPORT_PAGE, MOST_EXPORTED - given)
            rows, more = await self.page_of_messages(principal, conversation_id, limit=limit, after=after)
            for row in rows:
                yield row
                after = (row.turn, row.seq)
            given += len(rows)

    async def pin(self, principal: Principal, conversation_id: str, *, turn: int, seq: int, pinned: bool) -> None:
        """Keep a message when the history is cut, or no longer.

        Raises:
            NotFound: the caller has no such message.
        """
        if not await self._database.write(
            repository.set_pinned,
            principal.tenant,
            principal.subject,
            conversation_id,
            turn=turn,
            seq=seq,
            pinned=pinned,
        ):
            raise NotFound("You have no message at this place.", code="message_not_found")


def _delete(connection: Connection, principal: Principal, conversation_id: str) -> None:
    tenant, owner = principal.tenant, principal.subject
    _found(repository.get_conversation(connection, tenant, owner, conversation_id))
    repository.hold_conversation(connection, conversation_id)  # before its files, as whoever sends a message does
    hashes = attachment_repository.hold_files(connection, tenant, owner, conversation_id)
    repository.delete_conversation(connection, tenant, owner, conversation_id)
    attachment_repository.delete_unused(connection, tenant, owner, hashes)


def _page(
    connection: Connection, principal: Principal, conversation_id: str, limit: int, after: tuple[int, int] | None
) -> list[StoredMessage]:
    _found(repository.get_conversation(connection, principal.tenant, principal.subject, conversation_id))
    return repository.page_messages(connection, conversation_id, limit=limit, after=after)


def _bounded_page(
    connection: Connection, principal: Principal, conversation_id: str, limit: int, after: tuple[int, int] | None
) -> tuple[list[StoredMessage], bool]:
    _found(repository.get_conversation(connection, principal.tenant, principal.subject, conversation_id))
    count, more = repository.count_within(connection, conversation_id, limit=limit, after=after, most_bytes=_PAGE_BYTES)
    return repository.page_messages(connection, conversation_id, limit=count, after=after), more


def _found(row: Row[Any] | None) -> Row[Any]:
    if row is None:
        raise NotFound("You have no conversation with this id.", code="conversation_not_found")
    return row
