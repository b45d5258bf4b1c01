"""Performance of windows; tickets of retraining, their steps, and promotions."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "mooring_performance",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("window_id", sa.Text, nullable=False),
        sa.Column("look", sa.Integer, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("labelled", sa.BigInteger, nullable=False),
        sa.Column("delay", sa.Float),
        sa.Column("chance", sa.Float),
        sa.Column("budget", sa.Float, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("tracked", _TIME),
        sa.Column("results", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_mooring_performance"),
        sa.ForeignKeyConstraint(["window_id"], ["mooring_windows.id"], name="fk_mooring_performance_window_id"),
        sa.UniqueConstraint("window_id", "look", name="uq_mooring_performance_window_id_look"),
    )
    op.create_table(
        "mooring_tickets",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("champion", sa.Text, nullable=False),
        sa.Column("candidate", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text),
        sa.Column("directory", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("updated", _TIME, nullable=False),
        sa.Column("ended", _TIME),
        sa.PrimaryKeyConstraint("id", name="pk_mooring_tickets"),
        sa.UniqueConstraint("model", "number", name="uq_mooring_tickets_model_number"),
    )
    unended = sa.text("ended IS NULL")
    op.create_index(
        "uq_mooring_tickets_unended",
        "mooring_tickets",
        ["model"],
        unique=True,
        sqlite_where=unended,
        postgresql_where=unended,
    )
    op.create_table(
        "mooring_steps",
        sa.Column("ticket_id", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("what", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("ticket_id", "number", name="pk_mooring_steps"),
        sa.ForeignKeyConstraint(["ticket_id"], ["mooring_tickets.id"], name="fk_mooring_steps_ticket_id"),
    )
    op.create_table(
        "mooring_promotions",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("ticket_id", sa.Text),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("previous", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("ended", _TIME),
        sa.PrimaryKeyConstraint("id", name="pk_mooring_promotions"),
        sa.ForeignKeyConstraint(["ticket_id"], ["mooring_tickets.id"], name="fk_mooring_promotions_ticket_id"),
    )
    op.create_index("ix_mooring_promotions_model_created", "mooring_promotions", ["model", "created"])


def downgrade() -> None:
    """Take them away."""
    for name in ("promotions", "steps", "tickets", "performance"):
        op.drop_table(f"mooring_{name}")
