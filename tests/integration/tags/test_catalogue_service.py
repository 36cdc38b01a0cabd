"""The catalogue's door of two running replicas: what one is told, both answer by, without a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from troika.identity.v1 import events_pb2 as identity
from troika.tags.v1 import catalogue_service_pb2 as pb
from troika.tags.v1 import tags_service_pb2 as tags_pb
from troika.tags.v1.catalogue_service_pb2_grpc import CatalogueServiceStub

from chassis import rpc
from chassis.bus import DEAD_LETTERS, Bus, Stream
from chassis.outbox import Outgoing
from chassis.testing import DatabaseFactory, drop_database
from tests.conftest import Servers
from tests.integration.tags.service import TOKEN, Service
from tests.integration.tags.world import event

RESOLVED = "troika.events.resolved.v1"
SUBJECTS = {
    "EVENTS_RESOLVED": RESOLVED,
    "ENTITIES_CHANGED": "troika.entities.changed.v1",
    "SCORES_CHANGED": "troika.scores.changed.v1",
}
PERSON = identity.ENTITY_KIND_PERSON


@dataclass(frozen=True)
class House:
    """Two replicas over one database and one lake, and the bus they hear of the world by."""

    one: Service
    other: Service
    bus: Bus

    @property
    def replicas(self) -> tuple[Service, Service]:
        return self.one, self.other


@pytest.fixture(scope="module")
async def house(servers: Servers, databases: DatabaseFactory, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    bus, folder = Bus(servers.nats_url, "test"), tmp_path_factory.mktemp("house")
    await bus.connect()
    await bus.declare(DEAD_LETTERS, *(Stream(name, (subject,)) for name, subject in SUBJECTS.items()))
    dsn, name = await databases.address("tags")
    house = House(Service.prepared(dsn, servers, folder / "one"), Service.prepared(dsn, servers, folder / "other"), bus)
    for service in house.replicas:
        service.environment["TROIKA_LAKE"] = str(folder / "lake")
    await asyncio.gather(*(service.start() for service in house.replicas))
    try:
        yield house
    finally:
        for service in house.replicas:
            service.kill()
        await drop_database(servers.postgres_dsn, name)
        await bus.delete_streams()
        await bus.close()


def door(service: Service) -> CatalogueServiceStub:
    return CatalogueServiceStub(rpc.connect(f"127.0.0.1:{service.grpc_port}", "operator", TOKEN))


def definition(expression: str, **given: Any) -> pb.TagDefinition:
    return pb.TagDefinition(
        **{
            "name": "opens_often",
            "entity_kind": PERSON,
            "type": tags_pb.TAG_TYPE_BOOLEAN,
            "expression": expression,
            "title": "常开应用",
            "description": "Opens the app often.",
            "words": ["高频", "frequent"],
            **given,
        }
    )


async def happened(bus: Bus, *events: identity.ResolvedEvent) -> None:
    payload = identity.ResolvedBatch(events=events).SerializeToString()
    await bus.publish_all([Outgoing(f"{RESOLVED}{time.time_ns()}", RESOLVED, payload, {})])


async def count(service: Service, predicate: str) -> int:
    request = tags_pb.CountAudienceRequest(entity_kind=PERSON, predicate=predicate)
    stub = service.stub()
    return (await stub.CountAudience(request)).count


async def becomes(expected: int, service: Service, predicate: str) -> None:
    async with asyncio.timeout(15):
        while True:
            try:
                if await count(service, predicate) == expected:
                    return
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                    raise
            await asyncio.sleep(0.05)


async def test_a_tag_lives_in_every_replica_from_its_making_to_its_end(house: House) -> None:
    one, other, replicas, bus = house.one, house.other, house.replicas, house.bus
    catalogue = door(one)
    opened = [event(100 * n + at, person=(n, n, 1)) for n in range(1, 7) for at in range(n)]
    await happened(bus, *opened)
    await becomes(6, one, "app_opens > 0")
    # Said first.
    dry = await catalogue.CreateTag(pb.CreateTagRequest(definition=definition("app_opens >= 3"), dry_run=True))
    assert [(pb.TAG_USE_KIND_ITSELF, True, 0, 4)] == [(u.kind, u.has_sizes, u.size_before, u.size_after) for u in dry.uses]
    assert (False, False, 1) == (dry.tag.from_file, dry.tag.is_view, dry.tag.version)
    with pytest.raises(grpc.aio.AioRpcError):
        await count(one, "opens_often")
    # Made.
    await catalogue.CreateTag(pb.CreateTagRequest(definition=definition("app_opens >= 3")))
    for replica in replicas:
        await becomes(4, replica, "opens_often")
        await becomes(4, replica, "常开应用")
    # A batch after it, wherever it runs.
    more = [event(900 + at, person=(9, 9, 1)) for at in range(3)]
    await happened(bus, *more)
    for replica in replicas:
        await becomes(5, replica, "opens_often")
    # Changed, said first.
    changed = pb.UpdateTagRequest(
        definition=definition("app_opens >= 5"), dry_run=True, predicates=["opens_often AND app_opens < 5"]
    )
    dry_change = await catalogue.UpdateTag(changed)
    assert [(5, 2, 3), (3, 0, 3)] == [(u.size_before, u.size_after, u.leaving) for u in dry_change.uses]
    assert 5 == await count(other, "opens_often")
    changed.dry_run, changed.expected_version = False, 1
    other_catalogue = door(other)
    assert 2 == (await other_catalogue.UpdateTag(changed)).tag.version
    for replica in replicas:
        await becomes(2, replica, "opens_often")
    # Found, with its story.
    found = await catalogue.SearchTags(pb.SearchTagsRequest(query="高频 frequent"))
    assert "opens_often" in [hit.tag.definition.name for hit in found.tags[:2]]
    story = await catalogue.GetTag(pb.GetTagRequest(entity_kind=PERSON, name="常开应用"))
    assert ("tags: app_opens", pb.TAG_REFRESH_AT_ONCE) == (story.tag.source, story.tag.refresh)
    assert [(2, "operator"), (1, "operator")] == [(v.version, v.created_by) for v in story.versions]
    # Ended.
    await catalogue.RetireTag(pb.RetireTagRequest(entity_kind=PERSON, name="opens_often"))
    with pytest.raises(grpc.aio.AioRpcError):
        await count(one, "opens_often")
    ended = await other_catalogue.GetTag(pb.GetTagRequest(entity_kind=PERSON, name="opens_often"))
    assert (True, 3) == (ended.tag.retired, ended.versions[0].version)


async def test_an_added_tag_from_events_gets_its_past_from_the_lake_while_more_comes(house: House) -> None:
    catalogue, other = door(house.one), door(house.other)
    clicked = [event(10_000 + 100 * n + at, "Ad Clicked", person=(n, n, 1)) for n in range(1, 5) for at in range(n)]
    for each in clicked:
        await happened(house.bus, each)
    clicks = definition(
        "COUNT(*) FILTER (WHERE event = 'Ad Clicked')", name="clicks", title="点击数", type=tags_pb.TAG_TYPE_NUMBER
    )
    made = await catalogue.CreateTag(pb.CreateTagRequest(definition=clicks))
    assert (pb.TAG_REACH_FILLING, 0.0) == (made.history.reach, made.history.progress)
    await happened(house.bus, *(event(20_000 + n, "Ad Clicked", person=(n, n, 1)) for n in range(1, 5)))
    for n in range(1, 5):
        await becomes(5 - n, house.other, f"clicks > {n}")
    await becomes(0, house.other, "clicks > 5")
    async with asyncio.timeout(15):
        while True:
            story = await other.GetTag(pb.GetTagRequest(entity_kind=PERSON, name="clicks"))
            if story.history.reach == pb.TAG_REACH_WHOLE:
                break
            await asyncio.sleep(0.1)
    assert (1.0, 4) == (story.history.progress, story.history.anchors)


async def test_a_mistake_is_told_with_its_place_and_tags_are_searched_in_two_languages(house: House) -> None:
    catalogue = door(house.one)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await catalogue.CreateTag(
            pb.CreateTagRequest(definition=definition("reachable AND app_opns >= 3", name="wrong", title="错"))
        )
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]  # typed for the other grpc
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    assert ("UNKNOWN_TAG", "15", "definition.expression") == (
        info.reason,
        info.metadata["position"],
        info.metadata["field"],
    )
    assert "did you mean app_opens" in (caught.value.details() or "")
    for query, best in (("试驾预约次数", "test_drives_booked"), ("test drive booking", "test_drives_booked")):
        found = await catalogue.SearchTags(pb.SearchTagsRequest(query=query, entity_kind=PERSON, page_size=3))
        assert best in [hit.tag.definition.name for hit in found.tags]
    page = await catalogue.SearchTags(pb.SearchTagsRequest(folder="household", page_size=10))
    rest = await catalogue.SearchTags(pb.SearchTagsRequest(folder="household", page_size=10, page_token=page.next_page_token))
    names = [hit.tag.definition.name for hit in (*page.tags, *rest.tags)]
    assert 16 == len(names) == len(set(names))
    assert all(hit.tag.is_view and hit.tag.from_file for hit in page.tags)
