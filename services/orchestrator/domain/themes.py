"""How themes and the persons they reach are named, and what a push may be for."""

from __future__ import annotations

from typing import NewType

ThemeId = NewType("ThemeId", int)
PersonId = NewType("PersonId", int)

MARKETING, SERVICE = "marketing", "service"


def name_of(theme_id: ThemeId) -> str:
    """The resource name, "themes/12"."""
    return f"themes/{theme_id}"


def id_of(name: str) -> ThemeId:
    """The number in a resource name that the contract's pattern has accepted."""
    return ThemeId(int(name.removeprefix("themes/")))
