"""Erased persons stay away when their records come again, and come back only when somebody lets them."""

from __future__ import annotations

import grpc
import pytest
from troika.identity.v1 import identity_service_pb2 as pb
from troika.identity.v1 import vault_service_pb2 as vault_pb

from chassis.rpc import reason_of
from services.identity import stewardship, suggestions
from services.identity.stewardship import MergeOrder
from services.identity.suggestions import Pair
from tests.integration.identity.erasing import (
    MOBILE,
    OWN_MOBILE,
    UNIONID,
    ZHANG,
    Doors,
    both,
    erase,
    failed_checks,
    ref,
    resolve,
    snapshot,
)
from tests.integration.identity.world import NOW, World


async def test_the_same_events_do_not_bring_an_erased_person_back(world: World, doors: Doors) -> None:
    _, zhang = await both(world)
    await erase(doors, zhang)
    await world.published()
    before = await snapshot(world)
    assert [] == await world.see(*ZHANG, at=NOW + 10**12)
    _, changed, dead = await world.published()
    assert ([], []) == (changed, dead)
    assert before == await snapshot(world)
    rows = await world.rows("SELECT s.name, r.kind, r.identifiers FROM rejected r JOIN source s ON s.id = r.source_id"
                            " WHERE reason = 'ERASED'")  # fmt: skip
    assert {("dealer:D001", "crm_id", 1), ("app", "crm_id", 1), ("call_center", "crm_id", 1)} == set(map(tuple, rows))


@pytest.mark.parametrize(
    ("who", "identifiers"),
    [
        ("张伟", [("crm_id", "dealer:D009", "NEW"), ("mobile", OWN_MOBILE)]),
        ("张小伟", [("crm_id", "dealer:D009", "NEW"), ("mobile", OWN_MOBILE)]),
        ("", [("crm_id", "dealer:D009", "NEW"), ("unionid", UNIONID)]),
        ("张伟", [("crm_id", "dealer:D009", "NEW"), ("mobile", MOBILE)]),
        ("张伟", [("mobile", MOBILE)]),
        ("", [("device", "a8f5f167f44f4964")]),
        ("王芳", [("crm_id", "app", "U1"), ("mobile", "18612345679")]),
    ],
)
async def test_old_identifiers_in_new_records_are_refused(
    world: World, doors: Doors, who: str, identifiers: list[tuple[str, ...]]
) -> None:
    _, zhang = await both(world)
    await erase(doors, zhang)
    assert [] == await world.see(("call_center", *identifiers, {"who": who}))


async def test_others_on_a_shared_phone_stay_and_come_again(world: World, doors: Doors) -> None:
    li, zhang = await both(world)
    await erase(doors, zhang)
    assert [li] == await resolve(doors, ref("mobile", MOBILE))
    again = await world.see(
        ("call_center", ("crm_id", "call_center", "C2"), ("mobile", MOBILE), {"who": "李娜"}),
        ("app", ("crm_id", "app", "U7"), ("mobile", MOBILE)),
    )
    assert [li, li] == [event.person.entity_id for event in again]
    request = pb.RevealAddressesRequest(person_ids=[li], kind="mobile", purpose="dealer_contact")
    (address,) = (await doors.touchpoints.RevealAddresses(request)).addresses
    assert ("+86" + MOBILE, "李娜") == (address.value, address.person_name)


async def test_who_comes_back_by_their_own_will_is_somebody_new(world: World, doors: Doors) -> None:
    _, zhang = await both(world)
    manifest = await erase(doors, zhang)
    request = vault_pb.LiftSuppressionRequest(request_id="r1", reason="new consent 77")
    answer = await doors.vault.LiftSuppression(request)
    # Six of his own, and Li's phone under his name.
    assert (7, [manifest.erasure_id]) == (answer.lifted, list(answer.erasure_ids))
    assert 0 == (await doors.vault.LiftSuppression(request)).lifted
    back = await world.see(*ZHANG, at=NOW + 10**12)
    persons = {event.person.entity_id for event in back}
    assert 1 == len(persons) and zhang not in persons
    assert not {event.person.anchor_id for event in back} & set(manifest.anchor_ids)
    assert {} == await failed_checks(doors)


