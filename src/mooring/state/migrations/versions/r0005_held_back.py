"""Why a supervisor does not serve what the alias names."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make room for it."""
    with op.batch_alter_table("mooring_serving") as table:
        table.add_column(sa.Column("held_back", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    """Forget it."""
    with op.batch_alter_table("mooring_serving") as table:
        table.drop_column("held_back")
