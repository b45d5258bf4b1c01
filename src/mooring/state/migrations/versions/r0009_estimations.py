"""How models do on windows that have no labels yet."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Make the table; what is estimated is filled in with the next look, as far as the log reaches."""
    op.create_table(
        "mooring_estimations",
        sa.Column("window_id", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("window_rows", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("chance", sa.Float),
        sa.Column("budget", sa.Float, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("results", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("window_id", name="pk_mooring_estimations"),
        sa.ForeignKeyConstraint(
            ["window_id"], ["mooring_windows.id"], name="fk_mooring_estimations_window_id_mooring_windows"
        ),
    )


def downgrade() -> None:
    """Forget them."""
    op.drop_table("mooring_estimations")
