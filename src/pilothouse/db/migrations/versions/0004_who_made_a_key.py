"""The API key that another one was made with. Keys from before have none."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("parent_id", sa.String(40)))
    op.create_index("ix_api_keys_parent", "api_keys", ["parent_id"])


def downgrade() -> None:
    op.drop_index("ix_api_keys_parent", "api_keys")
    op.drop_column("api_keys", "parent_id")
