"""What share of the false alarms that may be each stream has."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the weights; all streams so far share alike."""
    with op.batch_alter_table("mooring_streams") as table:
        table.add_column(sa.Column("weight", sa.Float, nullable=False, server_default="1"))


def downgrade() -> None:
    """Forget them."""
    with op.batch_alter_table("mooring_streams") as table:
        table.drop_column("weight")
