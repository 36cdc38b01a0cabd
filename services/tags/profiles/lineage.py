"""Why an entity has a tag: the events behind it, and what happened lately at all, from the event lake."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from chassis.errors import Unavailable
from services.tags.domain.catalogue import Kind
from services.tags.domain.facts import BadEvent, FactRules, Occurrence
from services.tags.lake.reading import Lake, LakeEvent

# So many of an entity's newest events are looked at, and so many shown for each tag.
LOOKED_AT: Final = 1_000
SHOWN: Final = 5
_FOREVER_US: Final = 2**62


@dataclass(frozen=True)
class Lineage:
    """The newest events behind one tag, newest first, and how many there are among those that were looked at."""

    events: Sequence[LakeEvent]
    count: int


async def newest(lake: Lake, kind: Kind, anchors: Collection[int], limit: int) -> list[LakeEvent]:
    """The newest events over all anchors of an entity, newest first. Raises Unavailable when the lake cannot be read."""
    if not anchors or not limit:
        return []
    try:
        return await asyncio.to_thread(lake.events_of, anchors, [kind], 0, _FOREVER_US, limit)
    except OSError:
        raise Unavailable("the event lake cannot be read", reason="LAKE_UNAVAILABLE") from None


def lineages(rules: FactRules, kind: Kind, events: Sequence[LakeEvent], now_us: int) -> Mapping[str, Lineage]:
    """For each base tag the events that say something of it; of a tag over a window those that are in it."""
    found: dict[str, list[LakeEvent]] = {}
    for event in events:
        tie = int.from_bytes(event.event_id[:8], "big") >> 1
        occurrence = Occurrence(event.source, event.event, event.occurred_us, tie, event.received_us)
        try:
            stated = rules.stated(kind, occurrence, orjson.dumps(event.properties))
        except BadEvent:
            continue
        for tag, fold, _ in stated:
            window = fold.window
            if window is None or event.occurred_us // window.step_us >= window.first(now_us):
                found.setdefault(tag, []).append(event)
    return {tag: Lineage(behind[:SHOWN], len(behind)) for tag, behind in found.items()}
