"""The journeys that come with the release."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources


def library() -> Mapping[str, str]:
    """Name to document, by name; themes and offers stand empty in them."""
    folder = resources.files("services.orchestrator.journeys") / "library"
    files = sorted((each for each in folder.iterdir() if each.name.endswith(".yaml")), key=lambda each: each.name)
    return {each.name.removesuffix(".yaml"): each.read_text(encoding="utf-8") for each in files}
