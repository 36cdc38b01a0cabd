"""What journeys ask other rooms: one question for everybody who stands at a step."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final

import grpc
import numpy as np
from numpy.typing import NDArray
from troika.identity.v1.events_pb2 import ENTITY_KIND_PERSON
from troika.tags.v1 import audience_service_pb2 as audiences
from troika.tags.v1 import tags_service_pb2 as pb
from troika.tags.v1.audience_service_pb2_grpc import AudienceServiceStub
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceStub

from chassis.db import Database
from chassis.errors import InvalidArgument
from chassis.quiet_hours import zone_of
from services.orchestrator.experiments import handlers as experiments
from services.orchestrator.experiments.definitions import id_of
from services.orchestrator.experiments.handlers import Laboratory
from services.orchestrator.experiments.store import ExperimentStore
from services.orchestrator.journeys.advancing import Answers, People
from services.orchestrator.journeys.documents import DateTrigger
from services.orchestrator.journeys.programs import OUTSIDE, Kind, Node
from services.orchestrator.peers import STREAM_TIMEOUT_S, blaming

Ints = NDArray[np.int64]
# As many as one request takes.
MOST_ASKED: Final = 100_000


class PersonTags:
    """Questions to tags about persons."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._tags, self._audiences = TagsServiceStub(channel), AudienceServiceStub(channel)

    async def among(self, predicate: str, persons: Ints, field: str) -> NDArray[np.bool_]:
        """For whom of some persons a predicate holds now."""
        holds = np.zeros(len(persons), np.bool_)
        for start in range(0, len(persons), MOST_ASKED):
            part = persons[start : start + MOST_ASKED]
            asked = np.unique(part).astype("<u4").tobytes()
            request = pb.StreamAudienceRequest(entity_kind=ENTITY_KIND_PERSON, predicate=predicate, packed=True, among=asked)
            holds[start : start + len(part)] = np.isin(part, await self._ids(request, field))
        return holds

    async def members(self, predicate: str, field: str) -> Ints:
        """All for whom a predicate holds now, ascending."""
        return await self._ids(
            pb.StreamAudienceRequest(entity_kind=ENTITY_KIND_PERSON, predicate=predicate, packed=True), field
        )

    async def _ids(self, request: pb.StreamAudienceRequest, field: str) -> Ints:
        chunks = [np.empty(0, np.int64)]
        with blaming(field):
            async for chunk in self._tags.StreamAudience(request, timeout=STREAM_TIMEOUT_S):
                packed = np.frombuffer(chunk.packed_ids, "<u4").astype(np.int64)
                chunks.append(packed if len(packed) else np.array(chunk.entity_ids, np.int64))
        return np.concatenate(chunks)

    async def words(self, tag: str, persons: Ints, field: str) -> list[str]:
        """A category tag of each person; "" where there is none."""
        found: dict[int, str] = {}
        for start in range(0, len(persons), MOST_ASKED):
            part = persons[start : start + MOST_ASKED].tolist()
            with blaming(field):
                request = pb.StreamTagValuesRequest(entity_kind=ENTITY_KIND_PERSON, entity_ids=part, tags=[tag])
                async for chunk in self._tags.StreamTagValues(request, timeout=STREAM_TIMEOUT_S):
                    [column] = chunk.columns
                    words = [*column.words, ""]
                    found |= {person: words[at] for person, at in zip(chunk.entity_ids, column.word_indexes, strict=True)}
        return [found.get(person, "") for person in persons.tolist()]

    async def on_day(self, stated: DateTrigger, day: date, field: str) -> Ints:
        """Whose date, moved by the offset, is a day; dates are those of UTC, as tags keep days."""
        meant = day - timedelta(days=stated.offset_days)
        if stated.yearly:
            return await self._on_day_of_year(stated, meant, field)
        begin, end = (f"TIMESTAMP '{each.isoformat()}T00:00:00Z'" for each in (meant, meant + timedelta(days=1)))
        inside = f"{stated.tag} >= {begin} AND {stated.tag} < {end}"
        return await self.members(_and(inside if stated.of == "person" else f"ANY(vehicle, {inside})", stated.among), field)

    async def _on_day_of_year(self, stated: DateTrigger, day: date, field: str) -> Ints:
        """Those born on the 29th of February have their day on the 1st of March where there is none."""
        days = {(day.month, day.day)}
        if (day.month, day.day) == (3, 1) and (day - timedelta(days=1)).day == 28:
            days.add((2, 29))
        found: list[int] = []
        with blaming(field):
            predicate = _and(f"{stated.tag} IS NOT NULL", stated.among)
            request = pb.StreamTagValuesRequest(entity_kind=ENTITY_KIND_PERSON, predicate=predicate, tags=[stated.tag])
            async for chunk in self._tags.StreamTagValues(request, timeout=STREAM_TIMEOUT_S):
                values = np.array(chunk.columns[0].numbers, np.float64)
                known = np.flatnonzero(np.isfinite(values) & (np.abs(values) < 5e10))
                dates = values[known].astype("datetime64[s]").astype("datetime64[D]")
                months = dates.astype("datetime64[M]").astype(np.int64) % 12 + 1
                of_month = (dates - dates.astype("datetime64[M]")).astype(np.int64) + 1
                here = np.isin(months * 100 + of_month, [month * 100 + number for month, number in days])
                found += np.array(chunk.entity_ids, np.int64)[known[here]].tolist()
        return np.unique(np.array(found, np.int64))

    async def audience(self, name: str, field: str) -> audiences.GetAudienceResponse:
        """A named audience."""
        with blaming(field):
            answer: audiences.GetAudienceResponse = await self._audiences.GetAudience(audiences.GetAudienceRequest(name=name))
        return answer

    async def count(self, predicate: str, field: str) -> int:
        """How many persons a predicate holds for."""
        with blaming(field):
            request = pb.CountAudienceRequest(entity_kind=ENTITY_KIND_PERSON, predicate=predicate)
            return int((await self._tags.CountAudience(request)).count)


