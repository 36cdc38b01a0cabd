"""Alembic environment of scoring."""

from chassis.migrations import run_env
from services.scoring.tables import metadata

run_env(metadata)
