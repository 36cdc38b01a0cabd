"""The gRPC door, called through a real channel."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import pytest
from troika.identity.v1 import events_pb2
from troika.identity.v1 import identity_service_pb2 as pb
from troika.identity.v1.identity_service_pb2_grpc import IdentityServiceStub, add_IdentityServiceServicer_to_server

from chassis import rpc
from chassis.rpc import reason_of
from services.identity.rpc import IdentityRpc
from tests.integration.identity.world import NOW, World

MOBILE, OTHER, STRANGER = "13912345679", "15012345679", "18612345679"
VIN = "LSVAA49J132047371"
APPID = "wx5e1f3a9c0d7b2468"
OPENID = "oAbCdEfGhIjKlMnOpQrStUvWxYz0"
CALLERS = ("touchpoints", "operator")


@dataclass
class Callers:
    touchpoints: IdentityServiceStub
    operator: IdentityServiceStub


@pytest.fixture
async def callers(world: World) -> AsyncIterator[Callers]:
    hashes = {caller: hashlib.sha256(f"{caller}-secret".encode()).hexdigest() for caller in CALLERS}
    server = rpc.Server(hashes, {"troika.identity.v1.IdentityService": frozenset(CALLERS)}, with_reflection=False)
    servicer = IdentityRpc(world.database, world.store, world.vault, "k1", world.public_key, frozenset({"touchpoints"}))
    add_IdentityServiceServicer_to_server(servicer, server.aio)
    port = await server.start("127.0.0.1:0")
    channels = [rpc.connect(f"127.0.0.1:{port}", caller, f"{caller}-secret") for caller in CALLERS]
    yield Callers(*(IdentityServiceStub(channel) for channel in channels))
    for channel in channels:
        await channel.close()
    await server.stop(0)


def ref(kind: str, value: str, scope: str = "") -> pb.IdentifierRef:
    return pb.IdentifierRef(kind=kind, scope=scope, value=value)


async def family(world: World) -> list[events_pb2.ResolvedEvent]:
    """Zhang with a dealer file, a lead, a nameless app account and WeChat; Li, whose file has Zhang's phone and car."""
    return await world.see(
        (
            "dealer:D001",
            *(("crm_id", "dealer:D001", "D1"), ("mobile", MOBILE), ("vin", VIN)),
            {"who": "张伟", "relation": "owns"},
        ),
        ("app", ("crm_id", "app", "U1"), ("mobile", MOBILE), ("unionid", "oUnionUnionUnionUnion"), {"at": NOW + 1}),
        (
            f"wechat:{APPID}",
            *(("crm_id", f"wechat:{APPID}", OPENID), ("openid", APPID, OPENID), ("unionid", "oUnionUnionUnionUnion")),
        ),
        (
            "dealer:D001",
            *(("crm_id", "dealer:D001", "D2"), ("mobile", MOBILE), ("vin", VIN)),
            {"who": "李娜", "relation": "drives"},
        ),
        ("call_center", ("crm_id", "call_center", "C1"), ("mobile", MOBILE), {"who": "张伟"}),
    )


async def test_the_sealing_key_is_the_public_half(world: World, callers: Callers) -> None:
    answer = await callers.touchpoints.GetSealingKey(pb.GetSealingKeyRequest())
    assert ("k1", world.public_key) == (answer.key_id, answer.public_key)


async def test_identifiers_resolve_in_the_order_asked_and_unknown_ones_to_nobody(world: World, callers: Callers) -> None:
    seen = await family(world)
    zhang, _, _, li, _ = (event.person.entity_id for event in seen)
    refs = [ref("mobile", "139 1234 5679"), ref("mobile", OTHER), ref("mobile", "0"), ref("crm_id", "D2", "dealer:D001")]
    answer = await callers.operator.ResolveIdentifiers(pb.ResolveIdentifiersRequest(identifiers=refs))
    assert ([zhang, 0, 0, li], []) == (list(answer.entity_ids), list(answer.anchor_ids))
    answer = await callers.operator.ResolveIdentifiers(pb.ResolveIdentifiersRequest(identifiers=refs, with_anchors=True))
    mobile, *nobody, crm = answer.anchor_ids
    assert ([0, 0], seen[3].person.anchor_id) == (nobody, crm)
    assert mobile in {event.person.anchor_id for event in seen if event.person.entity_id == zhang}


