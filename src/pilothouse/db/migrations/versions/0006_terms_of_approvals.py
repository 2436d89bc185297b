"""On what terms a person was asked about a call, and who decided."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("steps", sa.Column("approval", sa.Text()))


def downgrade() -> None:
    op.drop_column("steps", "approval")
