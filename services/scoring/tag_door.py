"""What scoring asks of tags, over gRPC: which tags there are, who is meant by a predicate, and the values of tags as columns.

A time is read as days before the moment of the question: that is what a model can learn from.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import NamedTuple

import grpc
import numpy as np
from troika.identity.v1.events_pb2 import ENTITY_KIND_PERSON
from troika.tags.v1 import tags_service_pb2 as pb
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceStub

from chassis.errors import InvalidArgument
from chassis.rpc import reason_of
from services.scoring.frame import Column, Frame, Ids, Numbers, Words, joined
from services.scoring.lookalike.choosing import TagTerm

# Online work gives up soon and is retried by the bus; a training may wait for a long stream.
ONLINE_TIMEOUT_S = 5.0
STREAM_TIMEOUT_S = 600.0
DESCRIBE_TIMEOUT_S = 30.0
MOST_TERMS = 1000
MAX_IDS = 100_000
# New tags come a few times a day; a stale list only lets a new tag be found so much later.
KEEP_CATALOGUE_S = 60.0
DAY_S = 86_400.0
_LEARNABLE = (pb.TAG_TYPE_NUMBER, pb.TAG_TYPE_CATEGORY, pb.TAG_TYPE_BOOLEAN, pb.TAG_TYPE_TIME)


class PersonTag(NamedTuple):
    """A tag of persons as far as models need to know it."""

    name: str
    type: int
    # What a business tag follows from; empty for all others.
    expression: str
    from_events: bool
    sensitive: bool
    score_model: str
    title: str = ""
    description: str = ""
    # public, internal, personal or sensitive.
    sensitivity: str = ""
    # What it takes from events; empty for all others.
    aggregate: str = ""

    @property
    def learnable(self) -> bool:
        """Whether a model may read it at all: of a type that is a number or a word, not sensitive, not a score itself."""
        return self.type in _LEARNABLE and not self.sensitive and not self.score_model


class TagDoor:
    """Questions to the tags service about persons."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = TagsServiceStub(channel)
        self._catalogue: dict[str, PersonTag] = {}
        self._read_at = -KEEP_CATALOGUE_S

    async def count(self, predicate: str, field: str) -> tuple[int, int]:
        """(persons of the predicate, all persons); raises InvalidArgument naming `field` when the predicate is wrong."""
        try:
            answer = await self._stub.CountAudience(
                pb.CountAudienceRequest(entity_kind=ENTITY_KIND_PERSON, predicate=predicate), timeout=ONLINE_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                raise
            reason, _ = reason_of(error)
            raise InvalidArgument(error.details() or "not a predicate", reason=reason or None, field=field) from error
        return answer.count, answer.base

    async def catalogue(self, *, fresh: bool = False) -> dict[str, PersonTag]:
        """Tags of persons by name, at most a minute old."""
        if not fresh and time.monotonic() - self._read_at < KEEP_CATALOGUE_S:
            return self._catalogue
        found: dict[str, PersonTag] = {}
        token = ""
        while True:
            page = await self._stub.ListTags(pb.ListTagsRequest(page_size=1000, page_token=token), timeout=ONLINE_TIMEOUT_S)
            for tag in page.tags:
                if tag.entity_kind == ENTITY_KIND_PERSON:
                    found[tag.name] = _person_tag(tag)
            token = page.next_page_token
            if not token:
                self._catalogue, self._read_at = found, time.monotonic()
                return found

    async def expressions(self) -> dict[str, str]:
        """Business tags of persons by name (lower case), each with the expression that defines it."""
        return {name.lower(): tag.expression for name, tag in (await self.catalogue()).items() if tag.expression}

    async def times(self, tags: Sequence[str]) -> frozenset[str]:
        """Those of some tags whose values are times."""
        known = await self.catalogue()
        return frozenset(tag for tag in tags if tag in known and known[tag].type == pb.TAG_TYPE_TIME)

    async def audience(self, predicate: str, as_of: datetime | None = None) -> Ids:
        """The persons of a predicate, ascending; now, or as of a moment of the past."""
        request = pb.StreamAudienceRequest(entity_kind=ENTITY_KIND_PERSON, predicate=predicate, packed=as_of is None)
        if as_of is not None:
            request.as_of.FromDatetime(as_of)
        parts: list[Ids] = []
        async for chunk in self._stub.StreamAudience(request, timeout=STREAM_TIMEOUT_S):
            parts += [np.frombuffer(chunk.packed_ids, "<u4").astype(np.int64), np.array(chunk.entity_ids, np.int64)]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    async def described(self, predicate: str, among: str) -> list[TagTerm]:
        """What the persons of a predicate have more or less often than others `among` (empty: all)."""
        answer = await self._stub.DescribeAudience(
            pb.DescribeAudienceRequest(
                entity_kind=ENTITY_KIND_PERSON, predicate=predicate, base_predicate=among, limit=MOST_TERMS
            ),
            timeout=DESCRIBE_TIMEOUT_S,
        )
        audience = max(answer.audience, 1)
        return [TagTerm(term.tag, term.audience_count / audience, term.lift, term.significant) for term in answer.terms]

    async def values(self, predicate: str, tags: Sequence[str], at: datetime, *, past: bool = False) -> AsyncIterator[Frame]:
        """Tag values of the persons of a predicate (empty: all), ascending, in chunks of at most 10,000.

        Times count back from `at`; with `past`, all is as it was then.
        """
        request = pb.StreamTagValuesRequest(entity_kind=ENTITY_KIND_PERSON, predicate=predicate, tags=tags)
        if past:
            request.as_of.FromDatetime(at)
        times = await self.times(tags)
        async for chunk in self._stub.StreamTagValues(request, timeout=STREAM_TIMEOUT_S):
            yield _frame(chunk, tags, times, at.timestamp())

    async def values_of(self, person_ids: Sequence[int], tags: Sequence[str], at: datetime) -> Frame:
        """Present tag values of these persons, one call for each 100,000; times count back from `at`."""
        frames, times = [], await self.times(tags)
        for start in range(0, len(person_ids), MAX_IDS):
            request = pb.StreamTagValuesRequest(
                entity_kind=ENTITY_KIND_PERSON, entity_ids=person_ids[start : start + MAX_IDS], tags=tags
            )
            stream = self._stub.StreamTagValues(request, timeout=ONLINE_TIMEOUT_S)
            frames += [_frame(chunk, tags, times, at.timestamp()) async for chunk in stream]
        return joined(frames)


def _person_tag(tag: pb.Tag) -> PersonTag:
    return PersonTag(
        tag.name,
        tag.type,
        "" if tag.from_events else tag.expression,
        tag.from_events,
        tag.sensitive,
        tag.score_model,
        tag.title,
        tag.description,
        tag.sensitivity,
        tag.expression if tag.from_events else "",
    )


def days_before(at_s: float, moments: np.ndarray | float) -> np.ndarray:
    """How many days before `at_s` something happened; both in seconds since the epoch."""
    return (at_s - np.asarray(moments, np.float64)) / DAY_S


def _frame(chunk: pb.StreamTagValuesResponse, tags: Sequence[str], times: frozenset[str], at_s: float) -> Frame:
    columns = {tag: _column(column) for tag, column in zip(tags, chunk.columns, strict=True)}
    for tag in times:
        if isinstance(column := columns[tag], Numbers):
            columns[tag] = Numbers(days_before(at_s, column.values))
    return Frame(np.array(chunk.entity_ids, np.int64), columns)


def _column(column: pb.TagColumn) -> Column:
    if column.numbers:
        return Numbers(np.array(column.numbers, np.float64))
    return Words(np.array(column.word_indexes, np.int32), tuple(column.words))
