"""Crashes that prove something, the time a run waited for people, and why somebody wanted it stopped."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

COLUMNS = (
    sa.Column("cancel_reason", sa.String(200)),
    sa.Column("paused_at", sa.BigInteger()),
    sa.Column("paused_ms", sa.BigInteger(), nullable=False, server_default="0"),
    sa.Column("isolated", sa.Boolean(), nullable=False, server_default=sa.false()),
    sa.Column("crashes_alone", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("retry_at", sa.BigInteger()),
)


def upgrade() -> None:
    for column in COLUMNS:
        op.add_column("runs", column)


def downgrade() -> None:
    for column in reversed(COLUMNS):
        op.drop_column("runs", column.name)
