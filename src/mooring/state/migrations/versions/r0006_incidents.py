"""What each stream has shown so far, and the incidents that came of it."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables; evidence begins with the next window."""
    op.create_table(
        "mooring_streams",
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("variant", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("baseline", sa.Text, nullable=False),
        sa.Column("windows", sa.Integer, nullable=False),
        sa.Column("level", sa.Float, nullable=False),
        sa.Column("since", _TIME),
        sa.Column("updated", _TIME, nullable=False),
        sa.Column("incident_id", sa.Text),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("model", "version", "variant", "kind", name="pk_mooring_streams"),
    )
    op.create_table(
        "mooring_incidents",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("variant", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("severity", sa.Text, nullable=False),
        sa.Column("features", sa.Text, nullable=False),
        sa.Column("level", sa.Float, nullable=False),
        sa.Column("windows", sa.Integer, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("start", _TIME, nullable=False),
        sa.Column("opened", _TIME, nullable=False),
        sa.Column("updated", _TIME, nullable=False),
        sa.Column("closed", _TIME),
        sa.PrimaryKeyConstraint("id", name="pk_mooring_incidents"),
    )
    op.create_index("ix_mooring_incidents_model_opened", "mooring_incidents", ["model", "opened"])


def downgrade() -> None:
    """Forget them."""
    op.drop_table("mooring_incidents")
    op.drop_table("mooring_streams")