async def test_a_person_shows_anchors_counts_and_relations(world: World, callers: Callers) -> None:
    events = await family(world)
    request = pb.GetEntityRequest(entity_kind=events_pb2.ENTITY_KIND_PERSON, entity_id=events[0].person.entity_id)
    entity = (await callers.operator.GetEntity(request)).entity
    assert {event.person.anchor_id for event in (*events[:3], events[4])} == set(entity.anchor_ids)
    assert {"crm_id": 4, "mobile": 1, "openid": 1, "unionid": 1} == dict(entity.identifier_counts)
    assert [("owns", events[0].vehicle.entity_id)] == [(r.kind, r.entity_id) for r in entity.relations]
    request = pb.GetEntityRequest(entity_kind=events_pb2.ENTITY_KIND_VEHICLE, entity_id=events[0].vehicle.entity_id)
    vehicle = (await callers.operator.GetEntity(request)).entity
    # The dealer that keeps a file on the car is taken for the one that serves it.
    assert {("owns", events[0].person.entity_id), ("drives", events[3].person.entity_id), ("serviced_by", 1)} == {
        (r.kind, r.entity_id) for r in vehicle.relations
    }


async def test_unknown_entities_are_not_found(callers: Callers) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await callers.operator.GetEntity(pb.GetEntityRequest(entity_kind=events_pb2.ENTITY_KIND_PERSON, entity_id=404))
    assert ("ENTITY_NOT_FOUND", "entity_id") == reason_of(error.value)


async def test_a_link_is_explained_by_its_path(world: World, callers: Callers) -> None:
    await family(world)
    request = pb.ExplainLinkRequest(a=ref("crm_id", "D1", "dealer:D001"), b=ref("openid", OPENID, APPID))
    answer = await callers.operator.ExplainLink(request)
    assert answer.linked
    assert [("crm_id", "mobile"), ("mobile", "crm_id"), ("crm_id", "unionid"), ("unionid", "crm_id"), ("crm_id", "openid")] == [
        (hop.kind_a, hop.kind_b) for hop in answer.path
    ]
    assert ["dealer:D001", "app", "app", f"wechat:{APPID}", f"wechat:{APPID}"] == [hop.source for hop in answer.path]


async def test_what_keeps_two_apart_is_named(world: World, callers: Callers) -> None:
    await family(world)
    await world.see(("app", ("crm_id", "app", "U9")))
    d1 = ref("crm_id", "D1", "dealer:D001")
    for other, guards in (
        (ref("crm_id", "D2", "dealer:D001"), ["NAME_DIFFERS"]),
        (ref("crm_id", "U9", "app"), ["NOTHING_IN_COMMON"]),
        (ref("vin", VIN), ["DIFFERENT_ENTITY_KINDS"]),
    ):
        answer = await callers.operator.ExplainLink(pb.ExplainLinkRequest(a=d1, b=other))
        assert (False, guards) == (answer.linked, list(answer.guards))
    for value, reason in (("139", "NOT_A_VALID_NUMBER"), (STRANGER, "IDENTIFIER_NOT_FOUND")):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await callers.operator.ExplainLink(pb.ExplainLinkRequest(a=d1, b=ref("mobile", value)))
        assert reason == reason_of(error.value)[0]


