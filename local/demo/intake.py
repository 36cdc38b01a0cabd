"""Everything that sources know goes in, and the product is watched until it has taken it all in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from troika.identity.v1.events_pb2 import ENTITY_KIND_PERSON, ENTITY_KIND_VEHICLE
from troika.identity.v1.identity_service_pb2 import GetStatisticsRequest, GetStatisticsResponse
from troika.tags.v1.tags_service_pb2 import CountAudienceRequest

from local.demo.console import Screen
from local.demo.doors import Doors
from local.demo.operator import Operator, until
from local.demo.people import People
from local.overlay import Overlay

# Nothing new for so long means that something is stuck.
STUCK_S = 90.0


async def import_records(screen: Screen, doors: Doors, overlay: Overlay) -> None:
    """All records of all sources, source by source."""
    total = sum(overlay.record_count(source) for source in overlay.sources)
    with screen.step(f"Import {total:,} records from {len(overlay.sources)} sources", total) as step:
        for source in overlay.sources:
            await doors.records(source, overlay.records(source), step.advance)


async def send_events(screen: Screen, doors: Doors, overlay: Overlay) -> None:
    """The past campaign's real answers, and made behaviour."""
    with screen.step("Send past answers and behaviour as Segment events") as step:
        await doors.events("call_center", overlay.past_events(), step.advance)
        for source in overlay.event_sources:
            await doors.events(source, overlay.behaviour_events(source), step.advance)


async def resolved(screen: Screen, operator: Operator, expected: int) -> GetStatisticsResponse:
    """Waits until identity has stored exactly the observations that the doors accepted."""
    with screen.step(f"Resolve identities of {expected:,} observations", expected) as step:

        async def look() -> GetStatisticsResponse:
            statistics = await operator.ask(operator.identity.GetStatistics, GetStatisticsRequest())
            step.at(statistics.observations)
            return statistics

        return await until(look, lambda seen: seen.observations >= expected, STUCK_S, every=1.0)


async def tagged(screen: Screen, operator: Operator, people: People) -> None:
    """Waits until the audience index holds every person, every vehicle and every past answer."""
    statistics = await operator.ask(operator.identity.GetStatistics, GetStatisticsRequest())
    answered = len(np.unique(people.call_center_entity[people.past]))
    wanted = (statistics.persons, statistics.vehicles, answered)
    with screen.step("Tag persons and vehicles", float(sum(wanted))) as step:

        async def look() -> tuple[int, int, int]:
            past = CountAudienceRequest(entity_kind=ENTITY_KIND_PERSON, predicate="offer_answer IS NOT NULL")
            vehicles = CountAudienceRequest(entity_kind=ENTITY_KIND_VEHICLE)
            persons = await operator.ask(operator.tags.CountAudience, past)
            seen = (persons.base, (await operator.ask(operator.tags.CountAudience, vehicles)).base, persons.count)
            step.at(sum(seen))
            return seen

        await until(look, lambda seen: seen == wanted, STUCK_S, every=1.0)


def organic_events(overlay: Overlay, seed: int, share: float, now: str) -> Iterable[dict[str, Any]]:
    """MADE: a seeded `share` of the new leads who really said yes would have come by themselves, pushed or not."""
    would_come = np.random.default_rng([seed, 20]).random(len(overlay)) < share

    def events() -> Iterator[dict[str, Any]]:
        for person in overlay.truth.persons():
            if would_come[person.person] and person.answer and not person.past:
                yield {
                    "type": "track",
                    "messageId": f"organic-{seed}-{person.person}",
                    "userId": person.call_center_id,
                    "event": "Offer Answered",
                    "timestamp": now,
                    "properties": {"answer": "yes", "organic": True},
                }

    return events()
