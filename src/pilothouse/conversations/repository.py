"""SQL of conversations and messages. Every statement carries the tenant and the owner."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, func, insert, or_, select, tuple_, update
from sqlalchemy.engine import Row

from pilothouse.conversations.tables import conversations, messages
from pilothouse.conversations.transcript import StoredMessage

_MESSAGE_COLUMNS = (
    messages.c.turn,
    messages.c.seq,
    messages.c.run_id,
    messages.c.step,
    messages.c.role,
    messages.c.call_id,
    messages.c.payload,
    messages.c.tokens,
    messages.c.pinned,
    messages.c.created_at,
)
_INSERT_CONVERSATION = insert(conversations)
_INSERT_MESSAGE = insert(messages)
# What every turn runs is built once: building a statement costs more than running it.
_NEXT_TURN = (
    update(conversations)
    .where(
        conversations.c.id == bindparam("b_id"),
        conversations.c.tenant == bindparam("b_tenant"),
        conversations.c.owner == bindparam("b_owner"),
    )
    .values(turns=conversations.c.turns + 1, updated_at=bindparam("b_now"))
    .returning(conversations.c.turns, conversations.c.agent, conversations.c.title)
)
_HOLD = select(conversations.c.id).where(conversations.c.id == bindparam("b_id")).with_for_update()
_NEWEST_MESSAGES = (
    select(*_MESSAGE_COLUMNS)
    .where(messages.c.conversation_id == bindparam("b_conversation_id"), messages.c.turn < bindparam("b_before_turn"))
    .order_by(messages.c.turn.desc(), messages.c.seq.desc())
    .limit(bindparam("b_most"))
)


def insert_conversation(connection: Connection, values: dict[str, Any]) -> None:
    """Add a conversation."""
    connection.execute(_INSERT_CONVERSATION, values)


def insert_messages(connection: Connection, conversation_id: str, rows: Sequence[StoredMessage]) -> None:
    """Append messages at the places they name."""
    connection.execute(
        _INSERT_MESSAGE,
        [
            {
                "conversation_id": conversation_id,
                "turn": row.turn,
                "seq": row.seq,
                "run_id": row.run_id,
                "step": row.step,
                "role": row.role,
                "call_id": row.call_id,
                "payload": row.payload,
                "tokens": row.tokens,
                "pinned": row.pinned,
                "created_at": row.created_at,
            }
            for row in rows
        ],
    )


def get_conversation(connection: Connection, tenant: str, owner: str, conversation_id: str) -> Row[Any] | None:
    """The caller's conversation, or None."""
    return connection.execute(
        select(conversations).where(
            conversations.c.id == conversation_id,
            conversations.c.tenant == tenant,
            conversations.c.owner == owner,
        )
    ).first()


def next_turn(
    connection: Connection, tenant: str, owner: str, conversation_id: str, now: int
) -> tuple[int, str, str] | None:
    """Take the conversation's next turn number and hold the conversation until the transaction ends.

    Returns:
        The turn, the conversation's agent and its title; None where the caller has no such conversation.
    """
    row = connection.execute(
        _NEXT_TURN, {"b_id": conversation_id, "b_tenant": tenant, "b_owner": owner, "b_now": now}
    ).first()
    return None if row is None else (row.turns, row.agent, row.title)


def hold_conversation(connection: Connection, conversation_id: str) -> None:
    """Let nobody take a turn in the conversation until the transaction ends.

    SQLite has one writer anyway. The caller executes a run of this conversation.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_HOLD, {"b_id": conversation_id})


def list_conversations(
    connection: Connection, tenant: str, owner: str, *, limit: int, before: tuple[int, str] | None
) -> Sequence[Row[Any]]:
    """The caller's conversations, last used first, after the place `before` (updated_at, id)."""
    where = [conversations.c.tenant == tenant, conversations.c.owner == owner]
    if before is not None:
        where.append(
            or_(
                conversations.c.updated_at < before[0],
                and_(conversations.c.updated_at == before[0], conversations.c.id < before[1]),
            )
        )
    return connection.execute(
        select(conversations)
        .where(*where)
        .order_by(conversations.c.updated_at.desc(), conversations.c.id.desc())
        .limit(limit)
    ).all()


def set_title(connection: Connection, tenant: str, owner: str, conversation_id: str, title: str) -> bool:
    """Rename; False where the caller has no such conversation."""
    return (
        connection.execute(
            update(conversations)
            .where(
                conversations.c.id == conversation_id,
                conversations.c.tenant == tenant,
                conversations.c.owner == owner,
            )
            .values(title=title)
        ).rowcount
        == 1
    )


def delete_conversation(connection: Connection, tenant: str, owner: str, conversation_id: str) -> bool:
    """Remove the conversation with its runs, steps, events and messages; False where there is none."""
    return (
        connection.execute(
            delete(conversations).where(
                conversations.c.id == conversation_id,
                conversations.c.tenant == tenant,
                conversations.c.owner == owner,
            )
        ).rowcount
        == 1
    )


