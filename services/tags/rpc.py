"""The gRPC door: questions about tags and audiences."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import grpc
import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap
from troika.tags.v1 import tags_service_pb2 as pb
from troika.tags.v1.events_pb2 import WordSet
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceServicer

from chassis import paging
from chassis.db import Database
from chassis.errors import InvalidArgument, NotFound
from services.tags import events, profile
from services.tags.domain.catalogue import Kind, TagType
from services.tags.domain.language import LanguageError
from services.tags.domain.predicates import parse_predicate
from services.tags.domain.terms import Term, tags_of
from services.tags.handlers import TagRules
from services.tags.index.algebra import audience, count
from services.tags.index.columns import CategoryColumn, SetColumn, TextColumn
from services.tags.index.describe import describe
from services.tags.index.projection import Projection

CHUNK: Final = 10_000
REMEMBERED: Final = 1_000
MAX_ID: Final = 2**32 - 1  # what a bitmap can address
_TYPES: Final = {
    TagType.NUMBER: pb.TAG_TYPE_NUMBER,
    TagType.CATEGORY: pb.TAG_TYPE_CATEGORY,
    TagType.BOOLEAN: pb.TAG_TYPE_BOOLEAN,
    TagType.TIME: pb.TAG_TYPE_TIME,
    TagType.SET: pb.TAG_TYPE_SET,
    TagType.TEXT: pb.TAG_TYPE_TEXT,
}
Context = grpc.aio.ServicerContext[Any, Any]


class TagsRpc(TagsServiceServicer):
    """Converts and asks; the index answers, profiles come from the database."""

    def __init__(self, rules: TagRules, projection: Projection, database: Database) -> None:
        self._rules, self._projection, self._database = rules, projection, database
        self._catalogue = rules.catalogue
        self._terms: OrderedDict[tuple[Kind, str], Term] = OrderedDict()

    async def ListTags(self, request: pb.ListTagsRequest, context: Context) -> pb.ListTagsResponse:  # noqa: N802
        """The catalogue by kind and name."""
        ordered = sorted(self._catalogue.definitions, key=lambda d: (d.kind, d.name))
        (start,) = paging.read("tags", request.page_token, (0,))
        size = paging.size(request.page_size, 100, 1000)
        answer = pb.ListTagsResponse(next_page_token=paging.token("tags", start + size) if start + size < len(ordered) else "")
        for definition in ordered[start : start + size]:
            answer.tags.add(
                name=definition.name,
                entity_kind=definition.kind,
                type=_TYPES[definition.type],
                description=definition.description,
                expression=definition.expression,
            )
        return answer

    async def GetProfile(self, request: pb.GetProfileRequest, context: Context) -> pb.GetProfileResponse:  # noqa: N802
        """Everything that is known of one entity, from the database."""
        async with self._database.read() as uow:
            found = await profile.load(uow, self._rules, Kind(request.entity_kind), request.entity_id)
        if found is None:
            raise NotFound("no such entity", field="entity_id")
        ends = {(pair.subject_kind, pair.subject_id) for pair in found.relations}
        ends |= {(pair.object_kind, pair.object_id) for pair in found.relations}
        other = Kind.VEHICLE if Kind(request.entity_kind) is Kind.PERSON else Kind.PERSON
        answer = pb.GetProfileResponse(related_ids=sorted(id_ for kind, id_ in ends if kind == other))
        for tag in found.tags:
            line = answer.tags.add(
                tag=tag.name, value=events.to_value(tag.value), anchor_ids=tag.anchor_ids, expression=tag.expression
            )
            if tag.occurred_at_us is not None:
                line.occurred_at.FromMicroseconds(tag.occurred_at_us)
        return answer

    async def CountAudience(self, request: pb.CountAudienceRequest, context: Context) -> pb.CountAudienceResponse:  # noqa: N802
        """Exact count, from the index."""
        kind = Kind(request.entity_kind)
        term = self._term(kind, request.predicate, "predicate")
        await self._projection.check()
        index = self._projection.index
        return pb.CountAudienceResponse(count=count(index, kind, term, time.time()), base=len(index.present[kind]))

    async def StreamAudience(  # noqa: N802
        self, request: pb.StreamAudienceRequest, context: Context
    ) -> AsyncIterator[pb.StreamAudienceResponse]:
        """Ids as they were when the call began."""
        members = await self._audience(Kind(request.entity_kind), request.predicate, "predicate")
        for ids in _chunks(_ids(members)):
            yield pb.StreamAudienceResponse(entity_ids=ids.tolist())

    async def StreamTagValues(  # noqa: N802
        self, request: pb.StreamTagValuesRequest, context: Context
    ) -> AsyncIterator[pb.StreamTagValuesResponse]:
        """Columns, chunk by chunk; each chunk is as of the moment it is sent."""
        kind = Kind(request.entity_kind)
        columns = self._projection.index.columns(kind)
        for position, tag in enumerate(request.tags):
            if isinstance(columns.get(tag), TextColumn | None):
                raise InvalidArgument("no such tag, or a text", reason="UNKNOWN_TAG", field=f"tags[{position}]")
        if request.entity_ids:
            await self._projection.check()
            ids = np.array(request.entity_ids, np.int64)
            if ids.min() <= 0 or ids.max() > MAX_ID:
                raise InvalidArgument("ids are from 1 to 4,294,967,295", field="entity_ids")
        else:
            ids = _ids(await self._audience(kind, request.predicate, "predicate"))
        for chunk in _chunks(ids):
            answer = pb.StreamTagValuesResponse(entity_ids=chunk.tolist())
            for tag in request.tags:
                column = columns[tag]
                if isinstance(column, CategoryColumn):
                    indexes, words = column.take(chunk)
                    answer.columns.add(word_indexes=indexes, words=words)
                elif isinstance(column, SetColumn):
                    answer.columns.add(sets=[WordSet(words=each or ()) for each in column.take(chunk)])
                elif not isinstance(column, TextColumn):
                    answer.columns.add(numbers=column.take(chunk).tolist())
            yield answer

    async def DescribeAudience(  # noqa: N802
        self, request: pb.DescribeAudienceRequest, context: Context
    ) -> pb.DescribeAudienceResponse:
        """Over-represented values of all tags that neither predicate names."""
        kind = Kind(request.entity_kind)
        members = await self._audience(kind, request.predicate, "predicate")
        base = await self._audience(kind, request.base_predicate, "base_predicate")
        naming = tags_of(self._term(kind, request.predicate, "predicate"))
        naming |= tags_of(self._term(kind, request.base_predicate, "base_predicate"))
        answer = pb.DescribeAudienceResponse(audience=len(members), base=len(base))
        for term in describe(self._projection.index, kind, members, base, naming).terms[: request.limit or 50]:
            answer.terms.add(
                tag=term.tag,
                predicate=term.predicate,
                audience_count=term.audience_count,
                base_count=term.base_count,
                lift=term.lift,
                z_score=term.z_score,
            )
        return answer

    async def _audience(self, kind: Kind, predicate: str, field: str) -> BitMap:
        term = self._term(kind, predicate, field)
        await self._projection.check()
        return audience(self._projection.index, kind, term, time.time())

    def _term(self, kind: Kind, predicate: str, field: str) -> Term:
        """A parsed predicate; the most recently used ones are remembered."""
        key = (kind, predicate)
        term = self._terms.pop(key, None)
        if term is None:
            try:
                term = parse_predicate(predicate, kind, self._catalogue)
            except LanguageError as error:
                raise InvalidArgument(str(error), reason=error.reason, field=field) from None
            if len(self._terms) >= REMEMBERED:
                self._terms.popitem(last=False)
        self._terms[key] = term
        return term


def _ids(members: BitMap) -> NDArray[np.int64]:
    return np.asarray(members.to_array(), np.int64)


def _chunks(ids: NDArray[np.int64]) -> Iterable[NDArray[np.int64]]:
    return (ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK))
