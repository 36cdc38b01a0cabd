"""Questions about the past, answered from the event lake instead of the index."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray
from troika.tags.v1 import tags_service_pb2 as pb
from troika.tags.v1.events_pb2 import WordSet

from chassis.db import Database
from chassis.errors import FailedPrecondition, InvalidArgument, Unavailable
from services.tags.domain.catalogue import Catalogue, Kind, TagType
from services.tags.domain.terms import Term
from services.tags.lake.reading import Lake

if TYPE_CHECKING:
    from services.tags.lake.asof import AsOf

CHUNK: Final = 10_000


class Past:
    """Tags and audiences as of a moment. `lake`: None where none is kept; questions are then refused."""

    def __init__(self, database: Database, lake: Lake | None, catalogue: Catalogue, memory_mb: int) -> None:
        self._database, self._lake, self._catalogue, self._memory_mb = database, lake, catalogue, memory_mb

    async def ids(self, kind: Kind, term: Term, as_of: Timestamp) -> NDArray[np.uint32]:
        """Who made a predicate true, ascending."""
        return np.asarray(await self._told(self._engine.audience(kind, term, moment(as_of))), np.uint32)

    async def values(
        self, kind: Kind, term: Term, entity_ids: Sequence[int], tags: Sequence[str], as_of: Timestamp
    ) -> Iterator[pb.StreamTagValuesResponse]:
        """Chunks of columns of those who made a predicate true, or of some entities."""
        import pyarrow as pa
        import pyarrow.compute as pc

        table = await self._told(self._engine.tags(kind, moment(as_of), tags, None if entity_ids else term))
        if entity_ids:
            table = table.filter(pc.is_in(table.column("entity_id"), pa.array(entity_ids, pa.int64())))
        types = {tag: self._catalogue.of(kind)[tag].type for tag in tags}
        return (_chunk(table.slice(start, CHUNK), tags, types) for start in range(0, len(table), CHUNK))

    @cached_property
    def _engine(self) -> AsOf:
        # DuckDB takes memory and a moment to start: services that are never asked about the past have none of it.
        from services.tags.lake.asof import AsOf

        if self._lake is None:
            raise FailedPrecondition("no event lake is kept here: set TROIKA_LAKE", reason="NO_LAKE", field="as_of")
        return AsOf(self._database, self._lake, self._catalogue, self._memory_mb)

    @staticmethod
    async def _told(asked: Any) -> Any:
        try:
            return await asked
        except OSError as error:
            raise Unavailable("the event lake does not answer", reason="LAKE_UNAVAILABLE", field="as_of") from error


def moment(as_of: Timestamp) -> int:
    """A moment of the past, microseconds since the epoch."""
    try:
        at_us = as_of.ToMicroseconds()
    except ValueError:
        at_us = 0
    if not 0 < at_us <= time.time_ns() // 1000:
        raise InvalidArgument("as_of is a moment of the past", reason="NOT_IN_THE_PAST", field="as_of")
    return at_us


def _chunk(table: Any, tags: Sequence[str], types: dict[str, TagType]) -> pb.StreamTagValuesResponse:
    answer = pb.StreamTagValuesResponse(entity_ids=table.column("entity_id").to_pylist())
    for tag in tags:
        column = table.column(tag)
        match types[tag]:
            case TagType.CATEGORY:
                encoded = column.combine_chunks().dictionary_encode()
                answer.columns.add(word_indexes=encoded.indices.fill_null(-1).to_pylist(), words=encoded.dictionary.to_pylist())
            case TagType.SET:
                answer.columns.add(sets=[WordSet(words=each or ()) for each in column.to_pylist()])
            case _:
                answer.columns.add(numbers=column.cast("float64").fill_null(float("nan")).to_pylist())
    return answer