def set_pinned(
    connection: Connection, tenant: str, owner: str, conversation_id: str, *, turn: int, seq: int, pinned: bool
) -> bool:
    """Pin or unpin one message; False where the caller has no such message."""
    owned = select(conversations.c.id).where(
        conversations.c.id == conversation_id, conversations.c.tenant == tenant, conversations.c.owner == owner
    )
    return (
        connection.execute(
            update(messages)
            .where(messages.c.conversation_id.in_(owned), messages.c.turn == turn, messages.c.seq == seq)
            .values(pinned=pinned)
        ).rowcount
        == 1
    )


def load_history(
    connection: Connection, conversation_id: str, *, before_turn: int, most: int
) -> tuple[list[StoredMessage], int]:
    """The newest `most` messages of earlier turns and the pinned ones before them, oldest first.

    The caller has checked whose conversation it is.

    Returns:
        The messages, and how many older ones were not loaded.
    """
    newest = connection.execute(
        _NEWEST_MESSAGES,
        {"b_conversation_id": conversation_id, "b_before_turn": before_turn, "b_most": most + 1},
    ).all()
    if len(newest) <= most:
        return [StoredMessage(*row) for row in reversed(newest)], 0
    rows = _from_a_beginning([StoredMessage(*row) for row in reversed(newest[:-1])])
    first = (rows[0].turn, rows[0].seq) if rows else (before_turn, 0)
    older = and_(
        messages.c.conversation_id == conversation_id,
        or_(messages.c.turn < first[0], and_(messages.c.turn == first[0], messages.c.seq < first[1])),
    )
    # With a pinned message comes its whole exchange: a call without its result, or the other way round, can't be sent.
    exchanges = (
        select(messages.c.turn, messages.c.step).where(older, messages.c.pinned.is_(True)).distinct().limit(most)
    )
    pinned = connection.execute(
        select(*_MESSAGE_COLUMNS)
        .where(older, tuple_(messages.c.turn, messages.c.step).in_(exchanges))
        .order_by(messages.c.turn, messages.c.seq)
    ).all()
    count = connection.execute(select(func.count()).select_from(messages).where(older)).scalar_one()
    return [*(StoredMessage(*row) for row in pinned), *rows], count - len(pinned)


def _from_a_beginning(rows: list[StoredMessage]) -> list[StoredMessage]:
    """Without the leading rows whose beginning is missing: a tool result without its call means nothing."""
    for role in ("user", "assistant"):
        start = next((index for index, row in enumerate(rows) if row.role == role), None)
        if start is not None:
            return rows[start:]
    return []


def load_turn(connection: Connection, conversation_id: str, turn: int) -> list[StoredMessage]:
    """The messages of one run in order. The caller has checked whose run it is."""
    rows = connection.execute(
        select(*_MESSAGE_COLUMNS)
        .where(messages.c.conversation_id == conversation_id, messages.c.turn == turn)
        .order_by(messages.c.seq)
    )
    return [StoredMessage(*row) for row in rows]


def page_messages(
    connection: Connection, conversation_id: str, *, limit: int, after: tuple[int, int] | None
) -> list[StoredMessage]:
    """A page of the transcript, oldest first. The caller has checked whose conversation it is."""
    rows = connection.execute(
        select(*_MESSAGE_COLUMNS)
        .where(*_behind(conversation_id, after))
        .order_by(messages.c.turn, messages.c.seq)
        .limit(limit)
    )
    return [StoredMessage(*row) for row in rows]


def count_within(
    connection: Connection, conversation_id: str, *, limit: int, after: tuple[int, int] | None, most_bytes: int
) -> tuple[int, bool]:
    """How many messages a page may hold so that their payloads are `most_bytes` together, or it holds one.

    Returns:
        The count, at most `limit`, and whether more messages follow.
    """
    # PostgreSQL knows the bytes of a value without reading it.
    size = func.octet_length if connection.dialect.name == "postgresql" else func.length
    sizes = connection.execute(
        select(size(messages.c.payload))
        .where(*_behind(conversation_id, after))
        .order_by(messages.c.turn, messages.c.seq)
        .limit(limit + 1)
    ).scalars()
    total, count = 0, 0
    for number, bytes_of_one in enumerate(sizes):
        total += bytes_of_one
        if number == limit or (number and total > most_bytes):
            return count, True
        count += 1
    return count, False


def _behind(conversation_id: str, after: tuple[int, int] | None) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = [messages.c.conversation_id == conversation_id]
    if after is not None:
        where.append(or_(messages.c.turn > after[0], and_(messages.c.turn == after[0], messages.c.seq > after[1])))
    return where
