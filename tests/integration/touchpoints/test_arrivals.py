"""From a camera's post to the advisor's card, over real doors: who, what is allowed, what is kept, and what is not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest
from troika.identity.v1.holder_service_pb2 import Holder
from troika.touchpoints.v1 import arrivals_service_pb2 as pb
from troika.touchpoints.v1.arrivals_service_pb2_grpc import ArrivalsServiceStub

from chassis import outbox, rpc
from chassis.bus import DEAD_LETTERS, Bus
from chassis.db import UnitOfWork
from chassis.testing import DatabaseFactory
from services.touchpoints.domain.consents import Statement
from services.touchpoints.store import consents
from services.touchpoints.vault import Vault
from tests.conftest import Servers
from tests.emulators import cameras
from tests.emulators.cameras import CAMERAS, PICTURE, Post, fresh
from tests.integration.touchpoints import room as rooms
from tests.integration.touchpoints.neighbours import Dealer, Neighbours, dealer_system, neighbourhood
from tests.integration.touchpoints.room import Room, eventually, running, settings_for
from tests.unit.touchpoints.test_arrivals_reading import HOSTILE

PLATE, VEHICLE, PERSON = "京A12345", 501, 71
# A dealer's day.
PLATES = 4


@dataclass
class Forecourt:
    """A room with a base of vehicles around it, a dealer, and a door."""

    room: Room
    base: Neighbours
    dealer: Dealer
    rpc: Any
    url: str = ""

    async def post(self, post: Post, url: str = "", through: str = "") -> httpx.Response:
        """`through`: what a proxy says about where it came from."""
        address = (url or self.url) + post.path + (f"?{post.query}" if post.query else "")
        headers = {"content-type": post.content_type} | ({"x-forwarded-for": through} if through else {})
        return await self.room.http.post(address, content=post.body, headers=headers)

    async def arrive(self, post: Post) -> dict[str, Any]:
        """Posts and waits for the card."""
        before = set(self.dealer.cards)
        assert 200 == (await self.post(post)).status_code
        await eventually(lambda: asyncio.sleep(0, set(self.dealer.cards) - before), bool)
        (number,) = set(self.dealer.cards) - before
        return self.dealer.cards[number]

    async def rows(self, sql: str) -> list[Any]:
        async with self.room.database.read() as uow:
            return list(await uow.rows(sql))

    async def said(self, purpose: str, given: bool, separate: bool = False, person: int = PERSON) -> None:
        now = time.time_ns() // 1000
        async with self.room.database.transaction() as uow:
            stated = Statement(person * 10, person, purpose, "all", separate, given, now)
            await consents.save_consents(uow, [stated])

    async def door(self, name: str, **rules: Any) -> str:
        door = pb.ArrivalDoor(name=name, **({"dealer_code": "D001", "repeat_minutes": 30, "min_confidence": 80} | rules))
        return str((await self.rpc.CreateArrivalDoor(pb.CreateArrivalDoorRequest(door=door))).url)


@pytest.fixture(scope="module")
async def forecourt(servers: Servers, databases: DatabaseFactory) -> AsyncIterator[Forecourt]:
    bus = Bus(servers.nats_url, "test")
    await bus.connect()
    await bus.declare(DEAD_LETTERS, *rooms.NEIGHBOURS)
    # Events of arrivals wait for the relay's own look.
    soon = pytest.MonkeyPatch()
    soon.setattr(outbox, "SWEEP_S", 0.05)
    async with databases.lent("touchpoints") as dsn, neighbourhood(Neighbours()) as base, dealer_system() as dealer:
        targets = {f"{peer}_target": base.target for peer in ("tags", "scoring", "orchestrator")}
        more = {"arrival_posts_per_s": 1000.0, "arrival_budget_ms": 1500.0, "arrival_proxies": ("127.0.0.1/32",)}
        more["arrival_plates_per_day"] = PLATES
        settings = settings_for(dsn, servers.nats_url, base, **targets, **more)
        async with running(settings, base, bus, servers.nats_url) as room:
            dealer.secret = await room.endpoint("dealer-d001", 3, dealer.url, "D001")
            channel = rpc.connect(f"127.0.0.1:{settings.grpc_port}", "operator", rooms.TOKEN)
            made = Forecourt(room, base, dealer, ArrivalsServiceStub(channel))
            made.url = await made.door("gate")
            yield made
            await channel.close()
    soon.undo()
    await bus.delete_streams()
    await bus.close()


@pytest.fixture(autouse=True)
async def quiet(forecourt: Forecourt) -> None:
    """Every test begins with an empty forecourt, when all was told of the one before."""
    await eventually(lambda: forecourt.rows("SELECT id FROM outbox"), lambda waiting: not waiting)
    base = forecourt.base
    for each in (base.known, base.held, base.entities, base.asked, base.decided, base.slow, base.down, base.reveals):
        each.clear()
    base.car(PLATE, VEHICLE, PERSON, model="X5", mileage_km=61000.0, service_is_overdue=1.0, has_open_recall=0.0)
    forecourt.dealer.refuse.clear()
    async with forecourt.room.database.transaction() as uow:
        for table in ("arrival", "arrival_presence", "consent", "inbox"):
            await uow.execute(f"DELETE FROM {table}")


async def state_of(forecourt: Forecourt) -> list[tuple[int, str]]:
    return [(row.state, row.reason) for row in await forecourt.rows("SELECT state, reason FROM arrival ORDER BY arrived_at")]


async def becomes(forecourt: Forecourt, *states: tuple[int, str]) -> None:
    await eventually(lambda: state_of(forecourt), lambda found: sorted(found) == sorted(states))


@pytest.mark.parametrize("dialect", sorted(CAMERAS))
async def test_every_dialect_brings_the_card_and_the_event(forecourt: Forecourt, dialect: str) -> None:
    before = len(await forecourt.room.observed())
    post = CAMERAS[dialect](fresh(PLATE))
    answer = await forecourt.post(post)
    assert (200, True) == (answer.status_code, post.wants in answer.text)
    await becomes(forecourt, (2, ""))
    ((_, event),) = [
        (batch, event)
        for batch, event in await eventually(forecourt.room.observed, lambda found: len(found) > before)
        if event.name == "Dealer Visit Started"
    ][-1:]
    batch = (await forecourt.room.observed())[-1][0]
    assert [("plate", "", PLATE)] == [(i.kind, i.scope, i.value) for i in forecourt.base.open(batch, event).identifiers]
    assert ("arrivals:D001", b'{"dealer":"D001","door":"gate"}') == (event.source, event.properties_json)
    said = list(forecourt.dealer.cards.values())[-1]
    assert ("D001", "gate", "345", "X5", 61000) == (
        *(said["dealer_code"], said["door"]),
        *(said["vehicle"][name] for name in ("plate_tail", "model", "mileage_km")),
    )
    assert ("张**", "owns") == (said["customer"]["display_name"], said["customer"]["relation"])
    assert {"dealer_code": "D001", "here": True} == said["served_by"]
    assert ({"value": 873, "band": "A"}, "offers/12", []) == (said["score"], said["offer"]["offer"], said["left_out"])
    assert (["service_is_overdue"], False) == ([r["code"] for r in said["reasons"]], said["service"]["has_open_recall"])


async def everything(uow: UnitOfWork) -> str:
    """All tables of the service, as text and as the bytes behind hexadecimal digits."""
    found = []
    for table in await uow.rows("SELECT table_name FROM information_schema.tables WHERE table_schema = 'touchpoints'"):
        found += [row[0] for row in await uow.rows(f"SELECT t::text FROM {table.table_name} t")]
    return "\n".join(found)


async def test_nothing_of_picture_plate_or_person_stays(forecourt: Forecourt, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    forecourt.base.down.add("BatchDecide")
    for dialect in CAMERAS:
        await forecourt.post(CAMERAS[dialect](fresh(PLATE)))
    await forecourt.post(cameras.terminal("C-1"))
    await forecourt.post(Post(b'<?xml version="1.0"?><a>%s</a>' % PLATE.encode(), "text/xml"))
    await becomes(forecourt, (2, ""), (5, ""))
    async with forecourt.room.database.read() as uow:
        tables = await everything(uow)
    events = b"".join(await forecourt.room.messages("EVENTS_OBSERVED") + await forecourt.room.messages("DEADLETTERS"))
    metrics = (await forecourt.room.http.get("/metrics")).text
    token = forecourt.url.rpartition("/")[2]
    # The client of this test writes down what it asks; in a service that is switched off.
    logs = "\n".join(f"{r.getMessage()} {vars(r)}" for r in caplog.records if not r.name.startswith(("httpx", "httpcore")))
    for secret in (PLATE, "A12345", "PICTURE-OF-SOMEBODY", "王小明", "张伟", "13800138000", token):
        for place in (tables, logs, metrics):
            assert secret not in place
            assert secret.encode().hex() not in place
        assert secret.encode() not in events
    assert PICTURE[:40] not in events
    bodies = b"".join(forecourt.dealer.bodies)
    assert not [secret for secret in (PLATE, "A12345", "张伟", "13800138000") if secret.encode() in bodies]
    # Whom it was about is forgotten with the card's end.
    assert [b"", b""] == [bytes(row.sealed) for row in await forecourt.rows("SELECT sealed FROM arrival")]


async def test_what_is_not_allowed_is_left_out_and_not_even_asked_for(forecourt: Forecourt) -> None:
    await forecourt.said("personalisation", given=False)
    said = await forecourt.arrive(CAMERAS["dahua"](fresh(PLATE)))
    assert [("offer", "opted_out"), ("score", "opted_out")] == [(left["part"], left["reason"]) for left in said["left_out"]]
    assert ("张**", "X5", None, None) == (
        said["customer"]["display_name"],
        said["vehicle"]["model"],
        said["score"],
        said["offer"],
    )
    await forecourt.said("dealer_sharing", given=False)
    await quiet_presence(forecourt)
    forecourt.base.asked.clear()
    calls = len(forecourt.dealer.calls)
    # Of a car whose owner nobody knows there is nobody to ask.
    forecourt.base.held["京B00001"] = Holder(vehicle_id=502, serviced_by=71)
    for plate in (PLATE, "京B00001"):
        await forecourt.post(CAMERAS["dahua"](fresh(plate)))
    await becomes(forecourt, (2, ""), (5, "opted_out"), (5, "unknown"))
    assert {"FindHolders"} == set(forecourt.base.asked)
    assert calls == len(forecourt.dealer.calls)


async def test_who_tries_plates_soon_learns_no_more(forecourt: Forecourt, caplog: pytest.LogCaptureFixture) -> None:
    url = await forecourt.door("d2-gate", dealer_code="D002")
    other = await forecourt.room.endpoint("dealer-d002", 3, forecourt.dealer.url, "D002")
    forecourt.dealer.secret, kept = other, forecourt.dealer.secret
    tried = [f"京C{10_000 + n}" for n in range(6)]
    for n, plate in enumerate(tried):
        forecourt.base.car(plate, 600 + n, 700 + n)
        assert 200 == (await forecourt.post(CAMERAS["dahua"](fresh(plate)), url)).status_code
    # Who has no name is counted, and counts for no limit.
    await forecourt.post(cameras.terminal("C-9"), url)
    await becomes(forecourt, *[(2, "")] * PLATES, *[(3, "too_many_plates")] * (6 - PLATES), (5, ""))
    # Elsewhere cars come as ever; and every one was a visit.
    forecourt.dealer.secret = kept
    await forecourt.arrive(CAMERAS["dahua"](fresh(PLATE)))
    assert not [plate for plate in tried if plate in caplog.text]
    assert ["D002"] == sorted({getattr(r, "dealer", "") for r in caplog.records} - {""})


async def quiet_presence(forecourt: Forecourt) -> None:
    async with forecourt.room.database.transaction() as uow:
        await uow.execute("DELETE FROM arrival_presence")


async def test_a_partial_card_comes_before_a_late_one(forecourt: Forecourt) -> None:
    forecourt.base.slow |= {"StreamTagValues": 30.0, "BatchDecide": 30.0}
    forecourt.base.down.add("ScorePersons")
    began = time.monotonic()
    said = await forecourt.arrive(CAMERAS["hikvision_xml"](fresh(PLATE)))
    assert time.monotonic() - began < 15
    # A peer that is down is retried by the channel, which takes its time.
    assert {"vehicle": "late", "offer": "late"} == {
        left["part"]: left["reason"] for left in said["left_out"] if left["part"] != "score"
    }
    assert ("张**", None) == (said["customer"]["display_name"], said["score"])


async def test_who_is_unknown_gets_no_card_and_who_cannot_be_asked_gets_it_later(forecourt: Forecourt) -> None:
    await forecourt.post(CAMERAS["dahua"](fresh("沪B88888")))
    await becomes(forecourt, (5, "unknown"))
    forecourt.base.down.add("FindHolders")
    cards = len(forecourt.dealer.cards)
    assert 200 == (await forecourt.post(CAMERAS["dahua"](fresh(PLATE)))).status_code
    await becomes(forecourt, (5, "unknown"), (1, "identity_unavailable"))
    assert cards == len(forecourt.dealer.cards)
    forecourt.base.down.clear()
    await becomes(forecourt, (5, "unknown"), (2, ""))
    assert cards + 1 == len(forecourt.dealer.cards)


async def test_a_card_that_was_not_taken_comes_again_under_its_id(forecourt: Forecourt) -> None:
    forecourt.dealer.refuse = [503, 500]
    calls = len(forecourt.dealer.calls)
    await forecourt.arrive(CAMERAS["hikvision_json"](fresh(PLATE)))
    assert [forecourt.dealer.calls[calls]] * 3 == forecourt.dealer.calls[calls:]
    # And with the same decision.
    assert 1 == len({request.request_id for request in forecourt.base.decided})
    assert 3 == len(forecourt.base.decided)


async def test_a_process_that_vanished_leaves_a_lease_that_another_takes_up(forecourt: Forecourt) -> None:
    await forecourt.arrive(CAMERAS["dahua"](fresh(PLATE)))
    await becomes(forecourt, (2, ""))
    async with forecourt.room.database.read() as uow:
        (row,) = await uow.rows("SELECT arrival_id FROM arrival")
    # As it stands between the first call and the note of it.
    vault = Vault(bytes.fromhex(forecourt.room.settings.secrets_key.get_secret_value()))
    sealed = vault.hide(f'["{PLATE}",0]', f"arrival/{row.arrival_id}")
    cards, calls = len(forecourt.dealer.cards), len(forecourt.dealer.calls)
    async with forecourt.room.database.transaction() as uow:
        await uow.execute("UPDATE arrival SET state = 1, due_at = now() - interval '1 s', sealed = :sealed", sealed=sealed)
    await becomes(forecourt, (2, ""))
    assert (cards, calls + 1) == (len(forecourt.dealer.cards), len(forecourt.dealer.calls))


async def test_a_car_in_front_of_two_cameras_at_once_arrives_once(forecourt: Forecourt) -> None:
    other = await forecourt.door("workshop")
    before = len(await forecourt.room.observed())
    shots = [fresh(PLATE, count=n) for n in range(12)]
    makes = [CAMERAS[name] for name in sorted(CAMERAS)]
    await asyncio.gather(
        *(forecourt.post(makes[n % len(makes)](shot), (forecourt.url, other)[n % 2]) for n, shot in enumerate(shots))
    )
    await becomes(forecourt, (2, ""))
    await eventually(forecourt.room.observed, lambda found: len(found) == before + 1)


async def test_what_a_camera_is_not_sure_of_does_not_count(forecourt: Forecourt) -> None:
    leaving = await forecourt.door("exit", direction="forward")
    for post, url in (
        (CAMERAS["hikvision_xml"](fresh(PLATE, confidence=79)), forecourt.url),
        (CAMERAS["hikvision_xml"](fresh("无车牌")), forecourt.url),
        (CAMERAS["hikvision_xml"](fresh(PLATE, state="inactive")), forecourt.url),
        (CAMERAS["hikvision_xml"](fresh(PLATE, kind="duration")), forecourt.url),
        (CAMERAS["dahua"](fresh(PLATE, direction="reverse")), leaving),
        (cameras.dahua_alive(), forecourt.url),
    ):
        assert 200 == (await forecourt.post(post, url)).status_code
    assert [] == await state_of(forecourt)


async def test_a_face_counts_for_somebody_only_with_consent_of_its_own(forecourt: Forecourt) -> None:
    forecourt.base.known["crm_id", "dealer:D001", "C-1"] = PERSON
    before, cards = len(await forecourt.room.observed()), len(forecourt.dealer.cards)
    await forecourt.post(cameras.terminal("C-1", serial=1))
    await forecourt.said("biometric", given=True, separate=False)
    await forecourt.post(cameras.terminal("C-1", serial=2))
    # The device says it again.
    await forecourt.post(again := cameras.terminal("C-1", serial=3))
    await forecourt.post(again)
    await becomes(forecourt, (5, ""), (5, ""), (5, ""))
    assert (before, cards) == (len(await forecourt.room.observed()), len(forecourt.dealer.cards))
    await forecourt.said("biometric", given=True, separate=True)
    said = await forecourt.arrive(cameras.terminal("C-1", serial=4))
    assert ("张**", None, "X5") == (said["customer"]["display_name"], said["vehicle"]["plate_tail"], said["vehicle"]["model"])
    batch, event = (await eventually(forecourt.room.observed, lambda found: len(found) > before))[-1]
    assert [("crm_id", "dealer:D001", "C-1")] == [
        (i.kind, i.scope, i.value) for i in forecourt.base.open(batch, event).identifiers
    ]
    await forecourt.said("biometric", given=False, separate=True)
    await quiet_presence(forecourt)
    await forecourt.post(cameras.terminal("C-1", serial=5))
    await becomes(forecourt, (5, ""), (5, ""), (5, ""), (2, ""), (5, ""))


async def test_nobody_must_show_a_face(forecourt: Forecourt) -> None:
    asked = pb.CreateVisitorCodeRequest(dealer_code="D001", person_id=PERSON)
    code = (await forecourt.rpc.CreateVisitorCode(asked)).code
    before = len(await forecourt.room.observed())
    said = await forecourt.arrive(Post(b'{"visitor_code":"%s"}' % code.encode(), "application/json"))
    assert "张**" == said["customer"]["display_name"]
    _, event = (await eventually(forecourt.room.observed, lambda found: len(found) > before))[-1]
    assert (PERSON * 10, b"") == (event.anchor_id, event.sealed_identifiers)
    # As a card at a terminal it is the same visit; elsewhere, changed or made up it is nobody's.
    await forecourt.post(cameras.terminal(card=code, minor=1))
    await becomes(forecourt, (2, ""))
    elsewhere = (await forecourt.rpc.CreateVisitorCode(pb.CreateVisitorCodeRequest(dealer_code="D2", person_id=PERSON))).code
    for wrong in (elsewhere, code[:-4] + "AAAA", "x"):
        await forecourt.post(Post(b'{"visitor_code":"%s"}' % wrong.encode(), "application/json"))
    await becomes(forecourt, (2, ""), *[(5, "")] * 3)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await forecourt.rpc.CreateVisitorCode(pb.CreateVisitorCodeRequest(dealer_code="D001", person_id=404))
    assert grpc.StatusCode.NOT_FOUND is refused.value.code()


async def test_a_door_opens_for_its_secret_from_its_networks_until_it_is_shut(forecourt: Forecourt) -> None:
    post = CAMERAS["dahua"]

    async def statuses(url: str, through: str = "") -> int:
        return (await forecourt.post(post(fresh("沪B88888")), url, through)).status_code

    pinned = await forecourt.door("pinned", networks=["198.51.100.0/24", "2001:db8::/32"])
    assert [404, 200, 200, 404] == [
        await statuses(pinned, at) for at in ("", "198.51.100.7", "203.0.113.1, 198.51.100.9", "198.51.100.7, 203.0.113.1")
    ]
    first = await forecourt.door("turned")
    second, third = [
        (await forecourt.rpc.RotateArrivalDoor(pb.RotateArrivalDoorRequest(name="turned", grace_hours=hours))).url
        for hours in (1, 0)
    ]
    assert [404, 404, 200] == [await statuses(url) for url in (first, second, third)]
    fourth = (await forecourt.rpc.RotateArrivalDoor(pb.RotateArrivalDoorRequest(name="turned", grace_hours=1))).url
    assert [200, 200] == [await statuses(url) for url in (third, fourth)]
    await forecourt.rpc.DisableArrivalDoor(pb.DisableArrivalDoorRequest(name="turned"))
    strange = await forecourt.post(post(fresh()), fourth[:-1] + "_")
    shut = await forecourt.post(post(fresh()), fourth)
    assert (404, strange.content) == (shut.status_code, shut.content)
    # Made again it keeps its address, which is not shown again.
    assert "" == await forecourt.door("turned", min_confidence=50)
    assert 200 == await statuses(fourth)
    listed = {door.name: door for door in (await forecourt.rpc.ListArrivalDoors(pb.ListArrivalDoorsRequest())).doors}
    assert (["198.51.100.0/24", "2001:db8::/32"], 50) == (list(listed["pinned"].networks), listed["turned"].min_confidence)
    assert (1, True) == (listed["pinned"].arrivals_24h, listed["turned"].HasField("previous_address_until"))
    async with forecourt.room.database.read() as uow:
        assert not [url for url in (first, fourth) if url.rpartition("/")[2] in await everything(uow)]


async def test_rubbish_at_an_open_door_is_refused_by_name_and_holds_nothing_up(forecourt: Forecourt) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="p"; filename="p.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
        for _ in range(200):
            yield b"x" * 65536

    for name, (body, content_type) in HOSTILE.items():
        answer = await forecourt.post(Post(body, content_type))
        assert (name, 400) == (name, answer.status_code)
        assert {"code", "message", "field"} == set(answer.json())
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = await forecourt.room.http.post(forecourt.url, content=endless(), headers=headers)
    assert (400, "payload_too_large") == (answer.status_code, answer.json()["code"])
    assert 200 == (await forecourt.post(CAMERAS["dahua"](fresh(PLATE)))).status_code
