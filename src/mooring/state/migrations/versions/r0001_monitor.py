"""The monitor's first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "mooring_objects",
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("log", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("done", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("model", "log", "name", name="pk_mooring_objects"),
    )
    op.create_index("ix_mooring_objects_model_log_day", "mooring_objects", ["model", "log", "day"])
    op.create_table(
        "mooring_models",
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("variant", sa.Text, nullable=False),
        sa.Column("standing", sa.Text, nullable=False),
        sa.Column("created", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("model", "version", "variant", name="pk_mooring_models"),
    )
    op.create_table(
        "mooring_baselines",
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("model", "version", "digest", name="pk_mooring_baselines"),
    )
    op.create_table(
        "mooring_windows",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("variant", sa.Text, nullable=False),
        sa.Column("start", _TIME, nullable=False),
        sa.Column("end", _TIME, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("weight", sa.BigInteger, nullable=False),
        sa.Column("late", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("profile", sa.LargeBinary),
        sa.PrimaryKeyConstraint("id", name="pk_mooring_windows"),
        sa.ForeignKeyConstraint(
            ["model", "version", "variant"],
            ["mooring_models.model", "mooring_models.version", "mooring_models.variant"],
            name="fk_mooring_windows_model_version_variant",
        ),
        sa.UniqueConstraint(
            "model", "version", "variant", "start", name="uq_mooring_windows_model_version_variant_start"
        ),
        sa.UniqueConstraint("model", "number", name="uq_mooring_windows_model_number"),
    )
    op.create_index("ix_mooring_windows_model_start", "mooring_windows", ["model", "start"])
    op.create_index("ix_mooring_windows_model_status", "mooring_windows", ["model", "status"])
    op.create_table(
        "mooring_verdicts",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("window_id", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("provisional", sa.Boolean, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("budget", sa.Float, nullable=False),
        sa.Column("baseline", sa.Text),
        sa.Column("alarms", sa.Integer, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("tracked", _TIME),
        sa.Column("results", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_mooring_verdicts"),
        sa.ForeignKeyConstraint(["window_id"], ["mooring_windows.id"], name="fk_mooring_verdicts_window_id"),
        sa.UniqueConstraint(
            "window_id", "revision", "provisional", name="uq_mooring_verdicts_window_id_revision_provisional"
        ),
    )
    untracked = sa.text("tracked IS NULL")
    op.create_index(
        "ix_mooring_verdicts_untracked",
        "mooring_verdicts",
        ["window_id"],
        sqlite_where=untracked,
        postgresql_where=untracked,
    )
    op.create_table(
        "mooring_alerts",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("verdict_id", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("channel", sa.Text, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("next_attempt", _TIME, nullable=False),
        sa.Column("last_error", sa.Text),
        sa.Column("sent", _TIME),
        sa.PrimaryKeyConstraint("id", name="pk_mooring_alerts"),
        sa.ForeignKeyConstraint(["verdict_id"], ["mooring_verdicts.id"], name="fk_mooring_alerts_verdict_id"),
        sa.UniqueConstraint("verdict_id", "kind", "channel", name="uq_mooring_alerts_verdict_id_kind_channel"),
    )
    op.create_index("ix_mooring_alerts_model_status", "mooring_alerts", ["model", "status"])
    op.create_index("ix_mooring_alerts_model_created", "mooring_alerts", ["model", "created"])
    op.create_table(
        "mooring_leases",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("expires", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_mooring_leases"),
    )


def downgrade() -> None:
    """Take them away."""
    for name in ("leases", "alerts", "verdicts", "windows", "baselines", "models", "objects"):
        op.drop_table(f"mooring_{name}")
