"""What tags needs from the world."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from chassis.settings import ChassisSettings
from services.tags import catalogue_file


class Settings(ChassisSettings):
    """Settings of tags."""

    catalogue: Path = Field(catalogue_file.DEFAULT, description="The tag catalogue, a YAML file.")
    # Who else would ask: identity and touchpoints know anchors and addresses, not tags.
    rpc_service = "troika.tags.v1.TagsService"
    callers: frozenset[str] = Field(
        frozenset({"scoring", "orchestrator", "operator"}), description="Who may call this service's RPCs, as JSON list."
    )
