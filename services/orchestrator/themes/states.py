"""Where a theme and each of its versions stand."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from chassis.errors import NotFound
from services.orchestrator.domain.themes import ThemeId, name_of
from services.orchestrator.themes.definitions import ThemeDefinition


class ThemeState(IntEnum):
    """Where a theme stands; the numbers are those of the contract."""

    DRAFT = 1
    IN_REVIEW = 2
    APPROVED = 3
    RUNNING = 4
    PAUSED = 5
    FINISHED = 6


@dataclass(frozen=True)
class Theme:
    """A stored theme in one of its versions. `salt` (16 random bytes) makes holdout and delivery ids its own.

    `offer_versions` aligned with the definition's offers: what the approved words are, empty before. `approved_version` is
    the version that decides, 0 for none; `launching`: decisions of the launch are being made or handed over.
    """

    theme_id: ThemeId
    version: int
    definition: ThemeDefinition
    offer_versions: tuple[int, ...]
    author: str
    stated_at: datetime
    owner: str
    state: ThemeState
    approved_version: int
    launching: bool
    salt: bytes
    launch_failure: str
    created_at: datetime
    launched_at: datetime | None

    @property
    def name(self) -> str:
        """The resource name, "themes/12"."""
        return name_of(self.theme_id)


def found(theme: Theme | None, theme_id: ThemeId) -> Theme:
    """The theme; raises NotFound without one."""
    if theme is None:
        raise NotFound(f"there is no {name_of(theme_id)}", reason="THEME_NOT_FOUND", field="name")
    return theme
