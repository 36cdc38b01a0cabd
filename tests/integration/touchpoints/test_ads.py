"""Lists at advertising platforms and conversions: a platform that judges, and people who change their minds."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import orjson
import pytest
from troika.identity.v1.events_pb2 import (
    CONSENT_KIND_SEPARATE,
    ENTITY_KIND_PERSON,
    AnchorMove,
    AnchorOwner,
    ClusterChange,
    ConsentChange,
    EntitiesChanged,
    Erasure,
    ResolvedBatch,
    ResolvedEvent,
)
from troika.touchpoints.v1 import advertising_service_pb2 as pb
from troika.touchpoints.v1.advertising_service_pb2_grpc import AdvertisingServiceStub

from chassis import rpc
from chassis.bus import Bus, Stream
from chassis.outbox import Outgoing
from chassis.rpc import reason_of
from chassis.testing import DatabaseFactory
from services.touchpoints.channels.ads import store, uploading
from services.touchpoints.domain.consents import Statement
from services.touchpoints.domain.deliveries import Channel, State
from services.touchpoints.store import consents
from tests.conftest import Servers
from tests.emulators.advertising import AdPlatform
from tests.emulators.providers import serving, wrong
from tests.integration.touchpoints.audiences import Audiences, hashed, mobile
from tests.integration.touchpoints.neighbours import neighbourhood
from tests.integration.touchpoints.room import NEIGHBOURS, TOKEN, Room, eventually, running, settings_for

NOW = time.time_ns() // 1000
ADS = int(Channel.ADS)
RESOLVED = "troika.events.resolved.v1"


@pytest.fixture
async def platform() -> AsyncIterator[AdPlatform]:
    async with serving(AdPlatform()) as platform:
        assert isinstance(platform, AdPlatform)
        yield platform


@pytest.fixture
async def world(
    servers: Servers, databases: DatabaseFactory, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Room, Audiences]]:
    monkeypatch.setattr(uploading, "LOOK_S", 0.02)
    monkeypatch.setattr(uploading, "PAGE", 3)
    await bus.declare(*NEIGHBOURS, Stream("EVENTS_RESOLVED", (RESOLVED,)))
    async with neighbourhood(Audiences()) as around, databases.lent("touchpoints") as dsn:
        assert isinstance(around, Audiences)
        settings = settings_for(dsn, servers.nats_url, around, tags_target=around.target)
        async with running(settings, around, bus, servers.nats_url) as room:
            yield room, around


async def says(room: Room, persons: Iterable[int], *, given: bool, at_us: int = NOW) -> None:
    """Persons speak of advertising through their anchors, 100 + person, and it is known here."""
    changes = [
        ConsentChange(
            anchor_id=100 + person,
            person_id=person,
            channel="ads",
            purpose="marketing",
            opted_out=not given,
            kind=CONSENT_KIND_SEPARATE,
            stated_at_us=at_us,
        )
        for person in persons
    ]
    await tell(room, EntitiesChanged(consent_changes=changes))

    async def known() -> int:
        async with room.database.read() as uow:
            rows = await uow.rows("SELECT 1 FROM consent WHERE GREATEST(given_us, withdrawn_us) = :at", at=at_us)
            return len(rows)

    await eventually(known, lambda n: n == len(changes))


async def tell(room: Room, facts: EntitiesChanged) -> None:
    await room.bus.publish_all([Outgoing.now("troika.entities.changed.v1", facts.SerializeToString())])


async def account(room: Room, platform: AdPlatform, **settings: str) -> None:
    await room.endpoint(
        "ads-main", ADS, platform.url, "main", settings={"chunk": "2"} | settings, secrets={"api_key": platform.key}
    )


def hashes(*persons: int) -> set[tuple[str, str]]:
    return {hashed(person) for person in persons}


async def test_a_list_holds_whoever_allowed_it_and_only_differences_travel(
    world: tuple[Room, Audiences], platform: AdPlatform
) -> None:
    room, around = world
    channel = rpc.connect(f"127.0.0.1:{room.settings.grpc_port}", "operator", TOKEN)
    ads: Any = AdvertisingServiceStub(channel)
    around.members, around.allowed = set(range(1, 9)), set(range(1, 8))
    # The seventh allowed it, says identity; here that is not known yet. The eighth never did.
    await says(room, range(1, 7), given=True)
    await account(room, platform, rate_per_s="20", burst="1")
    # The second answer is lost, the third is refused for now; then tags is away for a moment.
    platform.loses = lambda n: n == 2
    platform.fails = lambda n: (503, b"", {}) if n == 3 else None

    async def stands() -> tuple[int, int, int, int, str]:
        one = (await ads.GetAdList(pb.GetAdListRequest(name="owners"))).list
        return one.state, one.members, one.leaving, one.looked_at, one.reason

    async def on_list(*persons: int) -> None:
        async def now() -> tuple[set[tuple[str, str]], tuple[int, int]]:
            _, members, leaving, _, _ = await stands()
            return set(platform.lists.get("owners", ())), (members, leaving)

        await eventually(now, lambda found: found == (hashes(*persons), (len(persons), 0)))

    wanted = pb.AdList(name="owners", endpoint="ads-main", predicate="owns = true", every_s=86400)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        strange = pb.AdList(name="owners", endpoint="ads-main", predicate="owns")
        await ads.SaveAdList(pb.SaveAdListRequest(list=strange))
    assert ("INVALID_PREDICATE", "list.predicate") == reason_of(error.value)
    made = (await ads.SaveAdList(pb.SaveAdListRequest(list=wanted))).list
    assert (pb.AD_LIST_STATE_ACTIVE, 0) == (made.state, made.members)
    await on_list(1, 2, 3, 4, 5, 6)
    await eventually(stands, lambda s: s[:4] == (pb.AD_LIST_STATE_ACTIVE, 6, 0, 8))
    # Who was failed in the middle went on where it was: no page was asked for again that was noted.
    assert ["", "3", "6"] == sorted(set(around.pages)) and 5 >= len(around.pages)
    assert ({}, 1) == (wrong(platform), platform.repeats)
    assert not {value for _, value in hashes(7, 8)} & platform.told

    async with room.database.read() as uow:
        kept = "".join(row.content for row in await uow.rows("SELECT t::text AS content FROM ad_member t"))
    assert kept and not any(text in kept for value in platform.told for text in (value, value.encode().hex()))

    # Whoever withdraws is taken off at once, without a look through the audience; so is who is erased.
    looks = len(around.pages)
    await says(room, [2], given=False, at_us=NOW + 1)
    around.allowed -= {2}
    await on_list(1, 3, 4, 5, 6)
    await tell(room, EntitiesChanged(erasures=[Erasure(erasure_id=1, person_id=4, anchor_ids=[104])]))
    around.allowed -= {4}
    around.members -= {4}
    await on_list(1, 3, 5, 6)
    assert looks == len(around.pages)

    # Who has gone into another person is known by both numbers.
    merged = ClusterChange(entity_kind=ENTITY_KIND_PERSON, operation="merge", survivor_id=50, other_id=5, op_id=1)
    await tell(room, EntitiesChanged(cluster_changes=[merged]))
    await says(room, [50], given=False, at_us=NOW + 1)
    around.allowed -= {5}
    await on_list(1, 3, 6)
    assert looks == len(around.pages)

    # Differences: one leaves the audience, one comes.
    before = len(platform.changes)
    around.members = around.members - {3} | {9}
    around.allowed |= {9}
    await says(room, [9], given=True, at_us=NOW + 2)
    await ads.UploadAdList(pb.UploadAdListRequest(name="owners"))
    await on_list(1, 6, 9)
    assert [("owners", "add", 1), ("owners", "remove", 1)] == sorted(platform.changes[before:])

    # An opt-out that is accepted while identity answers wins: the hash never leaves.
    async def opts_out() -> None:
        around.before = None
        async with room.database.transaction() as uow:
            await consents.save_consents(uow, [Statement(110, 10, "marketing", "all", False, False, NOW + 3)])

    around.members |= {10}
    around.allowed |= {10}
    await says(room, [10], given=True, at_us=NOW + 3 - 1)
    around.before = opts_out
    await ads.UploadAdList(pb.UploadAdListRequest(name="owners"))
    await eventually(stands, lambda s: s[3] == len(around.members) and around.before is None)
    await on_list(1, 6, 9)
    assert hashed(10)[1] not in platform.told

    # A platform that will never take it: the list waits for somebody, and who withdraws leaves all the same.
    around.members |= {11}
    around.allowed |= {11}
    await says(room, [11], given=True, at_us=NOW + 4)
    platform.fails = lambda n: (422, orjson.dumps({"code": "list_unknown"}), {})
    await ads.UploadAdList(pb.UploadAdListRequest(name="owners"))
    await eventually(stands, lambda s: (s[0], s[4]) == (pb.AD_LIST_STATE_FAILED, "list_unknown"))
    assert 1 == (await store.trouble(room.database))[0]
    stuck = platform.calls
    platform.fails = lambda n: (503, b"", {}) if n == stuck + 1 else None
    await says(room, [6], given=False, at_us=NOW + 5)
    around.allowed -= {6}
    await eventually(stands, lambda s: (s[0], s[2], s[4]) == (pb.AD_LIST_STATE_FAILED, 0, "list_unknown"))
    assert hashes(1, 9) == platform.lists["owners"]
    await ads.UploadAdList(pb.UploadAdListRequest(name="owners"))
    await on_list(1, 9, 11)
    await ads.EndAdList(pb.EndAdListRequest(name="owners"))
    await eventually(stands, lambda s: s[0] == pb.AD_LIST_STATE_ENDED)
    assert (set(), {}) == (platform.lists["owners"], wrong(platform))
    async with room.database.read() as uow:
        assert [] == list(await uow.rows("SELECT 1 FROM ad_member"))
        # All calls count for the channel's health.
        counted = await uow.rows("SELECT sum(calls) AS calls FROM call_slice WHERE endpoint = 'ads-main'")
        assert platform.calls == counted[0].calls
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await ads.GetAdList(pb.GetAdListRequest(name="strangers"))
    assert ("LIST_NOT_FOUND", "name") == reason_of(error.value)
    await channel.close()


async def happened(room: Room, *events: tuple[int, str, int, int, int, dict[str, Any]]) -> None:
    """(number, name, person, anchor, when, properties) as identity tells of events."""
    batch = ResolvedBatch(
        events=[
            ResolvedEvent(
                event_id=number.to_bytes(16),
                source="web",
                name=name,
                occurred_at_us=at_us,
                received_at_us=at_us,
                person=AnchorOwner(anchor_id=anchor, entity_id=person, version=1),
                properties_json=orjson.dumps(properties),
            )
            for number, name, person, anchor, at_us, properties in events
        ]
    )
    await room.bus.publish_all([Outgoing.now(RESOLVED, batch.SerializeToString())])


async def test_a_goal_behind_a_click_is_told_once_and_under_consent_only(
    world: tuple[Room, Audiences], platform: AdPlatform
) -> None:
    room, _ = world
    await account(room, platform, media="tencent", conversions="Order Placed,Test Drive Booked", window_days="30")
    await says(room, [1, 3, 4, 5], given=True)
    day, clicked = 86_400_000_000, {"media": "tencent", "campaign": "spring"}
    hour = day // 24
    await room.messages("EVENTS_RESOLVED")
    platform.loses = lambda n: n == 1
    await happened(
        room,
        (1, "Ad Clicked", 1, 101, NOW - 2 * day, clicked | {"click_id": "click-old"}),
        (2, "Ad Clicked", 1, 101, NOW - day, clicked | {"click_id": "click-1"}),
        (3, "Ad Clicked", 1, 101, NOW, clicked | {"click_id": "click-later"}),
        # No consent; another platform's; too long ago; no number; comes to the goal through a merge.
        (4, "Ad Clicked", 2, 102, NOW - day, clicked | {"click_id": "click-2"}),
        (5, "Ad Clicked", 3, 103, NOW - day, {"media": "other", "click_id": "click-3"}),
        (6, "Ad Clicked", 4, 104, NOW - 31 * day, clicked | {"click_id": "click-4"}),
        (7, "Ad Clicked", 4, 104, NOW - day, clicked),
        (8, "Ad Clicked", 6, 106, NOW - day, clicked | {"click_id": "click-6"}),
    )
    move = AnchorMove(entity_kind=ENTITY_KIND_PERSON, owner=AnchorOwner(anchor_id=106, entity_id=5, version=2))
    await tell(room, EntitiesChanged(anchor_moves=[move]))

    async def ready() -> tuple[int, int]:
        async with room.database.read() as uow:
            return len(await uow.rows("SELECT 1 FROM ad_click")), len(await uow.rows("SELECT 1 FROM anchor_owner"))

    await eventually(ready, lambda found: found == (6, 1))
    goals = [(10 + n, "Order Placed", n, 100 + n, NOW - hour, {"amount": 300_000}) for n in range(1, 6)]
    await happened(room, *goals, (16, "Content Viewed", 1, 101, NOW - hour, {}))
    await happened(room, *goals)
    await eventually(
        lambda: states(room),
        lambda found: sorted(found) == [(State.ACCEPTED, ""), (State.ACCEPTED, ""), (State.SUPPRESSED, "no_consent")],
    )
    assert {"click-1": 1, "click-6": 1} == dict(platform.clicks)
    assert ({}, 1) == (wrong(platform), platform.repeats)
    assert {"Order Placed"} == {told["event"] for told in platform.conversions.values()}
    async with room.database.read() as uow:
        for table in ("ad_click", "delivery"):
            rows = await uow.rows(f"SELECT t::text AS content FROM {table} t")
            assert rows and not any("click-1" in row.content or b"click-1".hex() in row.content for row in rows)
    await tell(room, EntitiesChanged(erasures=[Erasure(erasure_id=1, person_id=1, anchor_ids=[101])]))
    await eventually(ready, lambda found: found[0] == 3)
    assert mobile(1) not in str(platform.conversions)


async def states(room: Room) -> list[tuple[int, str]]:
    async with room.database.read() as uow:
        return [tuple(row) for row in await uow.rows("SELECT state, reason FROM delivery WHERE kind = 'ads.conversion'")]
