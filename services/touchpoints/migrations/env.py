"""Alembic's way in."""

from chassis.migrations import run_env
from services.touchpoints.tables import metadata

run_env(metadata)
