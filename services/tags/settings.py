"""What tags needs from the world."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from chassis.settings import ChassisSettings
from services.tags import catalogue_file

TAGS_SERVICE = "troika.tags.v1.TagsService"


class Settings(ChassisSettings):
    """Settings of tags."""

    catalogue: Path = Field(catalogue_file.DEFAULT, description="The tag catalogue, a YAML file.")
    # Who else would ask: identity and touchpoints know anchors and addresses, not tags.
    tags_callers: frozenset[str] = Field(
        frozenset({"scoring", "orchestrator", "operator"}), description="Callers of TagsService, as JSON list."
    )

    def allowed_callers(self) -> dict[str, frozenset[str]]:
        """RPC service to callers."""
        return {TAGS_SERVICE: self.tags_callers}
