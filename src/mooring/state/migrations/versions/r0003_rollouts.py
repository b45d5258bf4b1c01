"""Rollouts, what happened to them, and what is served; alerts about rollouts."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "mooring_rollouts",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("previous", sa.Text, nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("ticket_id", sa.Text),
        sa.Column("plan", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("counts", sa.Text, nullable=False),
        sa.Column("evidence", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("wish", sa.Text),
        sa.Column("wish_by", sa.Text),
        sa.Column("wish_reason", sa.Text),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("updated", _TIME, nullable=False),
        sa.Column("ended", _TIME),
        sa.PrimaryKeyConstraint("id", name="pk_mooring_rollouts"),
        sa.ForeignKeyConstraint(["ticket_id"], ["mooring_tickets.id"], name="fk_mooring_rollouts_ticket_id"),
        sa.UniqueConstraint("model", "number", name="uq_mooring_rollouts_model_number"),
    )
    unended = sa.text("ended IS NULL")
    op.create_index(
        "uq_mooring_rollouts_unended",
        "mooring_rollouts",
        ["model"],
        unique=True,
        sqlite_where=unended,
        postgresql_where=unended,
    )
    op.create_table(
        "mooring_rollout_events",
        sa.Column("rollout_id", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("what", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", "number", name="pk_mooring_rollout_events"),
        sa.ForeignKeyConstraint(
            ["rollout_id"], ["mooring_rollouts.id"], name="fk_mooring_rollout_events_rollout_id"
        ),
    )
    op.create_table(
        "mooring_serving",
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("follows", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("since", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("model", "host", "follows", name="pk_mooring_serving"),
    )
    with op.batch_alter_table("mooring_alerts") as alerts:
        alerts.alter_column("verdict_id", existing_type=sa.Text, nullable=True)
        alerts.add_column(sa.Column("rollout_id", sa.Text))
        alerts.create_foreign_key("fk_mooring_alerts_rollout_id", "mooring_rollouts", ["rollout_id"], ["id"])


def downgrade() -> None:
    """Take them away."""
    op.execute("DELETE FROM mooring_alerts WHERE verdict_id IS NULL")
    with op.batch_alter_table("mooring_alerts") as alerts:
        alerts.drop_constraint("fk_mooring_alerts_rollout_id", type_="foreignkey")
        alerts.drop_column("rollout_id")
        alerts.alter_column("verdict_id", existing_type=sa.Text, nullable=False)
    for name in ("serving", "rollout_events", "rollouts"):
        op.drop_table(f"mooring_{name}")
