"""What stewards do by hand: every conflict is an outcome, everything can be undone, and undone means as if never done."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from hashlib import sha256

import grpc
import pytest
from troika.identity.v1 import stewardship_service_pb2 as pb
from troika.identity.v1.identity_service_pb2 import IdentifierRef
from troika.identity.v1.stewardship_service_pb2_grpc import (
    StewardshipServiceStub,
    add_StewardshipServiceServicer_to_server,
)

from chassis import rpc
from chassis.rpc import reason_of
from services.identity import suggestions
from services.identity.rpc_stewardship import StewardshipRpc
from services.identity.suggestions import Pair
from tests.integration.identity.test_partition import pure_partition, seen, tables_partition
from tests.integration.identity.world import World

MOBILE, OTHER = "13912345679", "15012345679"
CARD, CARD_B = "11010519491231002X", "440524198001010013"


@pytest.fixture
async def steward(world: World) -> AsyncIterator[StewardshipServiceStub]:
    server = rpc.Server(
        {"operator": sha256(b"operator-secret").hexdigest()},
        {"troika.identity.v1.StewardshipService": frozenset({"operator"})},
        with_reflection=False,
    )
    add_StewardshipServiceServicer_to_server(StewardshipRpc(world.database, world.store, world.vault), server.aio)
    port = await server.start("127.0.0.1:0")
    channel = rpc.connect(f"127.0.0.1:{port}", "operator", "operator-secret")
    yield StewardshipServiceStub(channel)
    await channel.close()
    await server.stop(0)


async def persons(world: World) -> dict[int, int]:
    """Anchor → person."""
    rows = await world.rows("SELECT id, entity_id FROM identifier WHERE anchor AND kind <= 8")
    return {row.id: row.entity_id for row in rows}


async def strangers(world: World, number: int = 3, **extra: object) -> list[int]:
    events = await world.see(*(("app", ("crm_id", "app", f"U{i}"), dict(extra)) for i in range(number)))
    return [event.person.entity_id for event in events]


def merge(op_id: str, target: int, *sources: int, limit: int = 100, dry_run: bool = False) -> pb.MergePersonsRequest:
    return pb.MergePersonsRequest(
        op_id=op_id, target_id=target, source_ids=sources, move_limit=limit, dry_run=dry_run, reason="called us"
    )


def outcomes(answer: pb.MergePersonsResponse) -> list[str]:
    return [o.outcome for o in answer.outcomes]


async def test_the_target_goes_on_and_each_source_has_its_outcome(world: World, steward: StewardshipServiceStub) -> None:
    a, b, c = await strangers(world)
    answer = await steward.MergePersons(merge("m1", c, a, b, c, 404))
    assert ["MERGED", "MERGED", "SAME_AS_TARGET", "NOT_FOUND"] == outcomes(answer)
    assert {c} == set((await persons(world)).values())
    assert ["ALREADY_MERGED"] == outcomes(await steward.MergePersons(merge("m2", c, a)))


async def test_a_dry_run_tells_what_would_happen_and_changes_nothing(world: World, steward: StewardshipServiceStub) -> None:
    a, b, _ = await strangers(world)
    before = await persons(world)
    assert ["MERGED"] == outcomes(await steward.MergePersons(merge("m1", a, b, dry_run=True)))
    assert before == await persons(world)
    assert ["MERGED"] == outcomes(await steward.MergePersons(merge("m1", a, b)))


async def test_the_same_op_id_gives_the_same_answer_again_and_another_order_is_refused(
    world: World, steward: StewardshipServiceStub
) -> None:
    a, b, c = await strangers(world)
    first = await steward.MergePersons(merge("m1", a, b))
    again = await steward.MergePersons(merge("m1", a, b))
    assert (False, True) == (first.repeated_answer, again.repeated_answer)
    assert list(first.outcomes) == list(again.outcomes)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await steward.MergePersons(merge("m1", a, c))
    assert "OP_ID_REUSED" == reason_of(caught.value)[0]


async def test_what_would_pass_the_move_limit_is_left_alone(world: World, steward: StewardshipServiceStub) -> None:
    a, b, c = await strangers(world)
    answer = await steward.MergePersons(merge("m1", a, b, c, limit=1))
    assert ["MERGED", "MOVE_LIMIT_EXCEEDED"] == outcomes(answer)
    assert 2 == len(set((await persons(world)).values()))


async def test_two_id_cards_are_two_persons_whatever_a_steward_says(world: World, steward: StewardshipServiceStub) -> None:
    events = await world.see(
        ("app", ("crm_id", "app", "U1"), ("id_card", CARD)), ("app", ("crm_id", "app", "U2"), ("id_card", CARD_B))
    )
    a, b = (event.person.entity_id for event in events)
    before = await persons(world)
    for dry_run in (True, False):
        assert ["EXCLUSIVE_ID_CARD"] == outcomes(await steward.MergePersons(merge("m1", a, b, dry_run=dry_run)))
    assert before == await persons(world)


async def test_a_merge_undone_gives_everybody_their_own_number_back(world: World, steward: StewardshipServiceStub) -> None:
    a, b, c = await strangers(world)
    before = await persons(world)
    await steward.MergePersons(merge("m1", b, a, c))
    undone = await steward.Unmerge(pb.UnmergeRequest(op_id="m1"))
    assert ("UNMERGED", {a, b, c}) == (undone.outcome, set(undone.person_ids))
    assert before == await persons(world)
    assert "ALREADY_UNMERGED" == (await steward.Unmerge(pb.UnmergeRequest(op_id="m1"))).outcome


async def test_who_came_from_a_split_is_known_by_that_number_ever_after(world: World, steward: StewardshipServiceStub) -> None:
    phone = [IdentifierRef(kind="mobile", value=MOBILE)]
    await world.see(
        ("app", ("crm_id", "app", "U1"), ("mobile", MOBILE)),
        ("call_center", ("crm_id", "call_center", "C1"), ("mobile", MOBILE)),
    )
    await steward.QuarantineIdentifiers(pb.QuarantineIdentifiersRequest(identifiers=phone, reason="odd"))
    parted = await persons(world)
    assert 2 == len(set(parted.values()))
    await steward.MergePersons(merge("m1", *sorted(set(parted.values()))))
    await steward.Unmerge(pb.UnmergeRequest(op_id="m1"))
    assert parted == await persons(world)


async def test_what_evidence_joined_can_be_parted_and_stays_parted(world: World, steward: StewardshipServiceStub) -> None:
    first = await world.see(("app", ("crm_id", "app", "U1"), ("mobile", MOBILE)))
    second = await world.see(("app", ("crm_id", "app", "U2"), ("mobile", OTHER)))
    before = await persons(world)
    await world.see(("call_center", ("crm_id", "call_center", "C1"), ("mobile", MOBILE)))
    await world.see(("call_center", ("crm_id", "call_center", "C2"), ("mobile", OTHER)))
    await world.see(
        ("app", ("crm_id", "app", "U1"), ("unionid", "oUnionUnionUnionUnion")),
        ("app", ("crm_id", "app", "U2"), ("unionid", "oUnionUnionUnionUnion")),
    )
    assert 1 == len(set((await persons(world)).values()))
    (found, *_) = (await steward.ListMerges(pb.ListMergesRequest())).merges
    assert ("SAME_UNIONID", "", False) == (found.reason, found.caller, found.undone)
    tried = await steward.Unmerge(pb.UnmergeRequest(op_id=found.op_id, dry_run=True))
    assert ("UNMERGED", 2) == (tried.outcome, len(tried.person_ids))
    undone = await steward.Unmerge(pb.UnmergeRequest(op_id=found.op_id))
    assert [first[0].person.entity_id, second[0].person.entity_id] == list(undone.person_ids)
    assert before == {anchor: person for anchor, person in (await persons(world)).items() if anchor in before}
    # The same evidence again, and more of it, joins them no more; a steward's later word does.
    await world.see(("wechat:wx1", ("crm_id", "wechat:wx1", "W1"), ("unionid", "oUnionUnionUnionUnion")))
    now = await persons(world)
    assert now[first[0].person.anchor_id] != now[second[0].person.anchor_id]
    assert "ALREADY_UNMERGED" == (await steward.Unmerge(pb.UnmergeRequest(op_id=found.op_id))).outcome
    assert (await steward.ListMerges(pb.ListMergesRequest())).merges[-1].undone
    answer = await steward.MergePersons(merge("m9", now[first[0].person.anchor_id], now[second[0].person.anchor_id]))
    assert ["MERGED"] == outcomes(answer)


async def test_an_unknown_merge_is_not_found(steward: StewardshipServiceStub) -> None:
    for op_id in ("never", "ledger/999", "ledger/x"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await steward.Unmerge(pb.UnmergeRequest(op_id=op_id))
        assert "MERGE_NOT_FOUND" == reason_of(caught.value)[0]


@pytest.mark.parametrize("seed", range(3))
async def test_merge_then_anything_then_unmerge_equals_never_merged(
    world: World, steward: StewardshipServiceStub, seed: int
) -> None:
    rng = random.Random(seed)
    events = seen(rng, f"{seed}66", 40)
    await world.see(*(tuple(event) for event in events[:20]))
    people = sorted(set((await persons(world)).values()))
    chosen = rng.sample(people, min(4, len(people)))
    await steward.MergePersons(merge("m1", *chosen))
    await world.see(*(tuple(event) for event in events[20:]))
    await steward.Unmerge(pb.UnmergeRequest(op_id="m1"))
    after = await tables_partition(world)
    async with world.database.transaction() as uow:
        await uow.execute("DELETE FROM link WHERE strength = -1")
    assert await pure_partition(world) == after[0]


async def test_a_quarantined_value_lets_go_and_a_released_one_holds_again(
    world: World, steward: StewardshipServiceStub
) -> None:
    await world.see(
        ("app", ("crm_id", "app", "U1"), ("mobile", MOBILE)),
        ("call_center", ("crm_id", "call_center", "C1"), ("mobile", MOBILE)),
    )
    before = await persons(world)
    phone = [IdentifierRef(kind="mobile", value=MOBILE), IdentifierRef(kind="mobile", value="0")]
    answer = await steward.QuarantineIdentifiers(pb.QuarantineIdentifiersRequest(identifiers=phone, reason="odd"))
    assert (1, [1]) == (answer.quarantined, list(answer.invalid_indexes))
    assert 2 == len(set((await persons(world)).values()))
    phone.append(IdentifierRef(kind="mobile", value=OTHER))
    released = await steward.ReleaseIdentifiers(pb.ReleaseIdentifiersRequest(identifiers=phone))
    assert (1, [1, 2]) == (released.released, list(released.invalid_indexes))
    assert before == await persons(world)


async def test_a_phone_that_was_counted_out_joins_again_when_it_is_released(
    world: World, steward: StewardshipServiceStub
) -> None:
    await world.see(*(("app", ("crm_id", "app", f"U{i}"), ("mobile", MOBILE)) for i in range(4)))
    assert 4 == len(set((await persons(world)).values()))
    await steward.ReleaseIdentifiers(pb.ReleaseIdentifiersRequest(identifiers=[IdentifierRef(kind="mobile", value=MOBILE)]))
    assert 1 == len(set((await persons(world)).values()))
    await world.see(("app", ("crm_id", "app", "U9"), ("mobile", MOBILE)))
    assert 1 == len(set((await persons(world)).values()))


async def test_a_probable_link_joins_and_gives_way_to_proof(world: World, steward: StewardshipServiceStub) -> None:
    events = await world.see(*(("app", ("crm_id", "app", f"U{i}")) for i in range(4)))
    anchors = [event.person.anchor_id for event in events]
    async with world.database.transaction() as uow:
        kept = await suggestions.suggest(
            uow,
            world.store,
            [Pair(anchors[0], anchors[1], 0.999, {"name": 9.5}), Pair(anchors[2], anchors[3], 0.8, {"name": 4.0})],
            threshold=0.99,
        )
    assert (1, 1) == kept
    now = await persons(world)
    assert now[anchors[0]] == now[anchors[1]]
    await world.see(("app", ("crm_id", "app", "U0"), ("id_card", CARD)), ("app", ("crm_id", "app", "U1"), ("id_card", CARD_B)))
    now = await persons(world)
    assert now[anchors[0]] != now[anchors[1]]


async def test_a_suggestion_is_decided_once(world: World, steward: StewardshipServiceStub) -> None:
    events = await world.see(*(("app", ("crm_id", "app", f"U{i}")) for i in range(4)))
    anchors = [event.person.anchor_id for event in events]
    pairs = [Pair(anchors[0], anchors[1], 0.9, {"name": 9.5}), Pair(anchors[2], anchors[3], 0.8, {"name": 4.0})]
    async with world.database.transaction() as uow:
        await suggestions.suggest(uow, world.store, pairs, threshold=1.1)
    page = await steward.ListSuggestions(pb.ListSuggestionsRequest(page_size=1))
    rest = await steward.ListSuggestions(pb.ListSuggestionsRequest(page_size=1, page_token=page.next_page_token))
    listed = [*page.suggestions, *rest.suggestions]
    assert [{"name": 4.0}, {"name": 9.5}] == [dict(s.match_weights) for s in listed]
    accepted = await steward.DecideSuggestion(pb.DecideSuggestionRequest(suggestion_id=listed[1].suggestion_id, accept=True))
    assert ("accepted", "MERGED") == (accepted.state, accepted.outcome)
    await steward.DecideSuggestion(pb.DecideSuggestionRequest(suggestion_id=listed[0].suggestion_id, accept=False))
    now = await persons(world)
    assert now[anchors[0]] == now[anchors[1]] and now[anchors[2]] != now[anchors[3]]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await steward.DecideSuggestion(pb.DecideSuggestionRequest(suggestion_id=listed[0].suggestion_id, accept=True))
    assert "ALREADY_DECIDED" == reason_of(caught.value)[0]
    async with world.database.transaction() as uow:
        assert (0, 0) == await suggestions.suggest(uow, world.store, pairs, threshold=0.5)
    assert [] == list((await steward.ListSuggestions(pb.ListSuggestionsRequest())).suggestions)
    await steward.Unmerge(pb.UnmergeRequest(op_id=accepted.op_id))
    now = await persons(world)
    assert now[anchors[0]] != now[anchors[1]]
