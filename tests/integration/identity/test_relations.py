"""Relations on real tables: dated from evidence in any order, inferred from use, seen from either end."""

from __future__ import annotations

from typing import Any

import pytest
from troika.identity.v1 import events_pb2 as out

from services.identity.domain.kinds import Space
from services.identity.domain.relations import Relation
from tests.integration.identity.relating import DAY, LI, VIN, WANG, ZHANG, entity, inferred, record
from tests.integration.identity.world import NOW, World


def dated(relations: Any) -> list[tuple[str, int, int, int]]:
    """(kind, subject, from, to), in days since NOW; -1: still."""
    return sorted(
        (r.kind, r.subject[1], (r.valid_from_us - NOW) // DAY, (r.valid_to_us - NOW) // DAY if r.valid_to_us else -1)
        for r in relations
    )


async def test_a_later_sale_ends_the_earlier_owners_time_and_a_weak_word_does_not(world: World) -> None:
    events = await world.see(
        record("D001", "1", LI, VIN, who="李娜", name="Vehicle Sold", at=NOW + 100 * DAY),
        record("D002", "2", ZHANG, VIN, who="张伟", name="Vehicle Sold", at=NOW),
        record("D002", "3", WANG, VIN, who="王芳", relation="owns", at=NOW + 150 * DAY),
    )
    li, zhang, _ = (event.person.entity_id for event in events)
    car = await entity(world, Space.VEHICLE, events[0].vehicle.entity_id)
    owners = [r for r in car.relations if r.kind == "owns"]
    assert sorted([("owns", zhang, 0, 100), ("owns", li, 100, -1)]) == dated(owners)
    assert [(True, "SOLD", 1)] * 2 == [(r.stated, r.reason, r.support.observations) for r in owners]
    sold = [(r.object[1], (r.valid_from_us - NOW) // DAY, bool(r.valid_to_us)) for r in car.relations if r.kind == "sold_by"]
    rows = await world.rows("SELECT code, id FROM dealer")
    dealer = {row.code: row.id for row in rows}
    assert [(dealer["D001"], 100, False), (dealer["D002"], 0, True)] == sorted(sold)


async def test_the_person_sees_the_same_dates_as_the_car(world: World) -> None:
    events = await world.see(
        record("D001", "1", LI, VIN, who="李娜", name="Vehicle Sold", at=NOW + 100 * DAY),
        record("D002", "2", ZHANG, VIN, who="张伟", relation="owns", at=NOW, vehicle={"sold_on": "2020-01-01"}),
    )
    zhang = await entity(world, Space.PERSON, events[1].person.entity_id)
    (owned,) = zhang.relations
    assert ("owns", (Space.VEHICLE, events[0].vehicle.entity_id)) == (owned.kind, owned.object)
    assert 1_577_836_800_000_000 == owned.valid_from_us
    assert NOW + 100 * DAY == owned.valid_to_us


async def test_somebody_seen_with_anothers_car_on_two_days_drives_it(world: World) -> None:
    events = await world.see(
        record("D001", "1", ZHANG, VIN, who="张伟", relation="owns"),
        ("app", ("crm_id", "app", "U1"), ("mobile", LI), ("vin", VIN), {"at": NOW + 2 * DAY, "who": "李娜"}),
    )
    vehicle, li = events[0].vehicle.entity_id, events[1].person.entity_id
    once = await entity(world, Space.VEHICLE, vehicle)
    assert [] == [r for r in once.relations if r.kind == "drives"]
    await world.see(("app", ("crm_id", "app", "U1"), ("mobile", LI), ("vin", VIN), {"at": NOW + 5 * DAY, "who": "李娜"}))
    (drives,) = [r for r in (await entity(world, Space.VEHICLE, vehicle)).relations if r.kind == "drives"]
    assert ((Space.PERSON, li), False, "USED", 2, ("app",)) == (
        drives.subject,
        drives.stated,
        drives.reason,
        drives.support.days,
        drives.support.sources,
    )


async def test_a_test_drive_makes_nobody_a_driver_but_a_dealers_customer(world: World) -> None:
    events = await world.see(
        record("D001", "1", ZHANG, VIN, who="张伟", relation="owns"),
        *(record("D001", "2", LI, VIN, who="李娜", name="Test Drive Completed", at=NOW + n * DAY) for n in range(3)),
    )
    car = await entity(world, Space.VEHICLE, events[0].vehicle.entity_id)
    assert {"owns", "serviced_by"} == {r.kind for r in car.relations}
    (advised,) = (await entity(world, Space.PERSON, events[1].person.entity_id)).relations
    assert ("advised_by", Space.DEALER, 3) == (advised.kind, advised.object[0], advised.support.observations)


async def test_the_serving_dealer_is_where_the_car_goes_lately(world: World) -> None:
    visits = [("D001", -900), ("D001", -800), ("D001", -700), ("D002", -40), ("D002", -10)]
    events = await world.see(
        *(
            record(dealer, dealer, ZHANG, VIN, who="张伟", name="Service Completed", at=NOW + day * DAY)
            for dealer, day in visits
        )
    )
    dealer = {row.id: row.code for row in await world.rows("SELECT code, id FROM dealer")}
    car = await entity(world, Space.VEHICLE, events[0].vehicle.entity_id)
    told = {dealer[r.object[1]]: (bool(r.valid_to_us), r.reason, r.support.observations) for r in car.relations}
    assert {"D002": (False, "MOST_VISITS", 2), "D001": (True, "OUTWEIGHED", 3)} == told


@pytest.mark.parametrize("batches", [[[0, 1, 2, 3]], [[3], [2], [1], [0]], [[1, 3], [0], [2]]])
async def test_any_order_and_batching_leaves_the_same_evidence(world: World, batches: list[list[int]]) -> None:
    made = [
        record("D001", "1", ZHANG, VIN, who="张伟", relation="owns", id=b"a" * 16),
        record("D001", "1", ZHANG, VIN, who="张伟", relation="owns", at=NOW - 700 * DAY, id=b"b" * 16),
        record("D001", "1", ZHANG, VIN, who="张伟", name="Service Visit", at=NOW + 1, id=b"c" * 16),
        record("D001", "1", ZHANG, VIN, who="张伟", relation="owns", at=NOW + 2, id=b"d" * 16),
    ]
    for batch in batches:
        await world.see(*((*made[at][:-1], dict(made[at][-1])) for at in batch))
        await world.see(*((*made[at][:-1], dict(made[at][-1])) for at in batch))
    vehicle = (await world.rows("SELECT entity_id FROM identifier WHERE kind = 9"))[0].entity_id
    car = await entity(world, Space.VEHICLE, vehicle)
    (owns,) = [r for r in car.relations if r.kind == "owns"]
    assert (NOW - 700 * DAY, 0, 3, 2) == (owns.valid_from_us, owns.valid_to_us, owns.support.observations, owns.support.days)
    (served,) = [r for r in car.relations if r.kind == "serviced_by"]
    assert ("MOST_VISITS", 1) == (served.reason, served.support.observations)


async def test_dealers_and_devices_answer_for_themselves(world: World) -> None:
    events = await world.see(
        record("D001", "1", ZHANG, VIN, who="张伟", name="Vehicle Sold"),
        ("app", ("crm_id", "app", "U1"), ("mobile", ZHANG), ("device", "family-tablet")),
        ("app", ("crm_id", "app", "U2"), ("mobile", LI), ("device", "family-tablet")),
    )
    assert 1 == (await inferred(world)).devices
    dealer = await entity(world, Space.DEALER, 1)
    assert ("D001", [("sold_by", (Space.VEHICLE, events[0].vehicle.entity_id))]) == (
        dealer.code,
        [(r.kind, r.subject) for r in dealer.relations],
    )
    tablet = await entity(world, Space.DEVICE, 1)
    assert {events[1].person.entity_id, events[2].person.entity_id} == {r.subject[1] for r in tablet.relations}
    uses: list[Relation] = list((await entity(world, Space.PERSON, events[2].person.entity_id)).relations)
    assert [("uses", (Space.DEVICE, 1))] == [(r.kind, r.object) for r in uses]
    _, changed, _ = await world.published()
    assert {"owns", "sold_by", "uses"} == {c.kind for m in changed for c in m.relation_changes}
    assert out.ENTITY_KIND_DEVICE in {c.object_kind for m in changed for c in m.relation_changes}


async def test_a_social_credit_code_on_records_makes_nobody_one(world: World) -> None:
    code = ("uscc", "91110000600037341L")
    events = await world.see(
        ("dealer:D001", ("crm_id", "dealer:D001", "1"), ("mobile", ZHANG), code, {"who": "张伟"}),
        ("dealer:D001", ("crm_id", "dealer:D001", "2"), ("mobile", LI), code, {"who": "李娜"}),
        ("dealer:D001", code),
    )
    zhang, li, nobody = (event.person.entity_id for event in events)
    assert zhang != li
    assert (0, 0) == (nobody, events[2].vehicle.entity_id)


async def test_of_a_car_of_a_crowd_only_the_owner_is_told(world: World) -> None:
    surnames = "李王刘陈杨黄赵吴周徐孙马"
    events = await world.see(
        record("D001", "99", ZHANG, VIN, who="张伟", relation="owns"),
        *(
            record("D001", f"1{n}", f"1390000{1000 + n}", VIN, who=f"{name}娜", relation="drives")
            for n, name in enumerate(surnames)
        ),
    )
    car = await entity(world, Space.VEHICLE, events[0].vehicle.entity_id)
    assert {("owns", events[0].person.entity_id)} == {
        (r.kind, r.subject[1]) for r in car.relations if r.subject[0] is Space.PERSON
    }
    driver = await entity(world, Space.PERSON, events[1].person.entity_id)
    assert [] == [r for r in driver.relations if r.kind == "drives"]
