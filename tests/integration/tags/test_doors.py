"""The gRPC door in this process: pages, and a typed answer to every wrong question."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import grpc
import pytest
from troika.identity.v1 import events_pb2 as identity
from troika.tags.v1 import tags_service_pb2 as pb
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceStub, add_TagsServiceServicer_to_server

from chassis import rpc
from chassis.bus import Bus
from chassis.db import Database
from services.tags import events
from services.tags.index.index import AudienceIndex
from services.tags.index.projection import Projection
from services.tags.rpc import TagsRpc
from services.tags.settings import Settings
from tests.integration.tags.world import RULES

PERSON, VEHICLE = identity.ENTITY_KIND_PERSON, identity.ENTITY_KIND_VEHICLE
TOKEN = "t" * 16


@pytest.fixture
async def projection(database: Database, bus: Bus) -> Projection:
    await bus.declare(*events.STREAMS)
    return Projection(AudienceIndex(RULES.catalogue), database, bus)


@pytest.fixture
async def stub(database: Database, projection: Projection) -> AsyncIterator[TagsServiceStub]:
    hashes = {"operator": hashlib.sha256(TOKEN.encode()).hexdigest()}
    server = rpc.Server(hashes, {Settings.rpc_service: frozenset({"operator"})}, with_reflection=False)
    add_TagsServiceServicer_to_server(TagsRpc(RULES, projection, database), server.aio)
    port = await server.start("127.0.0.1:0")
    channel = rpc.connect(f"127.0.0.1:{port}", "operator", TOKEN)
    yield TagsServiceStub(channel)
    await channel.close()
    await server.stop(0)


async def run_until_ready(projection: Projection) -> asyncio.Task[None]:
    task = asyncio.create_task(projection.run())
    async with asyncio.timeout(10):
        while True:
            try:
                await projection.check()
                return task
            except Exception:
                await asyncio.sleep(0.01)


async def test_no_count_is_given_before_the_index_has_caught_up(stub: TagsServiceStub, projection: Projection) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CountAudience(pb.CountAudienceRequest(entity_kind=PERSON), timeout=5)
    assert ("INDEX_BOOTING", "") == rpc.reason_of(caught.value)


async def test_wrong_questions_get_typed_answers(stub: TagsServiceStub, projection: Projection) -> None:
    task = await run_until_ready(projection)
    wrong = [
        (stub.CountAudience(pb.CountAudienceRequest(entity_kind=PERSON, predicate="agee = 1")), "UNKNOWN_TAG", "predicate"),
        (
            stub.DescribeAudience(
                pb.DescribeAudienceRequest(entity_kind=PERSON, predicate="has_app", base_predicate="age = 'x'")
            ),
            "TYPE_MISMATCH",
            "base_predicate",
        ),
        (stub.ListTags(pb.ListTagsRequest(page_token="x")), "INVALID_PAGE_TOKEN", "page_token"),
        (stub.GetProfile(pb.GetProfileRequest(entity_kind=PERSON, entity_id=1)), "NOT_FOUND", "entity_id"),
        (stub.CountAudience(pb.CountAudienceRequest()), "INVALID_ARGUMENT", "entity_kind"),
        (_first(stub.StreamTagValues(_values(["agee"]))), "UNKNOWN_TAG", "tags[0]"),
        (_first(stub.StreamTagValues(_values(["age"], [2**40]))), "INVALID_ARGUMENT", "entity_ids"),
        (_first(stub.StreamAudience(_audience("age >"))), "SYNTAX", "predicate"),
    ]
    for call, reason, field in wrong:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert (reason, field) == rpc.reason_of(caught.value)
    task.cancel()


def _audience(predicate: str) -> pb.StreamAudienceRequest:
    return pb.StreamAudienceRequest(entity_kind=PERSON, predicate=predicate)


def _values(tags: list[str], ids: list[int] | None = None) -> pb.StreamTagValuesRequest:
    return pb.StreamTagValuesRequest(entity_kind=PERSON, entity_ids=ids, tags=tags)


async def _first(call: AsyncIterator[object]) -> object:
    return await anext(aiter(call))


async def test_the_catalogue_comes_in_pages(stub: TagsServiceStub) -> None:
    names, token = [], ""
    while True:
        page = await stub.ListTags(pb.ListTagsRequest(page_size=7, page_token=token))
        names += [(tag.entity_kind, tag.name) for tag in page.tags]
        token = page.next_page_token
        if not token:
            break
    assert sorted(names) == names
    assert {(PERSON, "lead_score"), (VEHICLE, "mileage_km")} <= set(names)