async def test_a_single_value_can_be_let_in_again(world: World, doors: Doors) -> None:
    _, zhang = await both(world)
    await erase(doors, zhang)
    stranger = ("call_center", ("crm_id", "call_center", "C9"), ("mobile", OWN_MOBILE), {"who": "王芳"})
    assert [] == await world.see(stranger)
    request = vault_pb.LiftSuppressionRequest(identifiers=[ref("mobile", OWN_MOBILE)], reason="the number was given away anew")
    assert 1 == (await doors.vault.LiftSuppression(request)).lifted
    assert 1 == len(await world.see(stranger))
    assert [] == await world.see(ZHANG[1], at=NOW + 1)


@pytest.mark.parametrize(
    ("request_id", "identifiers", "expected"),
    [
        ("", [], ("ONE_OF_TWO", "request_id")),
        ("r1", [ref("mobile", MOBILE)], ("ONE_OF_TWO", "request_id")),
        ("none", [], ("ERASURE_NOT_FOUND", "request_id")),
        ("", [ref("mobile", "000")], ("NOT_A_VALID_NUMBER", "identifiers[0].value")),
    ],
)
async def test_a_lift_names_what_is_wrong(
    doors: Doors, request_id: str, identifiers: list[pb.IdentifierRef], expected: tuple[str, str]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await doors.vault.LiftSuppression(
            vault_pb.LiftSuppressionRequest(request_id=request_id, identifiers=identifiers, reason="x")
        )
    assert expected == reason_of(error.value)


async def test_an_erasure_is_told_and_feedback_after_it_is_refused(world: World, doors: Doors) -> None:
    _, zhang = await both(world)
    await world.published()
    manifest = await erase(doors, zhang)
    _, changed, _ = await world.published()
    (told,) = [erased for batch in changed for erased in batch.erasures]
    assert (manifest.erasure_id, zhang, set(manifest.anchor_ids)) == (told.erasure_id, told.person_id, set(told.anchor_ids))
    key = world.key()
    event = world.event(key, "app", name="Push Opened", anchor_id=manifest.anchor_ids[0])
    await world.take(world.batch(key, [event]))
    resolved, _, dead = await world.published()
    assert ([], []) == (resolved, dead)


async def test_a_namesake_who_was_once_taken_for_the_erased_person_is_not_turned_away(world: World, doors: Doors) -> None:
    """What operators and linkage say of two records is no value of either."""
    cards = ("11010519491231002X", "440524198001010013")
    records = [("app", ("crm_id", "app", f"N{at}"), ("id_card", card), {"who": "张伟"}) for at, card in enumerate(cards)]
    erased, other = await world.see(*records)
    ids = (erased.person.anchor_id, other.person.anchor_id)
    async with world.database.transaction() as uow:
        await suggestions.suggest(uow, world.store, [Pair(*ids, 0.99, {})], 0.9)
    order = MergeOrder("op", other.person.entity_id, [erased.person.entity_id], 100, "looks alike", "operator")
    async with world.database.transaction() as uow:
        await stewardship.merge_persons(uow, world.store, order)
    await erase(doors, erased.person.entity_id)
    assert {} == await failed_checks(doors)
    again = await world.see(*records, at=NOW + 10**12)
    assert [other.person.entity_id] == [event.person.entity_id for event in again]
    rows = await world.rows("SELECT identifier_id, name FROM suppression WHERE identifier_id = ANY(:ids)", ids=ids)
    assert [(erased.person.anchor_id, 0)] == list(map(tuple, rows))


async def test_a_number_that_speaks_for_somebody_else_keeps_its_name(world: World, doors: Doors) -> None:
    # Wang has no record of hers: facts hang on her number. Zhang's file names it, too.
    (wang,) = await world.see(("call_center", ("mobile", MOBILE), {"who": "王芳"}))
    await world.see(("call_center", ("mobile", MOBILE), {"who": "王芳", "at": NOW + 1}))
    (zhang,) = await world.see(("dealer:D001", ("crm_id", "dealer:D001", "D1"), ("mobile", MOBILE), {"who": "张伟"}))
    assert wang.person.entity_id != zhang.person.entity_id
    await erase(doors, zhang.person.entity_id)
    again = await world.see(
        ("call_center", ("mobile", MOBILE), {"who": "王芳", "at": NOW + 10**12}),
        ("call_center", ("mobile", MOBILE), {"who": "张伟", "at": NOW + 10**12}),
    )
    assert [wang.person.entity_id] == [event.person.entity_id for event in again]
