"""What each feature amounts to in a window, for heat maps; indexes that answer for the windows of all models."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make them. Cells of what was written before are worked out when somebody asks for them."""
    op.create_table(
        "mooring_verdict_cells",
        sa.Column("verdict_id", sa.Text, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("verdict_id", name="pk_mooring_verdict_cells"),
        sa.ForeignKeyConstraint(
            ["verdict_id"], ["mooring_verdicts.id"], name="fk_mooring_verdict_cells_verdict_id"
        ),
    )
    answering = sa.text("variant != 'shadow'")
    op.create_index(
        "ix_mooring_windows_recent",
        "mooring_windows",
        ["model", "start", "end", "rows", "version", "variant", "number", "id"],
        sqlite_where=answering,
        postgresql_where=answering,
    )
    op.create_index(
        "ix_mooring_verdicts_recent",
        "mooring_verdicts",
        ["window_id", "revision", "provisional", "status", "alarms"],
    )


def downgrade() -> None:
    """Take them away."""
    op.drop_index("ix_mooring_verdicts_recent", "mooring_verdicts")
    op.drop_index("ix_mooring_windows_recent", "mooring_windows")
    op.drop_table("mooring_verdict_cells")
