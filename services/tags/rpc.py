"""The gRPC door: questions about tags and audiences."""

# ruff: noqa: N802  (methods bear the names of the contract)

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import grpc
import numpy as np
from numpy.typing import NDArray
from troika.tags.v1 import tags_service_pb2 as pb
from troika.tags.v1.events_pb2 import WordSet
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceServicer

from chassis import paging
from chassis.db import Database
from chassis.errors import InvalidArgument, NotFound
from services.tags import answers, events
from services.tags.audiences.insights import Insight
from services.tags.audiences.portraits import portrait
from services.tags.domain.catalogue import FromEvents, FromScore, Kind, Sensitivity
from services.tags.domain.terms import Constant, tags_of
from services.tags.handlers import TagRules
from services.tags.index.columns import CategoryColumn, Column, SetColumn, TextColumn
from services.tags.index.describe import Description
from services.tags.index.projection import Projection
from services.tags.lake.reading import Lake
from services.tags.past import Past
from services.tags.profiles import lineage, loading
from services.tags.questions import Questions, ids_in

CHUNK: Final = 10_000
# Of 4 bytes each: far below what a message may hold, and large enough that messages cost nothing.
PACKED_CHUNK: Final = 250_000
MAX_ID: Final = 2**32 - 1  # what a bitmap can address
TERMS: Final = 50
FALSE_DISCOVERIES: Final = 0.01
Context = grpc.aio.ServicerContext[Any, Any]


