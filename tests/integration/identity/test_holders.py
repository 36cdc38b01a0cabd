"""Who comes with a car, asked at its door for many cars at once; and names, which leave a line in the audit."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from troika.identity.v1 import holder_service_pb2 as pb
from troika.identity.v1.holder_service_pb2_grpc import HolderServiceStub, add_HolderServiceServicer_to_server

from chassis import rpc
from chassis.rpc import reason_of
from services.identity import entities, holders
from services.identity.domain.holders import HOLDS, holder
from services.identity.domain.kinds import Space
from services.identity.rpc_holders import HolderRpc
from tests.integration.identity.world import NOW, World

CALLERS = ("touchpoints", "operator")
DAY = 86_400_000_000
ZHANG, LI, WANG = "13912345679", "15012345679", "18612345679"


@dataclass
class Doors:
    touchpoints: Any
    operator: Any


@pytest.fixture
async def doors(world: World) -> AsyncIterator[Doors]:
    hashes = {caller: hashlib.sha256(f"{caller}-secret".encode()).hexdigest() for caller in CALLERS}
    server = rpc.Server(hashes, {"troika.identity.v1.HolderService": frozenset(CALLERS)}, with_reflection=False)
    reader = world.database.pinned()
    add_HolderServiceServicer_to_server(HolderRpc(reader, world.vault, frozenset({"touchpoints"})), server.aio)
    port = await server.start("127.0.0.1:0")
    channels = [rpc.connect(f"127.0.0.1:{port}", caller, f"{caller}-secret") for caller in CALLERS]
    yield Doors(*(HolderServiceStub(channel) for channel in channels))
    for channel in channels:
        await channel.close()
    await server.stop(0)
    await reader.close()


async def forecourt(world: World) -> list[int]:
    """Zhang owns a car that Li drives and a dealer services; Wang sold his to Li and pays for Zhang's; nobody has the third."""
    seen = await world.see(
        ("crm", ("crm_id", "crm", "1"), ("mobile", ZHANG), ("plate", "京A12345"), {"who": "张伟", "relation": "owns"}),
        ("crm", ("crm_id", "crm", "2"), ("mobile", LI), ("plate", "京A12345"), {"who": "李娜", "relation": "drives"}),
        ("crm", ("crm_id", "crm", "3"), ("mobile", WANG), ("plate", "京A12345"), {"relation": "pays_for"}),
        ("dealer:D001", ("crm_id", "dealer:D001", "9"), ("plate", "京A12345"), {"name": "Service Completed"}),
        ("crm", ("crm_id", "crm", "3"), ("mobile", WANG), ("plate", "沪B88888"), {"relation": "owns"}),
        ("crm", ("crm_id", "crm", "2"), ("plate", "沪B88888"), {"relation": "owns", "at": NOW + 9 * DAY}),
        ("dealer:D002", ("crm_id", "dealer:D002", "4"), ("mobile", LI), {"name": "Showroom Visit", "who": "李娜"}),
        ("arrivals:D001", ("plate", "粤C77777")),
    )
    return [seen[0].person.entity_id, seen[1].person.entity_id, *(seen[n].vehicle.entity_id for n in (0, 4, 7))]


async def test_each_plate_has_who_comes_with_it_first(world: World, doors: Doors) -> None:
    zhang, li, first, second, third = await forecourt(world)
    codes = {row.id: row.code for row in await world.rows("SELECT id, code FROM dealer")}
    plates = ["京A12345", "京Z99999", "沪b·88888", "no plate", "粤C77777", "京A12345"]
    found = (await doors.operator.FindHolders(pb.FindHoldersRequest(plates=plates))).holders
    own = (first, zhang, "owns", "D001", "")
    assert [own, (0, 0, "", "", ""), (second, li, "owns", "", "D002"), (0, 0, "", "", ""), (third, 0, "", "", ""), own] == [
        (each.vehicle_id, each.person_id, each.relation, codes.get(each.serviced_by, ""), codes.get(each.advised_by, ""))
        for each in found
    ]


async def test_holders_are_what_an_entity_shows(world: World) -> None:
    """The statement for many cars and the one of GetEntity tell the same."""
    *_, first, second, third = await forecourt(world)
    known = [world.vault.known("plate", "", plate) for plate in ("京A12345", "沪B88888", "粤C77777")]
    found = await holders.find(world.database, [[each.token] for each in known if not isinstance(each, str)])
    for each, vehicle in zip(found, (first, second, third), strict=True):
        entity = await entities.read(world.database, Space.VEHICLE, vehicle)
        assert entity is not None
        assert holder(vehicle, entity.relations) == each._replace(advised_by=0)
        assert bool(each.person_id) == any(r.kind in HOLDS for r in entity.relations)


async def test_names_are_shown_to_the_touchpoints_only_and_leave_a_trace(world: World, doors: Doors) -> None:
    zhang, li, *_ = await forecourt(world)
    request = pb.RevealNamesRequest(person_ids=[li, zhang, 404], purpose="dealer_contact")
    assert {zhang: "张伟", li: "李娜"} == {n.person_id: n.name for n in (await doors.touchpoints.RevealNames(request)).names}
    assert [] == (await doors.touchpoints.RevealNames(pb.RevealNamesRequest(person_ids=[404], purpose="dealer_contact"))).names
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await doors.operator.RevealNames(request)
    assert "REVEAL_NOT_ALLOWED" == reason_of(error.value)[0]
    audit = await world.rows("SELECT caller, purpose, kind, scope, person_ids FROM reveal_audit")
    assert [("touchpoints", "dealer_contact", "name", "", sorted([zhang, li]))] == [tuple(row) for row in audit]
