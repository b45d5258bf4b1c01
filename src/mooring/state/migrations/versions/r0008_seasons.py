"""What is usual of each hour of the week, and the days that are not usual."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables; what is usual is gathered from the next window on."""
    op.create_table(
        "mooring_slots",
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("variant", sa.Text, nullable=False),
        sa.Column("part", sa.Text, nullable=False),
        sa.Column("slot", sa.Integer, nullable=False),
        sa.Column("baseline", sa.Text, nullable=False),
        sa.Column("sums", sa.LargeBinary, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("model", "version", "variant", "part", "slot", name="pk_mooring_slots"),
    )
    op.create_table(
        "mooring_notes",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("model", sa.Text),
        sa.Column("start", _TIME, nullable=False),
        sa.Column("end", _TIME, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_mooring_notes"),
    )


def downgrade() -> None:
    """Forget them."""
    op.drop_table("mooring_notes")
    op.drop_table("mooring_slots")
