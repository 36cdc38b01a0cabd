"""Runs the migrations of identity."""

from chassis.migrations import run_env
from services.identity.tables import metadata

run_env(metadata)
