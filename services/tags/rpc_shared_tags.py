"""The gRPC door of sharing for recipients."""

# ruff: noqa: N802  (methods bear the names of the contract)

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
from troika.tags.v1 import sharing_service_pb2 as pb
from troika.tags.v1 import tags_service_pb2 as tags_pb
from troika.tags.v1.sharing_service_pb2_grpc import SharedTagsServiceServicer

from chassis.db import Database
from chassis.errors import FailedPrecondition
from chassis.rpc import caller_of
from services.tags.domain.catalogue import Catalogue, TagType
from services.tags.rpc_sharing import micros
from services.tags.sharing import reading, share_store
from services.tags.sharing.keys import SharingKeys
from services.tags.sharing.reading import Chunk, Counted, Reading
from services.tags.sharing.source import IndexSource, SharedColumn

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class SharedTagsRpc(SharedTagsServiceServicer):
    """Hands out what was shared, after the ledger has it."""

    def __init__(self, database: Database, catalogue: Catalogue, source: IndexSource, keys: SharingKeys) -> None:
        self._database, self._catalogue, self._source, self._keys = database, catalogue, source, keys
        # What is decided over millions of rows is held in memory: one at a time.
        self._turn = asyncio.Semaphore(1)

    async def ReadShare(self, request: pb.ReadShareRequest, context: Context) -> AsyncIterator[pb.ReadShareResponse]:
        """The use is committed when the first chunk leaves, and no chunk leaves once the share has ended."""
        async with self._turn:
            begun = await reading.begin(
                self._database, self._catalogue, self._source, self._keys, request.share_id, caller_of(context)
            )
        # Beside the table: who replaces the newest entry there does not replace this line.
        log.info("data used", extra={"number": begun.head.number, "hash": begun.head.hash.hex()})
        answer = pb.ReadShareResponse(receipt=_receipt(begun), counts=map(_counts, begun.counts))
        chunks = begun.chunks()
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            _fill(answer, begun, chunk)
            await self._require_open(request.share_id)
            yield answer
            answer = pb.ReadShareResponse()
        if answer.HasField("receipt"):
            await self._require_open(request.share_id)
            yield answer

    async def _require_open(self, share_id: int) -> None:
        if not await share_store.is_open(self._database, share_id):
            raise FailedPrecondition("this share has ended meanwhile", reason="SHARE_ENDED", field="share_id")


def _receipt(begun: Reading) -> pb.UseReceipt:
    use = begun.use
    return pb.UseReceipt(
        number=use.number,
        hash=begun.head.hash,
        used_at=micros(use.used_at_us),
        tags=use.tags,
        persons=use.persons,
    )


def _fill(answer: pb.ReadShareResponse, begun: Reading, chunk: Chunk) -> None:
    answer.pseudonyms.extend(chunk.pseudonyms)
    for column, values in zip(begun.columns, chunk.values, strict=True):
        answer.columns.append(_column(replace(column, values=values)))


def _column(column: SharedColumn) -> tags_pb.TagColumn:
    """Only words that occur in these rows travel with them."""
    if column.words is None:
        return tags_pb.TagColumn(numbers=column.values.tolist())
    codes = column.values.astype(np.int64)
    present = np.unique(codes[codes >= 0])
    local = np.where(codes >= 0, np.searchsorted(present, codes), -1)
    return tags_pb.TagColumn(word_indexes=local.tolist(), words=[column.words[code] for code in present.tolist()])


def _counts(counted: Counted) -> pb.TagCounts:
    answer = pb.TagCounts(incomplete=counted.incomplete)
    column = counted.column
    for value, persons in counted.values:
        line = answer.values.add(persons=persons)
        if column.words is not None:
            if value >= 0:
                line.word = column.words[int(value)]
        elif not np.isnan(value):
            if column.type is TagType.BOOLEAN:
                line.boolean = bool(value)
            else:
                line.number = value
    return answer