class TagsRpc(TagsServiceServicer):
    """Converts and asks; the index answers, profiles come from the database, their events from the lake."""

    def __init__(
        self, rules: TagRules, projection: Projection, database: Database, lake: Lake | None = None, lake_memory_mb: int = 512
    ) -> None:
        self._past = Past(database, lake, rules.catalogue, lake_memory_mb)
        self._rules, self._projection, self._database, self._lake = rules, projection, database, lake
        self._catalogue = rules.catalogue
        self._questions = Questions(rules.catalogue, projection)

    async def ListTags(self, request: pb.ListTagsRequest, context: Context) -> pb.ListTagsResponse:
        """The catalogue by kind and name."""
        ordered = sorted(self._catalogue.definitions, key=lambda d: (d.kind, d.name))
        (start,) = paging.read("tags", request.page_token, (0,))
        size = paging.size(request.page_size, 100, 1000)
        answer = pb.ListTagsResponse(next_page_token=paging.token("tags", start + size) if start + size < len(ordered) else "")
        for definition in ordered[start : start + size]:
            answer.tags.add(
                name=definition.name,
                entity_kind=definition.kind,
                type=answers.TYPES[definition.type],
                description=definition.description,
                expression=definition.expression,
                from_events=isinstance(definition.origin, FromEvents),
                sensitive=definition.sensitivity is Sensitivity.SENSITIVE,
                score_model=definition.origin.model if isinstance(definition.origin, FromScore) else "",
                title=definition.title,
                sensitivity=definition.sensitivity.value,
            )
        return answer

    async def GetProfile(self, request: pb.GetProfileRequest, context: Context) -> pb.GetProfileResponse:
        """Everything that is known of one entity: from the database, and what is asked of its events from the lake."""
        kind = Kind(request.entity_kind)
        if request.tag and request.tag not in self._catalogue.of(kind):
            raise InvalidArgument("no such tag", reason="UNKNOWN_TAG", field="tag")
        async with self._database.read() as uow:
            found = await loading.load(uow, self._rules, kind, request.entity_id, request.tag)
        if found is None:
            raise NotFound("no such entity", field="entity_id")
        looked = max(request.timeline_size, lineage.LOOKED_AT if request.with_lineage else 0)
        newest = await lineage.newest(self._lake, kind, found.anchor_ids, looked) if self._lake else []
        behind = lineage.lineages(self._rules.facts, kind, newest, time.time_ns() // 1000) if request.with_lineage else {}
        answer = answers.profile(kind, found, behind)
        answer.has_lake = self._lake is not None
        answer.timeline.extend(answers.event(each) for each in newest[: request.timeline_size])
        return answer

    async def CountAudience(self, request: pb.CountAudienceRequest, context: Context) -> pb.CountAudienceResponse:
        """Exact count, from the index or, of the past, from the lake."""
        kind = Kind(request.entity_kind)
        if request.HasField("as_of"):
            term = self._questions.term(kind, request.predicate, "predicate")
            ids = await self._past.ids(kind, term, request.as_of)
            everybody = await self._past.ids(kind, Constant(True), request.as_of)
            return pb.CountAudienceResponse(count=len(ids), base=len(everybody))
        count = await self._questions.count(kind, request.predicate, "predicate")
        return pb.CountAudienceResponse(count=count, base=len(self._projection.index.present[kind]))

    async def StreamAudience(
        self, request: pb.StreamAudienceRequest, context: Context
    ) -> AsyncIterator[pb.StreamAudienceResponse]:
        """Ids as they were when the call began."""
        kind = Kind(request.entity_kind)
        among = hashlib.sha256(request.among).hexdigest() if request.among else ""
        listing = f"audience {int(kind)} {request.as_of.seconds}.{request.as_of.nanos} {among} {request.predicate}"
        (after,) = paging.read(listing, request.page_token, (0,))
        if request.HasField("as_of"):
            term = self._questions.term(kind, request.predicate, "predicate")
            ids = await self._past.ids(kind, term, request.as_of)
        else:
            ids = ids_in(await self._questions.members(kind, request.predicate, "predicate"))
        if request.among:
            if len(request.among) % 4:
                raise InvalidArgument("ids have 4 bytes each", field="among")
            ids = np.intersect1d(ids, np.frombuffer(request.among, "<u4"))
        ids = ids[np.searchsorted(ids, after, "right") :] if after else ids
        page = ids[: request.page_size] if request.page_size else ids
        token = paging.token(listing, int(page[-1])) if len(page) < len(ids) else ""
        size = PACKED_CHUNK if request.packed else CHUNK
        for start in range(0, max(len(page), 1), size):
            chunk = page[start : start + size]
            last = token if start + size >= len(page) else ""
            if request.packed:
                yield pb.StreamAudienceResponse(packed_ids=events.packed(chunk), next_page_token=last)
            elif len(chunk):
                yield pb.StreamAudienceResponse(entity_ids=chunk.tolist(), next_page_token=last)

    async def StreamTagValues(
        self, request: pb.StreamTagValuesRequest, context: Context
    ) -> AsyncIterator[pb.StreamTagValuesResponse]:
        """Columns, chunk by chunk; each chunk is as of the moment it is sent."""
        kind = Kind(request.entity_kind)
        columns = dict(self._projection.index.columns(kind))
        for position, tag in enumerate(request.tags):
            if isinstance(columns.get(tag), TextColumn | None):
                raise InvalidArgument("no such tag, or a text", reason="UNKNOWN_TAG", field=f"tags[{position}]")
        if request.HasField("as_of"):
            term = self._questions.term(kind, request.predicate, "predicate")
            for answer in await self._past.values(kind, term, request.entity_ids, request.tags, request.as_of):
                yield answer
            return
        if request.entity_ids:
            await self._projection.check()
            ids = np.array(request.entity_ids, np.int64)
            if ids.min() <= 0 or ids.max() > MAX_ID:
                raise InvalidArgument("ids are from 1 to 4,294,967,295", field="entity_ids")
        else:
            ids = ids_in(await self._questions.members(kind, request.predicate, "predicate")).astype(np.int64)
        for start in range(0, len(ids), CHUNK):
            yield _values(ids[start : start + CHUNK], [columns[tag] for tag in request.tags])

    async def DescribeAudience(self, request: pb.DescribeAudienceRequest, context: Context) -> pb.DescribeAudienceResponse:
        """Over-represented values of all tags that neither predicate names, and what else is asked for."""
        kind, rate = Kind(request.entity_kind), request.false_discovery_rate or FALSE_DISCOVERIES
        self._questions.check_tags(kind, request.distribution_tags, "distribution_tags")
        asked = [(text, f"overlap_predicates[{place}]") for place, text in enumerate(request.overlap_predicates)]
        for text, field in asked:
            self._questions.term(kind, text, field)
        members = await self._questions.members(kind, request.predicate, "predicate")
        base = await self._questions.members(kind, request.base_predicate, "base_predicate")
        naming = tags_of(self._questions.term(kind, request.predicate, "predicate"))
        naming |= tags_of(self._questions.term(kind, request.base_predicate, "base_predicate"))
        insight = Insight(self._projection.index, kind, members, base)
        described = Description((), 0) if request.without_terms else await insight.description(naming)
        answer = pb.DescribeAudienceResponse(audience=len(members), base=len(base), compared=described.compared)
        answer.terms.extend(
            answers.described(self._catalogue, kind, term, rate) for term in described.terms[: request.limit or TERMS]
        )
        for text, field in asked:
            other = await self._questions.members(kind, text, field)
            answer.overlaps.append(answers.overlap(insight.overlap(text, other)))
        if request.overlap_all_tags:
            answer.tag_overlaps.extend(map(answers.overlap, await insight.overlaps()))
        answer.distributions.extend(
            answers.distribution(self._catalogue, kind, each) for each in await insight.distributions(request.distribution_tags)
        )
        sizes = len(members), len(base)
        lines = portrait(
            self._catalogue, kind, described.terms, sizes, rate, lambda text: self._questions.term(kind, text, "predicate")
        )
        answer.portrait.extend(pb.PortraitLine(**line._asdict()) for line in lines)
        return answer


def _values(ids: NDArray[np.int64], columns: Sequence[Column]) -> pb.StreamTagValuesResponse:
    answer = pb.StreamTagValuesResponse(entity_ids=ids.tolist())
    for column in columns:
        if isinstance(column, CategoryColumn):
            indexes, words = column.take(ids)
            answer.columns.add(word_indexes=indexes, words=words)
        elif isinstance(column, SetColumn):
            answer.columns.add(sets=[WordSet(words=each or ()) for each in column.take(ids)])
        elif not isinstance(column, TextColumn):
            answer.columns.add(numbers=column.take(ids).tolist())
    return answer
