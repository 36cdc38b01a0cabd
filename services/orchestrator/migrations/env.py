"""Alembic environment of the orchestrator."""

from chassis.migrations import run_env
from services.orchestrator.tables import metadata

run_env(metadata)
