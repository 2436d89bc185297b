"""Conversations and their transcripts."""

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    false,
)

from pilothouse.db.metadata import Millis, metadata

conversations = Table(
    "conversations",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("owner", String(256), nullable=False),
    Column("agent", String(128), nullable=False),
    Column("title", Text, nullable=False),
    Column("turns", Integer, nullable=False, server_default="0"),
    Column("metadata", JSON),
    Column("created_at", Millis, nullable=False),
    Column("updated_at", Millis, nullable=False),
    Index("ix_conversations_owner", "tenant", "owner", "updated_at", "id"),
)

messages = Table(
    "messages",
    metadata,
    # A message's place: the run's number in its conversation, then its number in the run. Fixed at admission,
    # so a run that waits in the queue can store its message at once without a place being moved later.
    Column("conversation_id", String(40), ForeignKey("conversations.id", ondelete="CASCADE"), nullable=False),
    Column("turn", Integer, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("run_id", String(40), nullable=False),
    Column("step", Integer, nullable=False),
    Column("role", String(12), nullable=False),  # user | assistant | tool | feedback
    Column("call_id", String(128)),
    Column("payload", Text, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("pinned", Boolean, nullable=False, server_default=false()),
    Column("created_at", Millis, nullable=False),
    PrimaryKeyConstraint("conversation_id", "turn", "seq"),
    # One result per tool call, whatever two processes think (P7). `step` is the model step that made the call.
    Index("uq_messages_call", "run_id", "step", "call_id", unique=True),
)

# The bytes of attached files, once for each owner, however often a file is sent or a conversation is forked.
attachment_files = Table(
    "attachment_files",
    metadata,
    Column("tenant", String(128), nullable=False),
    Column("owner", String(256), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("created_at", Millis, nullable=False),
    Column("data", LargeBinary, nullable=False),  # last: what reads other columns need not pass it
    PrimaryKeyConstraint("tenant", "owner", "sha256"),
)

# The files of a conversation. A fork has rows of its own, with the ids its copied messages name.
message_attachments = Table(
    "message_attachments",
    metadata,
    Column("conversation_id", String(40), ForeignKey("conversations.id", ondelete="CASCADE"), nullable=False),
    Column("id", String(40), nullable=False),
    Column("tenant", String(128), nullable=False),
    Column("owner", String(256), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("media_type", String(64), nullable=False),
    Column("name", Text),
    Column("bytes", Integer, nullable=False),
    Column("created_at", Millis, nullable=False),
    PrimaryKeyConstraint("conversation_id", "id"),
    # No cascade: a file that is still referred to can't be deleted, whatever two transactions think.
    ForeignKeyConstraint(
        ["tenant", "owner", "sha256"],
        ["attachment_files.tenant", "attachment_files.owner", "attachment_files.sha256"],
        name="fk_message_attachments_file",
    ),
    Index("ix_message_attachments_file", "tenant", "owner", "sha256"),
)
