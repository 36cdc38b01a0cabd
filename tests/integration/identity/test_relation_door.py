"""Households decided over the wire, dealers registered, quality told: through a real channel."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from troika.identity.v1 import events_pb2
from troika.identity.v1 import identity_service_pb2 as entity_pb
from troika.identity.v1 import relation_service_pb2 as pb
from troika.identity.v1.identity_service_pb2_grpc import IdentityServiceStub, add_IdentityServiceServicer_to_server
from troika.identity.v1.relation_service_pb2_grpc import RelationServiceStub, add_RelationServiceServicer_to_server

from chassis import rpc
from chassis.rpc import reason_of
from services.identity.inference import infer
from services.identity.rpc import IdentityRpc
from services.identity.rpc_relations import RelationRpc
from tests.integration.identity.world import NOW, World

HOME = "深圳市南山区科技园路12号3栋502室"
SAME_HOME = "广东省深圳市南山区科技园路１２号3幢502"
OFFICE = "深圳市南山区滨江大道1号1栋101室"
VIN, OTHER_VIN = "LSVAA49J132047371", "LTR1A3BC7HT000001"
ZHANG, LI, WANG = "13912345679", "15012345679", "18612345679"
USCC, OTHER_USCC = "91110000600037341L", "N21100006000373414"
DAY = 86_400_000_000


class Stubs:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.relations, self.identity = RelationServiceStub(channel), IdentityServiceStub(channel)


@pytest.fixture
async def door(world: World) -> AsyncIterator[Stubs]:
    hashes = {"operator": hashlib.sha256(b"operator-secret").hexdigest()}
    allowed = {f"troika.identity.v1.{name}": frozenset({"operator"}) for name in ("RelationService", "IdentityService")}
    server = rpc.Server(hashes, allowed, with_reflection=False)
    add_RelationServiceServicer_to_server(RelationRpc(world.database, world.vault), server.aio)
    servicer = IdentityRpc(world.database, world.store, world.vault, "k1", world.public_key, frozenset())
    add_IdentityServiceServicer_to_server(servicer, server.aio)
    port = await server.start("127.0.0.1:0")
    channel = rpc.connect(f"127.0.0.1:{port}", "operator", "operator-secret")
    yield Stubs(channel)
    await channel.close()
    await server.stop(0)


def record(number: str, mobile: str, who: str, address: str = "", vin: str = VIN, **extra: Any) -> tuple[Any, ...]:
    told = {"who": who, "address": address, **extra}
    return ("dealer:D001", ("crm_id", "dealer:D001", number), ("mobile", mobile), ("vin", vin), told)


async def inferred(world: World) -> None:
    while (await infer(world.database)).left:
        pass


async def couple(world: World) -> tuple[int, int]:
    """Zhang owns the car that Li drives; both live at one address, written in two ways."""
    events = await world.see(
        record("1", ZHANG, "张伟", HOME, relation="owns"),
        record("2", LI, "李娜", SAME_HOME, relation="drives", at=NOW + 3 * DAY),
    )
    await inferred(world)
    await world.published()
    return events[0].person.entity_id, events[1].person.entity_id


async def suggestions(door: Stubs, state: str = "") -> list[pb.HouseholdSuggestion]:
    answer = await door.relations.ListHouseholdSuggestions(pb.ListHouseholdSuggestionsRequest(state=state))
    return list(answer.household_suggestions)


async def decide(door: Stubs, suggestion_id: int, accept: bool) -> tuple[str, int]:
    request = pb.DecideHouseholdSuggestionRequest(suggestion_id=suggestion_id, accept=accept)
    answer = await door.relations.DecideHouseholdSuggestion(request)
    return answer.outcome, answer.household_id


async def entity(door: Stubs, kind: events_pb2.EntityKind.ValueType, id_: int) -> entity_pb.Entity:
    answer = await door.identity.GetEntity(entity_pb.GetEntityRequest(entity_kind=kind, entity_id=id_))
    return answer.entity


async def test_an_accepted_suggestion_is_a_household_dated_by_its_evidence_and_told(world: World, door: Stubs) -> None:
    zhang, li = await couple(world)
    (one,) = await suggestions(door)
    assert (zhang, li, ["vehicle"], 2, "pending") == (one.person_a, one.person_b, list(one.shared), one.residents, one.state)
    assert NOW + 3 * DAY == one.since.ToMicroseconds()
    assert ("CREATED", 1) == await decide(door, one.suggestion_id, True)
    assert ("ALREADY_DECIDED", 1) == await decide(door, one.suggestion_id, False)
    home = await entity(door, events_pb2.ENTITY_KIND_HOUSEHOLD, 1)
    assert {zhang, li} == {r.entity_id for r in home.relations}
    assert {NOW + 3 * DAY} == {r.valid_from.ToMicroseconds() for r in home.relations}
    person = await entity(door, events_pb2.ENTITY_KIND_PERSON, li)
    assert {("member_of", 1), ("drives", 1)} == {(r.kind, r.entity_id) for r in person.relations}
    _, changed, _ = await world.published()
    told = [c for message in changed for c in message.relation_changes]
    assert {("member_of", zhang, 1), ("member_of", li, 1)} == {(c.kind, c.subject_id, c.object_id) for c in told}
    assert [("operator", "accepted")] == [(s.decided_by, s.state) for s in await suggestions(door, "accepted")]


async def test_who_leaves_is_a_past_member(world: World, door: Stubs) -> None:
    zhang, _ = await couple(world)
    await decide(door, (await suggestions(door))[0].suggestion_id, True)
    ended_at = Timestamp()
    ended_at.FromMicroseconds(NOW + 30 * DAY)
    request = pb.EndMembershipRequest(household_id=1, person_id=zhang, ended_at=ended_at)
    assert (await door.relations.EndMembership(request)).ended
    assert not (await door.relations.EndMembership(request)).ended
    person = await entity(door, events_pb2.ENTITY_KIND_PERSON, zhang)
    (left,) = [r for r in person.relations if r.kind == "member_of"]
    assert NOW + 30 * DAY == left.valid_to.ToMicroseconds()


async def test_what_was_rejected_is_not_suggested_again(world: World, door: Stubs) -> None:
    await couple(world)
    assert ("REJECTED", 0) == await decide(door, (await suggestions(door))[0].suggestion_id, False)
    await world.see(record("3", LI, "李娜", HOME, relation="drives", at=NOW + 9 * DAY))
    await inferred(world)
    assert [] == await suggestions(door)


async def test_a_third_joins_and_two_households_do_not_become_one_unasked(world: World, door: Stubs) -> None:
    await couple(world)
    await decide(door, (await suggestions(door))[0].suggestion_id, True)
    await world.see(record("3", WANG, "王芳", HOME, relation="drives", at=NOW + DAY))
    await inferred(world)
    first, second = await suggestions(door)
    assert ("JOINED", 1) == await decide(door, first.suggestion_id, True)
    assert ("ALREADY_TOGETHER", 1) == await decide(door, second.suggestion_id, True)
    assert 3 == len((await entity(door, events_pb2.ENTITY_KIND_HOUSEHOLD, 1)).relations)


async def test_an_address_alone_or_a_dealers_suggests_nothing(world: World, door: Stubs) -> None:
    request = pb.RegisterDealersRequest(dealers=[pb.DealerRecord(code="D001", address=OFFICE)])
    await door.relations.RegisterDealers(request)
    await world.see(
        record("1", ZHANG, "张伟", HOME, relation="owns"),
        record("2", LI, "李娜", HOME, vin=OTHER_VIN, relation="owns"),
        record("3", WANG, "王芳", OFFICE, relation="drives"),
        record("4", "15112345679", "赵军", OFFICE, relation="drives"),
    )
    await inferred(world)
    assert [] == await suggestions(door)


async def test_a_pending_suggestion_goes_when_somebody_moves(world: World, door: Stubs) -> None:
    await couple(world)
    assert 1 == len(await suggestions(door))
    await world.see(record("2", LI, "李娜", OFFICE, relation="drives", at=NOW + 9 * DAY))
    await inferred(world)
    assert [] == await suggestions(door)


async def test_members_follow_their_records_through_a_merge(world: World, door: Stubs) -> None:
    zhang, li = await couple(world)
    await decide(door, (await suggestions(door))[0].suggestion_id, True)
    events = await world.see(("app", ("crm_id", "app", "U1"), ("unionid", "oUnionUnionUnionUnion")))
    loner = events[0].person.entity_id
    await world.see(("app", ("crm_id", "app", "U1"), ("mobile", LI), {"who": "李娜"}))
    home = await entity(door, events_pb2.ENTITY_KIND_HOUSEHOLD, 1)
    assert {zhang, min(li, loner)} == {r.entity_id for r in home.relations}


async def test_pages_of_suggestions_go_on_where_the_last_ended(world: World, door: Stubs) -> None:
    await world.see(
        *(record(str(n), f"139123456{n}", f"{name}娜", HOME, relation="drives") for n, name in enumerate("张李王刘", 11))
    )
    await inferred(world)
    seen, token = [], ""
    while True:
        request = pb.ListHouseholdSuggestionsRequest(page_size=4, page_token=token)
        answer = await door.relations.ListHouseholdSuggestions(request)
        seen += [s.suggestion_id for s in answer.household_suggestions]
        if not (token := answer.next_page_token):
            break
    assert (6, 6) == (len(seen), len(set(seen)))


async def test_dealers_are_registered_once_and_bad_codes_are_named(world: World, door: Stubs) -> None:
    dealers = [
        pb.DealerRecord(code="D001", uscc=USCC),
        pb.DealerRecord(code="D002", uscc="91110000600037341A"),
        pb.DealerRecord(code="D003", uscc=OTHER_USCC.lower(), address=OFFICE),
        pb.DealerRecord(code="D004", uscc=USCC),
        pb.DealerRecord(code="D005", address="无"),
    ]
    for _ in range(2):
        answer = await door.relations.RegisterDealers(pb.RegisterDealersRequest(dealers=dealers))
        assert [True, False, True, False, False] == [id_ > 0 for id_ in answer.dealer_ids]
        assert [
            ("dealers[1].uscc", "WRONG_CHECK_DIGIT"),
            ("dealers[3].uscc", "BELONGS_TO_ANOTHER_DEALER"),
            ("dealers[4].address", "NOT_AN_ADDRESS"),
        ] == [(r.field, r.reason) for r in answer.rejections]
    refs = [entity_pb.IdentifierRef(kind="uscc", value=value) for value in (USCC, OTHER_USCC)]
    found = await door.identity.ResolveIdentifiers(entity_pb.ResolveIdentifiersRequest(identifiers=refs))
    assert [answer.dealer_ids[0], answer.dealer_ids[2]] == list(found.entity_ids)
    dealer = await entity(door, events_pb2.ENTITY_KIND_DEALER, answer.dealer_ids[0])
    assert ("D001", {"uscc": 1}) == (dealer.code, dict(dealer.identifier_counts))


@pytest.mark.parametrize("kind", range(1, 6))
async def test_no_kind_of_entity_answers_for_a_number_that_is_none(door: Stubs, kind: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await entity(door, kind, 404)
    assert ("ENTITY_NOT_FOUND", "entity_id") == reason_of(error.value)


async def test_an_unknown_suggestion_is_not_found(door: Stubs) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await decide(door, 404, True)
    assert ("SUGGESTION_NOT_FOUND", "suggestion_id") == reason_of(error.value)


async def test_quality_is_told_worst_first_with_what_was_refused(world: World, door: Stubs) -> None:
    await world.see(
        record("1", ZHANG, "张伟"),
        ("dealer:D002", ("crm_id", "dealer:D002", "1"), ("mobile", "12345"), {"who": "测试"}),
    )
    answer = await door.relations.GetQualityReport(pb.GetQualityReportRequest())
    worst, best = answer.sources
    assert ("dealer:D002", "dealer:D001", 0.0) == (worst.source, best.source, best.defects_per_record)
    assert {("mobile", 1), ("name", 1)} == {(refused.kind, refused.values) for refused in worst.refusals}
    assert (1.0, 1.0, 1.0, 1.0) == (
        worst.invalid_share,
        worst.placeholder_share,
        worst.missing_shares["mobile"],
        worst.missing_shares["name"],
    )
    one = await door.relations.GetQualityReport(pb.GetQualityReportRequest(source="dealer:D001"))
    assert ["dealer:D001"] == [each.source for each in one.sources]