def _and(predicate: str, more: str | None) -> str:
    return f"({predicate}) AND ({more})" if more else predicate


class Questions:
    """Answers the steps that ask: conditions and zones by tags, experiments by the laboratory."""

    def __init__(self, database: Database, tags: PersonTags, laboratory: Laboratory, zone_tag: str) -> None:
        self._database, self._tags, self._laboratory, self._zone_tag = database, tags, laboratory, zone_tag

    async def answers(self, node: Node, people: People, now: datetime) -> Answers:
        """One answer for everybody who stands at the step."""
        field = f"steps[{node.number}]"
        if node.kind is Kind.AB:
            return await self._variants(node, people)
        if node.kind is not Kind.CONDITION:
            names = await self._zones_of(people.present, field)
            zones = {name: zone for name in set(names) if (zone := zone_of(name)) is not None}
            place = {name: number for number, name in enumerate(zones)}
            return Answers(np.array([place.get(name, -1) for name in names], np.int64), tuple(zones.values()))
        async with self._database.read() as uow:
            off = await ExperimentStore(uow).without_personalisation(people.present.tolist(), now)
        predicate = node.stated.condition.holds if node.stated.condition else ""
        holds = await self._tags.among(predicate, people.present, field)
        # Whoever has switched personalisation off is treated as if nothing was known of her.
        return Answers((holds & ~np.isin(people.present, [*off])).astype(np.int64))

    async def _zones_of(self, persons: Ints, field: str) -> list[str]:
        """IANA names; a house whose tags say nothing of zones has one for all."""
        try:
            return await self._tags.words(self._zone_tag, persons, field)
        except InvalidArgument as error:
            if error.reason != "UNKNOWN_TAG":
                raise
            return [""] * len(persons)

    async def _variants(self, node: Node, people: People) -> Answers:
        stated = node.stated.ab
        names = [name for name in node.ways if name != OUTSIDE]
        if stated is None:
            return Answers(np.full(len(people), -1, np.int64))
        drawn: list[str] = []
        persons: Sequence[int] = people.present.tolist()
        for start in range(0, len(persons), 10_000):
            part = persons[start : start + 10_000]
            drawn += await experiments.assign_variants(self._laboratory, id_of(stated.experiment), part)
        place = {name: number for number, name in enumerate(names)}
        return Answers(np.array([place.get(name, -1) for name in drawn], np.int64))


def today(now: datetime) -> date:
    """The day of a moment, as tags keep days."""
    return now.astimezone(UTC).date()
