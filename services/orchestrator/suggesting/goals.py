"""Who reached a theme's goal before, told by tags: the predicate over them, and over everybody who was asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from troika.tags.v1 import tags_service_pb2 as tags_pb2

from chassis.errors import FailedPrecondition
from services.orchestrator.domain.suggesting import events


@dataclass(frozen=True)
class SoughtGoal:
    """An event, and the property that must have a value; `field` empty when the event alone is enough."""

    event: str
    field: str
    value: str


def predicates_of(goal: SoughtGoal, catalogue: Mapping[str, tags_pb2.Tag]) -> tuple[str, str]:
    """(responders, asked): from the simplest base tag over that event alone. Without a property everybody was asked.

    Raises FailedPrecondition when no tag tells.
    """
    literal = "'" + goal.event.replace("'", "''") + "'"
    about = sorted(
        (tag for tag in catalogue.values() if tag.from_events and events(tag.expression) == {literal}),
        key=lambda tag: (len(tag.expression), tag.name),
    )
    if goal.field:
        named = re.compile(rf"\b{re.escape(goal.field)}\b")
        for tag in about:
            if not named.search(tag.expression):
                continue
            if tag.type == tags_pb2.TAG_TYPE_BOOLEAN:
                return (tag.name if goal.value == "true" else f"NOT {tag.name}"), f"{tag.name} IS NOT NULL"
            if tag.type == tags_pb2.TAG_TYPE_CATEGORY:
                value = goal.value.replace("'", "''")
                return f"{tag.name} = '{value}'", f"{tag.name} IS NOT NULL"
    else:
        for tag in about:
            if tag.type == tags_pb2.TAG_TYPE_NUMBER and tag.expression.upper().startswith("COUNT(*)"):
                return f"{tag.name} >= 1", "TRUE"
            if tag.type == tags_pb2.TAG_TYPE_BOOLEAN:
                return tag.name, "TRUE"
    raise FailedPrecondition(
        "no tag tells who reached this goal; say responders and asked", reason="GOAL_WITHOUT_TAG", field="goal"
    )
