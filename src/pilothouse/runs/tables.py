"""Runs, their steps and their event logs."""

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    false,
    text,
)

from pilothouse.db.metadata import Millis, NanoUsd, metadata

runs = Table(
    "runs",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("owner", String(256), nullable=False),
    Column("conversation_id", String(40), ForeignKey("conversations.id", ondelete="CASCADE"), nullable=False),
    Column("turn", Integer, nullable=False),
    Column("agent", String(128), nullable=False),
    Column("kind", String(12), nullable=False),
    Column("state", String(16), nullable=False),
    # The fencing number: raised by whoever takes the run over, checked by every write of its executor.
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("lease_owner", String(64)),
    Column("request", JSON, nullable=False),
    Column("output", Text),
    Column("error", JSON),
    Column("model", String(200)),
    Column("prompt_name", String(200)),
    Column("prompt_version", String(64)),
    Column("prompt_hash", String(64)),
    Column("cut", JSON),
    Column("input_tokens", Integer, nullable=False, server_default="0"),
    Column("output_tokens", Integer, nullable=False, server_default="0"),
    Column("cached_tokens", Integer, nullable=False, server_default="0"),
    Column("cost_nano_usd", NanoUsd),
    Column("steps", Integer, nullable=False, server_default="0"),
    # Processes that ended while one of its tools ran, since it last recorded an answer or a result.
    Column("crashes", Integer, nullable=False, server_default="0"),
    # Nothing else executes beside it: a process that ends now ends by it. Counted in crashes_alone.
    Column("isolated", Boolean, nullable=False, server_default=false()),
    Column("crashes_alone", Integer, nullable=False, server_default="0"),
    # If this attempt dies too, not to be tried again before this.
    Column("retry_at", Millis),
    Column("forked_from", String(40)),
    Column("cancel_requested_at", Millis),
    Column("cancel_reason", String(200)),
    # Time in which it waited, or no process was there, since it was started: not counted against its time limit.
    Column("paused_at", Millis),
    Column("paused_ms", Millis, nullable=False, server_default="0"),
    Column("created_at", Millis, nullable=False),
    Column("started_at", Millis),
    Column("finished_at", Millis),
    Index("ix_runs_owner", "tenant", "owner", "created_at", "id"),
    Index("ix_runs_conversation", "conversation_id", "turn", unique=True),
    Index("ix_runs_open", "state", "lease_owner", postgresql_where=text("finished_at IS NULL")),
    # One writer per conversation (P6).
    Index(
        "uq_runs_active",
        "conversation_id",
        unique=True,
        sqlite_where=text("state IN ('running', 'awaiting_input')"),
        postgresql_where=text("state IN ('running', 'awaiting_input')"),
    ),
)

steps = Table(
    "steps",
    metadata,
    Column("run_id", String(40), ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("kind", String(8), nullable=False),  # model | tool
    Column("name", String(200), nullable=False),
    Column("state", String(16), nullable=False),  # started | completed | failed | in_doubt | cancelled
    Column("attempt", Integer, nullable=False),
    Column("model_step", Integer),  # of a tool step: the model step that made the call
    Column("call_id", String(128)),
    Column("effect", String(12)),
    Column("idempotency_key", String(64)),
    Column("arguments", Text),
    # Of a call that a person was asked about: on what terms, and who decided (runs.approvals).
    Column("approval", Text),
    # Of a model step: hashes of instructions and tools, where they are not those of the step before.
    Column("told", Text),
    Column("error_code", String(64)),
    Column("input_tokens", Integer),
    Column("output_tokens", Integer),
    Column("cached_tokens", Integer),
    Column("cost_nano_usd", NanoUsd),
    Column("first_token_ms", Integer),
    Column("started_at", Millis, nullable=False),
    Column("finished_at", Millis),
    PrimaryKeyConstraint("run_id", "number"),
)

run_events = Table(
    "run_events",
    metadata,
    Column("run_id", String(40), ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("seq", Integer, nullable=False),  # of a row of deltas: the number of the last one
    Column("type", String(32), nullable=False),
    Column("data", Text, nullable=False),
    Column("created_at", Millis, nullable=False),
    PrimaryKeyConstraint("run_id", "attempt", "seq"),
)
