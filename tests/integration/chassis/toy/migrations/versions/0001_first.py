"""First tables."""

from alembic import op

from chassis.outbox import CREATE_TABLES

revision = "0001"
down_revision = None


def upgrade() -> None:
    for statement in CREATE_TABLES:
        op.execute(statement)
    op.execute("CREATE TABLE seen (number bigint PRIMARY KEY)")