async def test_a_registered_phone_stops_linking_at_once_and_for_good(world: World, callers: Callers) -> None:
    before = await family(world)
    assert before[0].person.entity_id == before[1].person.entity_id
    request = pb.RegisterSharedIdentifiersRequest(
        identifiers=[ref("mobile", MOBILE), ref("mobile", "0"), ref("mobile", STRANGER)], reason="dealer D001 front desk"
    )
    answer = await callers.operator.RegisterSharedIdentifiers(request)
    assert (2, [1]) == (answer.registered, list(answer.invalid_indexes))
    assert 0 == (await callers.operator.RegisterSharedIdentifiers(request)).registered
    after = await world.see(
        ("dealer:D001", ("crm_id", "dealer:D001", "D1"), ("mobile", MOBILE), {"who": "张伟"}),
        ("app", ("crm_id", "app", "U1"), ("mobile", MOBILE)),
        ("app", ("crm_id", "app", "U7"), ("mobile", STRANGER)),
        ("app", ("crm_id", "app", "U8"), ("mobile", STRANGER)),
    )
    assert 4 == len({event.person.entity_id for event in after})
    shared = (await callers.operator.ListSharedIdentifiers(pb.ListSharedIdentifiersRequest(page_size=1))).shared_identifiers
    assert [("mobile", "REGISTERED", 4)] == [(s.kind, s.reason, s.anchors) for s in shared]
    changes = (await callers.operator.ListClusterChanges(pb.ListClusterChangesRequest())).cluster_changes
    assert [("split", "REGISTERED"), ("split", "REGISTERED")] == [(change.operation, change.reason) for change in changes]


async def test_lists_are_paged_to_their_end(world: World, callers: Callers) -> None:
    mobiles = [f"1391234567{digit}" for digit in range(5)]
    refs = [ref("mobile", mobile) for mobile in mobiles]
    await callers.operator.RegisterSharedIdentifiers(pb.RegisterSharedIdentifiersRequest(identifiers=refs, reason="desk"))
    seen, token = [], ""
    while True:
        page = await callers.operator.ListSharedIdentifiers(pb.ListSharedIdentifiersRequest(page_size=2, page_token=token))
        seen += [shared.identifier_id for shared in page.shared_identifiers]
        if not (token := page.next_page_token):
            break
    assert 5 == len(set(seen)) == len(seen)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await callers.operator.ListClusterChanges(pb.ListClusterChangesRequest(page_token="x"))
    assert ("INVALID_PAGE_TOKEN", "page_token") == reason_of(error.value)


async def test_addresses_are_revealed_to_the_touchpoints_only_and_leave_a_trace(world: World, callers: Callers) -> None:
    events = await family(world)
    zhang, li = events[0].person.entity_id, events[3].person.entity_id
    request = pb.RevealAddressesRequest(person_ids=[zhang, li, 404], kind="mobile", purpose="dealer_contact")
    found = {a.person_id: a for a in (await callers.touchpoints.RevealAddresses(request)).addresses}
    assert {zhang: ("+86" + MOBILE, "张伟"), li: ("+86" + MOBILE, "李娜")} == {
        person: (a.value, a.person_name) for person, a in found.items()
    }
    assert events[1].person.anchor_id == found[zhang].anchor_id
    push = pb.RevealAddressesRequest(person_ids=[zhang], kind="openid", scope=APPID, purpose="push")
    (address,) = (await callers.touchpoints.RevealAddresses(push)).addresses
    assert (OPENID, "", events[2].person.anchor_id) == (address.value, address.person_name, address.anchor_id)
    app = pb.RevealAddressesRequest(person_ids=[zhang], kind="crm_id", scope="app", purpose="push")
    assert ["U1"] == [a.value for a in (await callers.touchpoints.RevealAddresses(app)).addresses]
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await callers.operator.RevealAddresses(request)
    assert "REVEAL_NOT_ALLOWED" == reason_of(error.value)[0]
    audit = await world.rows("SELECT caller, purpose, person_ids FROM reveal_audit ORDER BY id LIMIT 1")
    assert [("touchpoints", "dealer_contact", sorted([zhang, li]))] == [tuple(row) for row in audit]


async def test_statistics_count_what_is_there(world: World, callers: Callers) -> None:
    await family(world)
    answer = await callers.operator.GetStatistics(pb.GetStatisticsRequest())
    assert (2, 1, 9, 5, 0) == (answer.persons, answer.vehicles, answer.identifiers, answer.observations, answer.merges)
