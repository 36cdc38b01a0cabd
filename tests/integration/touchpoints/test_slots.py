"""Slots of pages: what is shown in time, what is not, and what browsers report of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import orjson
import pytest
from troika.orchestrator.v1 import decide_service_pb2 as pb
from troika.orchestrator.v1.decide_service_pb2_grpc import DecisionServiceServicer, add_DecisionServiceServicer_to_server

from chassis.bus import Bus
from chassis.testing import DatabaseFactory, drop_database
from tests.conftest import Servers
from tests.integration.touchpoints.identity import Identity
from tests.integration.touchpoints.room import NEIGHBOURS, Room, basic, eventually, running, settings_for

DECISION = "decisions/" + "ab" * 16
EMPTY = {"decision": None, "offer": None, "title": "", "body": "", "why": ""}


@dataclass
class Orchestrator(DecisionServiceServicer):
    """Stands in for the arbiter's door; `away` answers nothing, or only an error."""

    asked: list[pb.DecideRequest] = field(default_factory=list)
    away: str = ""
    target: str = ""

    async def Decide(self, request: pb.DecideRequest, context: Any) -> pb.DecideResponse:  # noqa: N802
        if self.away == "slow":
            await asyncio.sleep(5)
        if self.away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        self.asked.append(request)
        if not request.person_id:
            return pb.DecideResponse(decision=DECISION, offer="offers/1", title="欢迎", body="看看新车", why="neutral")
        return pb.DecideResponse(decision=DECISION, offer="offers/12", title="试驾", body="欢迎试驾", why="drawn")


@pytest.fixture
async def orchestrator() -> AsyncIterator[Orchestrator]:
    standing, server = Orchestrator(), grpc.aio.server()
    add_DecisionServiceServicer_to_server(standing, server)
    standing.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield standing
    await server.stop(0)


@pytest.fixture
async def page(
    servers: Servers, databases: DatabaseFactory, bus: Bus, identity: Identity, orchestrator: Orchestrator
) -> AsyncIterator[Room]:
    dsn, name = await databases.address("touchpoints")
    await bus.declare(*NEIGHBOURS)
    settings = settings_for(dsn, servers.nats_url, identity, orchestrator_target=orchestrator.target, slot_timeout_ms=1000)
    async with running(settings, identity, bus, servers.nats_url) as room:
        yield room
    await drop_database(servers.postgres_dsn, name)


async def test_a_slot_shows_what_was_decided_for_who_looks_or_nothing_but_never_waits(
    page: Room, orchestrator: Orchestrator
) -> None:
    page.identity.resolved |= {("crm_id", "u1"): 7, ("cookie", "c1"): 8}
    key, publishable = await page.source("app", server_side=True), await page.source("app")

    async def show(slot: str = "home_banner", **query: str) -> Any:
        return await page.http.get(f"/v1/slots/{slot}", params=query, headers=basic(key))

    answer = await show(userId="u1", anonymousId="c1", language="zh-CN", place="home", requestId="r1")
    assert {"decision": DECISION, "offer": "offers/12", "title": "试驾", "body": "欢迎试驾", "why": "drawn"} == answer.json()
    assert ("*", "no-store") == (answer.headers["access-control-allow-origin"], answer.headers["cache-control"])
    assert "offers/12" == (await show(anonymousId="c1", channel="car", vehicleState="parked", weather="rain")).json()["offer"]
    stranger = await page.http.get("/v1/slots/home_banner", params={"anonymousId": "who", "writeKey": publishable})
    assert ("offers/1", "neutral") == (stranger.json()["offer"], stranger.json()["why"])
    asked = [(a.person_id, a.slot, a.channel, a.language, a.context.place, a.request_id) for a in orchestrator.asked]
    assert [(7, "home_banner", "web", "zh-CN", "home", "r1"), (8, "home_banner", "car", "zh", "", "")] == asked[:2]
    assert 0 == asked[2][0]
    preflight = await page.http.options("/v1/slots/home_banner")
    assert (204, "GET, OPTIONS") == (preflight.status_code, preflight.headers["access-control-allow-methods"])
    for query, field_ in (
        ({"language": "Chinese!"}, "language"),
        ({"channel": "smoke"}, "channel"),
        ({"place": "moon"}, "place"),
        ({"requestId": "r" * 101}, "requestId"),
        ({"userId": "u" * 256}, "userId"),
    ):
        refused = await show(**query)
        assert (400, field_) == (refused.status_code, refused.json()["field"])
    assert "slot" == (await show("No-Slot")).json()["field"]
    assert 401 == (await page.http.get("/v1/slots/home_banner")).status_code
    # A page knows its visitor; numbers of customers anybody could try.
    guess = await page.http.get("/v1/slots/home_banner", params={"userId": "u1", "writeKey": publishable})
    assert (403, "server_key_required", "userId") == (guess.status_code, guess.json()["code"], guess.json()["field"])
    for orchestrator.away in ("slow", "gone"):
        assert (200, EMPTY) == ((empty := await show(userId="u1")).status_code, empty.json())


async def test_beacons_become_the_persons_history_once_and_name_the_decision(page: Room) -> None:
    key = await page.source("app")
    seen = {"writeKey": key, "decision": DECISION, "userId": "u1", "anonymousId": "c1"}
    # navigator.sendBeacon sends text/plain and no headers of its own.
    for event in ("impression", "click", "click"):
        body = orjson.dumps(seen | {"event": event})
        answer = await page.http.post("/v1/slots/beacons", content=body, headers={"content-type": "text/plain"})
        assert 204 == answer.status_code
    got = await eventually(page.observed, lambda events: len(events) >= 2)
    assert {"Offer Shown", "Offer Clicked"} == {event.name for _, event in got}
    assert 2 == len({event.event_id for _, event in got})
    for batch, event in got:
        assert DECISION == orjson.loads(event.properties_json)["decision"]
        assert {("crm_id", "u1"), ("cookie", "c1")} == {(i.kind, i.value) for i in page.identity.open(batch, event).identifiers}
    for wrong, field_ in (({"decision": "decisions/1"}, "decision"), ({"event": "stare"}, "event")):
        refused = await page.http.post("/v1/slots/beacons", json=seen | {"event": "click"} | wrong)
        assert (400, field_) == (refused.status_code, refused.json()["field"])
    assert 401 == (await page.http.post("/v1/slots/beacons", json={})).status_code
