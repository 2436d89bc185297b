"""The audit log."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_records",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("last_at", sa.BigInteger(), nullable=False),
        sa.Column("tenant", sa.String(128)),
        sa.Column("subject", sa.String(256)),
        sa.Column("credential", sa.String(64)),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("outcome", sa.String(8), nullable=False),
        sa.Column("code", sa.String(64)),
        sa.Column("object_kind", sa.String(32)),
        sa.Column("object_id", sa.String(256)),
        sa.Column("detail", sa.Text()),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("request_id", sa.String(128)),
        sa.Column("client", sa.String(64)),
        sa.Column("user_agent", sa.String(200)),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_records")),
    )
    op.create_index("ix_audit_records_tenant", "audit_records", ["tenant", "at", "id"])
    op.create_index("ix_audit_records_at", "audit_records", ["at"])


def downgrade() -> None:
    op.drop_index("ix_audit_records_at", "audit_records")
    op.drop_index("ix_audit_records_tenant", "audit_records")
    op.drop_table("audit_records")
