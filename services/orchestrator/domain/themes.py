"""What a theme is, and how it is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import NewType

ThemeId = NewType("ThemeId", int)
PersonId = NewType("PersonId", int)

MARKETING, SERVICE = "marketing", "service"


class ThemeState(IntEnum):
    """Where a theme stands; the numbers are those of the contract."""

    DRAFT = 1
    LAUNCHING = 2
    RUNNING = 3


@dataclass(frozen=True)
class Goal:
    """The event that counts as success; `field` empty when the event alone is enough."""

    event: str
    field: str
    value: str


@dataclass(frozen=True)
class Offer:
    """What is offered; texts are free of personal data."""

    name: str
    title: str
    body: str
    purpose: str


@dataclass(frozen=True)
class Budget:
    """Most people contacted (holdout included), most of them called, and cost of one push in fen by channel."""

    max_contacts: int
    max_calls: int
    unit_cost_fen: Mapping[str, int]


@dataclass(frozen=True)
class ThemeDraft:
    """What a business user states."""

    title: str
    audience: str
    goal: Goal
    offer: Offer
    budget: Budget
    holdout_share: float
    model: str
    call_score: float


@dataclass(frozen=True)
class Theme:
    """A stored theme. `salt` (16 random bytes) makes holdout and delivery ids its own."""

    theme_id: ThemeId
    draft: ThemeDraft
    state: ThemeState
    salt: bytes
    launch_failure: str
    created_at: datetime
    launched_at: datetime | None

    @property
    def name(self) -> str:
        """The resource name, "themes/12"."""
        return name_of(self.theme_id)


def name_of(theme_id: ThemeId) -> str:
    """The resource name, "themes/12"."""
    return f"themes/{theme_id}"


def id_of(name: str) -> ThemeId:
    """The number in a resource name that the contract's pattern has accepted."""
    return ThemeId(int(name.removeprefix("themes/")))
