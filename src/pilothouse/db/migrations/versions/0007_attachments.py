"""Attached files are stored once and referred to. Messages stored before keep theirs inside them."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "attachment_files",
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("owner", sa.String(256), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "owner", "sha256", name=op.f("pk_attachment_files")),
    )
    op.create_table(
        "message_attachments",
        sa.Column("conversation_id", sa.String(40), nullable=False),
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("owner", sa.String(256), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("media_type", sa.String(64), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("bytes", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["conversation_id"],
            ["conversations.id"],
            name=op.f("fk_message_attachments_conversation_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["tenant", "owner", "sha256"],
            ["attachment_files.tenant", "attachment_files.owner", "attachment_files.sha256"],
            name="fk_message_attachments_file",
        ),
        sa.PrimaryKeyConstraint("conversation_id", "id", name=op.f("pk_message_attachments")),
    )
    op.create_index("ix_message_attachments_file", "message_attachments", ["tenant", "owner", "sha256"])


def downgrade() -> None:
    op.drop_table("message_attachments")
    op.drop_table("attachment_files")
