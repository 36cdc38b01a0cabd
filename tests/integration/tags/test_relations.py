"""Relations end when identity says so: a car that was sold is not its seller's any more."""

from __future__ import annotations

import random
from typing import Any

import pytest
from troika.identity.v1 import events_pb2 as identity

from chassis.db import Database
from services.tags.domain.catalogue import Kind
from tests.integration.tags import world
from tests.integration.tags.world import erasure, event, move

MARCH, JUNE = 100, 200


def told(
    person: int,
    vehicle: int = 50,
    kind: str = "owns",
    *,
    since: int = MARCH,
    until: int = 0,
    confidence: float = 1.0,
    **ends: Any,
) -> identity.EntitiesChanged:
    change = identity.RelationChange(
        kind=kind,
        **{"subject_kind": identity.ENTITY_KIND_PERSON, "object_kind": identity.ENTITY_KIND_VEHICLE, **ends},
        subject_id=person,
        object_id=vehicle,
        valid_from_us=since,
        valid_to_us=until,
        confidence=confidence,
        stated=True,
    )
    return identity.EntitiesChanged(relation_changes=[change])


@pytest.fixture
async def owner(database: Database) -> Database:
    """Person 10 says to own car 50."""
    await world.resolved(database, event(1, person=(1, 10, 1), vehicle=(1, 50, 1), relation="owns"))
    assert {(10, 50, "owns")} == await world.relations(database)
    await world.empty_outbox(database)
    return database


async def test_a_sold_car_leaves_its_seller_and_whoever_follows_is_told(owner: Database) -> None:
    await world.changed(owner, told(10), told(10, until=JUNE), told(20, since=JUNE))
    assert set() == await world.relations(owner)
    [[change]] = [message.relation_changes for message in await world.published(owner)]
    assert (10, 50, "owns", True) == (change.subject_id, change.object_id, change.kind, change.removed)
    await world.resolved(owner, event(2, person=(2, 20, 2), vehicle=(1, 50, 1), relation="owns"))
    # The seller's old records come again.
    await world.resolved(owner, event(3, person=(1, 10, 1), vehicle=(1, 50, 1), relation="owns", at=1))
    assert {(20, 50, "owns")} == await world.relations(owner)


async def test_who_buys_the_car_back_owns_it_again(owner: Database) -> None:
    await world.changed(owner, told(10, until=JUNE))
    await world.changed(owner, told(10, since=JUNE + 1), first=2)
    assert {(10, 50, "owns")} == await world.relations(owner)


async def test_what_identity_takes_back_leaves_what_sources_say(owner: Database) -> None:
    await world.changed(owner, told(10, until=JUNE))
    assert set() == await world.relations(owner)
    await world.changed(owner, told(10, until=JUNE, confidence=0.0), first=2)
    assert {(10, 50, "owns")} == await world.relations(owner)


async def test_what_was_told_last_counts_in_whatever_order_it_comes(owner: Database) -> None:
    said = [told(10), told(10, until=JUNE), told(10, confidence=0.0), told(10, until=JUNE)]
    order = list(enumerate(said, start=1)) * 2
    random.Random(4).shuffle(order)
    for place, batch in order:
        await world.changed(owner, batch, first=place)
    assert set() == await world.relations(owner)


async def test_an_end_that_is_told_before_its_beginning_is_seen_counts_too(database: Database) -> None:
    await world.changed(database, told(10, until=JUNE))
    assert [] == await world.published(database)
    await world.resolved(database, event(1, person=(1, 10, 1), vehicle=(1, 50, 1), relation="owns"))
    assert set() == await world.relations(database)


async def test_relations_of_other_kinds_and_ends_concern_nobody_here(owner: Database) -> None:
    await world.changed(
        owner,
        told(10, kind="pays_for", until=JUNE),
        told(10, kind="drives", until=JUNE),
        told(10, until=JUNE, object_kind=identity.ENTITY_KIND_HOUSEHOLD),
        told(50, 10, kind="serviced_by", until=JUNE, subject_kind=identity.ENTITY_KIND_VEHICLE),
        told(10, 51, until=JUNE),
    )
    assert {(10, 50, "owns")} == await world.relations(owner)
    assert [] == await world.published(owner)


async def test_after_an_unmerge_ended_relations_are_as_if_never_merged(owner: Database) -> None:
    await world.resolved(owner, event(2, person=(2, 20, 2), vehicle=(2, 60, 2), relation="owns"))
    await world.changed(owner, told(10, until=JUNE), told(20, 60))
    before = await world.relations(owner)
    await world.moved(owner, move(Kind.PERSON, (1, 20, 3)))
    await world.changed(owner, told(20, 50, until=JUNE), told(10, until=JUNE, confidence=0.0), first=10)
    assert {(20, 60, "owns")} == await world.relations(owner)
    await world.moved(owner, move(Kind.PERSON, (1, 10, 4)))
    await world.changed(owner, told(10, until=JUNE), told(20, 50, until=JUNE, confidence=0.0), first=20)
    assert before == await world.relations(owner)


async def test_nothing_is_kept_of_an_erased_persons_relations_told_late(owner: Database) -> None:
    await world.changed(owner, erasure(10, 1), told(10, until=JUNE))
    await world.changed(owner, told(10, until=JUNE), first=9)
    async with owner.read() as uow:
        assert [] == await uow.rows("SELECT 1 FROM told_relation")
