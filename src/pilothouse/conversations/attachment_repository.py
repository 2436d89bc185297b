"""SQL of attached files. Every statement carries the tenant and the owner."""

from collections.abc import Sequence

from sqlalchemy import Connection, and_, delete, insert, literal, select
from sqlalchemy.dialects import postgresql, sqlite

from pilothouse.conversations.attachments import Attachment, StoredFile
from pilothouse.conversations.tables import attachment_files, message_attachments


def insert_attachments(
    connection: Connection,
    tenant: str,
    owner: str,
    conversation_id: str,
    *,
    attachments: Sequence[Attachment],
    now: int,
) -> None:
    """Store files of a message and refer to them; bytes the owner has stored before are not stored again.

    Raises:
        IntegrityError: a file that was there was deleted in this instant: do it again.
    """
    by_hash = {item.sha256: item for item in attachments}
    known = connection.execute(
        select(attachment_files.c.sha256).where(
            attachment_files.c.tenant == tenant,
            attachment_files.c.owner == owner,
            attachment_files.c.sha256.in_(list(by_hash)),
        )
    ).scalars()
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    add = dialect.insert(attachment_files).on_conflict_do_nothing()  # the same file may come twice at once
    for sha256 in sorted(by_hash.keys() - set(known)):  # one at a time: megabytes each; in one order: no deadlocks
        row = {"tenant": tenant, "owner": owner, "sha256": sha256, "created_at": now, "data": by_hash[sha256].data}
        connection.execute(add, row)
    connection.execute(
        insert(message_attachments),
        [
            {
                "conversation_id": conversation_id,
                "id": item.id,
                "tenant": tenant,
                "owner": owner,
                "sha256": item.sha256,
                "media_type": item.media_type,
                "name": item.name,
                "bytes": len(item.data),
                "created_at": now,
            }
            for item in attachments
        ],
    )


def copy_attachments(
    connection: Connection,
    tenant: str,
    owner: str,
    *,
    from_conversation: str,
    to_conversation: str,
    ids: Sequence[str],
) -> None:
    """Refer to files of one conversation in another one of the same owner, under the same ids. Copies no bytes.

    Raises:
        IntegrityError: the first conversation was deleted in this instant.
    """
    same = message_attachments.c
    columns = [same.id, same.tenant, same.owner, same.sha256, same.media_type, same.name, same.bytes, same.created_at]
    chosen = select(literal(to_conversation), *columns).where(
        same.conversation_id == from_conversation, same.tenant == tenant, same.owner == owner, same.id.in_(ids)
    )
    names = ["conversation_id", *(column.name for column in columns)]
    connection.execute(insert(message_attachments).from_select(names, chosen))


def hold_files(connection: Connection, tenant: str, owner: str, conversation_id: str) -> Sequence[str]:
    """Let nobody begin to refer to the files of a conversation until the transaction ends. Returns their hashes."""
    referred = select(message_attachments.c.sha256).where(
        message_attachments.c.conversation_id == conversation_id,
        message_attachments.c.tenant == tenant,
        message_attachments.c.owner == owner,
    )
    held = (
        select(attachment_files.c.sha256)
        .where(
            attachment_files.c.tenant == tenant,
            attachment_files.c.owner == owner,
            attachment_files.c.sha256.in_(referred),
        )
        .order_by(attachment_files.c.sha256)
        .with_for_update()
    )
    return connection.execute(held).scalars().all()


def delete_unused(connection: Connection, tenant: str, owner: str, hashes: Sequence[str]) -> None:
    """Remove those files that nothing refers to any more. They are held by `hold_files`."""
    if not hashes:
        return
    in_use = select(message_attachments.c.id).where(
        message_attachments.c.tenant == attachment_files.c.tenant,
        message_attachments.c.owner == attachment_files.c.owner,
        message_attachments.c.sha256 == attachment_files.c.sha256,
    )
    connection.execute(
        delete(attachment_files).where(
            attachment_files.c.tenant == tenant,
            attachment_files.c.owner == owner,
            attachment_files.c.sha256.in_(hashes),
            ~in_use.exists(),
        )
    )


def get_attachment(
    connection: Connection, tenant: str, owner: str, conversation_id: str, attachment_id: str
) -> StoredFile | None:
    """One of the caller's files, or None."""
    return next(iter(load_attachments(connection, tenant, owner, conversation_id, [attachment_id])), None)


def load_attachments(
    connection: Connection, tenant: str, owner: str, conversation_id: str, ids: Sequence[str]
) -> list[StoredFile]:
    """Some files of a conversation of the caller, in no order."""
    same = and_(
        attachment_files.c.tenant == message_attachments.c.tenant,
        attachment_files.c.owner == message_attachments.c.owner,
        attachment_files.c.sha256 == message_attachments.c.sha256,
    )
    rows = connection.execute(
        select(
            message_attachments.c.id,
            message_attachments.c.media_type,
            message_attachments.c.name,
            attachment_files.c.data,
        )
        .join_from(message_attachments, attachment_files, same)
        .where(
            message_attachments.c.conversation_id == conversation_id,
            message_attachments.c.tenant == tenant,
            message_attachments.c.owner == owner,
            message_attachments.c.id.in_(ids),
        )
    )
    return [StoredFile(*row) for row in rows]
