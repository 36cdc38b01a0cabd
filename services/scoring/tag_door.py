"""What scoring asks of tags, over gRPC: who is meant by a predicate, and the values of tags as columns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import grpc
import numpy as np
from troika.identity.v1.events_pb2 import ENTITY_KIND_PERSON
from troika.tags.v1 import tags_service_pb2 as pb
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceStub

from chassis.errors import InvalidArgument
from chassis.rpc import reason_of
from services.scoring.frame import Column, Frame, Ids, Numbers, Words, joined

# Online work gives up soon and is retried by the bus; a training may wait for a long stream.
ONLINE_TIMEOUT_S = 5.0
STREAM_TIMEOUT_S = 600.0
MAX_IDS = 100_000


class TagDoor:
    """Questions to the tags service about persons."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = TagsServiceStub(channel)

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

    async def expressions(self) -> dict[str, str]:
        """Business tags of persons by name (lower case), each with the expression that defines it."""
        found: dict[str, str] = {}
        token = ""
        while True:
            page = await self._stub.ListTags(pb.ListTagsRequest(page_size=1000, page_token=token), timeout=ONLINE_TIMEOUT_S)
            business = (t for t in page.tags if t.entity_kind == ENTITY_KIND_PERSON and t.expression and not t.from_events)
            found |= {tag.name.lower(): tag.expression for tag in business}
            token = page.next_page_token
            if not token:
                return found

    async def audience(self, predicate: str) -> Ids:
        """The persons of a predicate, ascending."""
        request = pb.StreamAudienceRequest(entity_kind=ENTITY_KIND_PERSON, predicate=predicate)
        stream = self._stub.StreamAudience(request, timeout=STREAM_TIMEOUT_S)
        chunks = [np.array(chunk.entity_ids, np.int64) async for chunk in stream]
        return np.concatenate(chunks) if chunks else np.empty(0, np.int64)

    async def values(self, predicate: str, tags: Sequence[str]) -> AsyncIterator[Frame]:
        """Tag values of the persons of a predicate (empty: all), in chunks of at most 10,000."""
        request = pb.StreamTagValuesRequest(entity_kind=ENTITY_KIND_PERSON, predicate=predicate, tags=tags)
        async for chunk in self._stub.StreamTagValues(request, timeout=STREAM_TIMEOUT_S):
            yield _frame(chunk, tags)

    async def values_of(self, person_ids: Sequence[int], tags: Sequence[str]) -> Frame:
        """Present tag values of these persons, one call for each 100,000."""
        frames = []
        for start in range(0, len(person_ids), MAX_IDS):
            request = pb.StreamTagValuesRequest(
                entity_kind=ENTITY_KIND_PERSON, entity_ids=person_ids[start : start + MAX_IDS], tags=tags
            )
            stream = self._stub.StreamTagValues(request, timeout=ONLINE_TIMEOUT_S)
            frames += [_frame(chunk, tags) async for chunk in stream]
        return joined(frames)


def _frame(chunk: pb.StreamTagValuesResponse, tags: Sequence[str]) -> Frame:
    columns = {tag: _column(column) for tag, column in zip(tags, chunk.columns, strict=True)}
    return Frame(np.array(chunk.entity_ids, np.int64), columns)


def _column(column: pb.TagColumn) -> Column:
    if column.numbers:
        return Numbers(np.array(column.numbers, np.float64))
    return Words(np.array(column.word_indexes, np.int32), tuple(column.words))
