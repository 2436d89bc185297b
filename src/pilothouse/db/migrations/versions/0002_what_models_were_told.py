"""What models were told: hashes of instructions and tools with the step."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("steps", sa.Column("told", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("steps", "told")
