"""Runs the migrations of tags."""

from chassis.migrations import run_env
from services.tags.tables import metadata

run_env(metadata)
