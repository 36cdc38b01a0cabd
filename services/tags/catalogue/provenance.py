"""Where a tag's values come from, and when they change: said by its definition alone."""

from __future__ import annotations

from enum import IntEnum

from services.tags.domain.catalogue import FromEvents, FromImport, FromScore, TagDefinition
from services.tags.domain.language import LanguageError
from services.tags.domain.names import names_in


class Refresh(IntEnum):
    """When values change; numbers as in the contract's TagRefresh."""

    AT_ONCE = 1
    AT_ONCE_AND_BY_TIME = 2
    WHEN_ASKED = 3
    WITH_FILES = 4


def source_of(definition: TagDefinition) -> str:
    """Events, a model, partners or tags, in words."""
    match definition.origin:
        case FromEvents(events=events, source=source):
            told = ", ".join(sorted(events)) or "every event"
            return f"events: {told}{f' of {source}' if source else ''}"
        case FromScore(model):
            return f"score: {model}"
        case FromImport(partners):
            return f"partners: {', '.join(partners)}"
    try:
        named = sorted(
            name if kind is definition.kind else f"{kind.name.lower()}.{name}"
            for kind, name in names_in(definition.expression, definition.kind)
        )
    except LanguageError:
        named = []
    return f"tags: {', '.join(named)}" if named else "relations"


def refresh_of(definition: TagDefinition, is_view: bool) -> Refresh:
    """When its values change. What is built on a tag that changes by time changes with that tag."""
    if is_view:
        return Refresh.WHEN_ASKED
    match definition.origin:
        case FromImport():
            return Refresh.WITH_FILES
        case FromEvents(window=window):
            return Refresh.AT_ONCE if window is None else Refresh.AT_ONCE_AND_BY_TIME
    upper = definition.expression.upper()
    by_time = "DAYS_SINCE" in upper or "NOW()" in upper
    return Refresh.AT_ONCE_AND_BY_TIME if by_time else Refresh.AT_ONCE
