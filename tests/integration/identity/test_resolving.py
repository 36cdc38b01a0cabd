"""Events come in sealed and go out as persons and vehicles."""

from __future__ import annotations

from tests.integration.identity.world import NOW, World

MOBILE, OTHER = "13912345679", "15012345679"
VIN, PLATE = "LSVAA49J132047371", "粤B12345"


async def test_records_of_two_sources_with_one_mobile_and_name_are_one_person(world: World) -> None:
    first = await world.see(("dealer:D001", ("crm_id", "dealer:D001", "7"), ("mobile", MOBILE), {"who": "张伟"}))
    second = await world.see(("app", ("crm_id", "app", "U1"), ("mobile", "139 1234 5679"), {"who": "章伟"}))
    assert first[0].person.entity_id == second[0].person.entity_id > 0
    assert first[0].person.anchor_id != second[0].person.anchor_id


async def test_an_event_that_comes_twice_is_told_once(world: World) -> None:
    event = ("app", ("crm_id", "app", "U1"), {"id": b"0" * 16})
    assert 1 == len(await world.see(event, event))
    assert [] == await world.see(event)


async def test_a_known_claim_costs_no_version(world: World) -> None:
    one = await world.see(("app", ("crm_id", "app", "U1"), ("device", "d-1234567")))
    two = await world.see(("app", ("crm_id", "app", "U1"), ("device", "d-1234567")))
    assert one[0].person == two[0].person
    assert 1 == (await world.rows("SELECT last_value FROM graph_version_seq"))[0].last_value


async def test_two_persons_that_turn_out_to_be_one_are_merged_and_their_anchors_move(world: World) -> None:
    seen = await world.see(
        ("app", ("crm_id", "app", "U1"), ("mobile", MOBILE)),
        ("call_center", ("crm_id", "call_center", "C1"), ("mobile", OTHER)),
    )
    a, b = (event.person for event in seen)
    assert a.entity_id != b.entity_id
    key = world.key()
    joining = world.event(key, "app", ("crm_id", "app", "U1"), ("mobile", OTHER))
    await world.take(world.batch(key, [joining]))
    resolved, changed, _ = await world.published()
    survivor, gone = sorted((a, b), key=lambda owner: owner.entity_id)
    move = changed[0].anchor_moves[0]
    assert (gone.anchor_id, survivor.entity_id) == (move.owner.anchor_id, move.owner.entity_id)
    assert move.owner.version > max(a.version, b.version)
    change = changed[1].cluster_changes[0]
    assert ("merge", survivor.entity_id, gone.entity_id, "SAME_MOBILE") == (
        change.operation,
        change.survivor_id,
        change.other_id,
        change.reason,
    )
    assert survivor.entity_id == resolved[0].person.entity_id


async def test_that_a_mobile_is_known_is_told_once_for_each_anchor_and_without_the_number(world: World) -> None:
    known = ("app", ("crm_id", "app", "U1"), ("mobile", MOBILE))
    [first, _, _] = await world.see(known, known, ("app", ("crm_id", "app", "U2")))
    await world.see(known, ("call_center", ("crm_id", "call_center", "C1"), ("mobile", MOBILE)))
    later = {"at": NOW + 1}
    await world.see(("app", ("crm_id", "app", "U1"), ("mobile", MOBILE), ("device", "d-1234567"), later))
    told = {(event.event_id, event.person.anchor_id, event.source) for event in world.mobiles}
    # A second number is no news, whoever else has it.
    await world.see(("app", ("crm_id", "app", "U1"), ("mobile", OTHER), later))
    assert (2, 2) == (len(told), len(world.mobiles))
    assert first.person.anchor_id in {anchor for _, anchor, _ in told}
    assert {(b"", b"")} == {(event.properties_json, event.vehicle_properties_json) for event in world.mobiles}


async def test_a_staff_phone_stops_linking_and_what_it_held_comes_apart(world: World) -> None:
    nameless = [("app", ("crm_id", "app", f"U{i}"), ("mobile", MOBILE)) for i in range(2)]
    seen = await world.see(*nameless)
    assert 1 == len({event.person.entity_id for event in seen})
    staff = [
        (f"dealer:D00{i}", ("crm_id", f"dealer:D00{i}", f"R{i}"), ("mobile", MOBILE), {"who": name})
        for i, name in enumerate(("张伟", "王芳", "李娜", "刘洋"))
    ]
    key = world.key()
    await world.take(world.batch(key, [world.event(key, *record[:-1], **record[-1]) for record in staff]))
    resolved, changed, _ = await world.published()
    assert 4 == len({event.person.entity_id for event in resolved})
    split = [change for batch in changed for change in batch.cluster_changes]
    assert [("split", "TOO_MANY_NAMES")] == [(change.operation, change.reason) for change in split]
    assert 6 == (await world.rows("SELECT count(DISTINCT entity_id) AS n FROM identifier WHERE anchor"))[0].n


async def test_a_car_is_told_with_its_relation_and_glues_nobody(world: World) -> None:
    seen = await world.see(
        ("dealer:D001", ("crm_id", "dealer:D001", "1"), ("vin", VIN), ("plate", PLATE), {"who": "张伟", "relation": "owns"}),
        ("dealer:D001", ("crm_id", "dealer:D001", "2"), ("vin", VIN), {"who": "王芳", "relation": "drives"}),
        ("call_center", ("crm_id", "call_center", "3"), ("plate", "粤B·12345")),
    )
    assert ["owns", "drives", ""] == [event.relation for event in seen]
    assert 1 == len({event.vehicle.entity_id for event in seen})
    assert 3 == len({event.person.entity_id for event in seen})


async def test_a_car_with_the_same_name_beside_it_is_evidence_on_the_person(world: World) -> None:
    seen = await world.see(
        ("dealer:D001", ("crm_id", "dealer:D001", "1"), ("vin", VIN), {"who": "张伟"}),
        ("app", ("crm_id", "app", "2"), ("vin", VIN), {"who": "张玮"}),
    )
    assert 1 == len({event.person.entity_id for event in seen})


async def test_bad_events_go_alone_and_the_others_go_on(world: World) -> None:
    key = world.key()
    good = world.event(key, "app", ("crm_id", "app", "U1"))
    invalid = world.event(key, "app", ("mobile", "13800138000"))
    changed = world.event(key, "app", ("crm_id", "app", "U2"))
    changed.sealed_identifiers = changed.sealed_identifiers[:-1] + b"x"
    foreign = world.event(key, "app", anchor_id=999, name="Push Opened")
    short = world.event(key, "app", ("crm_id", "app", "U3"))
    short.event_id = b"1"
    await world.take(world.batch(key, [good, invalid, changed, foreign, short]))
    resolved, _, dead = await world.published()
    assert [good.event_id] == [event.event_id for event in resolved]
    expected = ["CANNOT_OPEN_IDENTIFIERS", "MALFORMED_EVENT", "NO_VALID_IDENTIFIER", "UNKNOWN_ANCHOR"]
    assert expected == sorted(reason for reason, _ in dead)
    assert [("mobile", "PLACEHOLDER", 1)] == [
        tuple(row) for row in await world.rows("SELECT kind, reason, identifiers FROM rejected")
    ]


async def test_a_batch_under_an_unknown_key_is_set_aside_whole(world: World) -> None:
    key = world.key()
    unknown = world.batch(key, [world.event(key, "app", ("crm_id", "app", "U1"))]).replace(b"k1", b"k9")
    good = world.batch(key, [world.event(key, "app", ("crm_id", "app", "U2"))])
    await world.take(unknown, b"\xff\xff", good)
    resolved, _, dead = await world.published()
    assert 1 == len(resolved)
    assert {("UNKNOWN_SEALING_KEY", unknown), ("MALFORMED_BATCH", b"\xff\xff")} == set(dead)


async def test_feedback_finds_its_person_by_the_anchor(world: World) -> None:
    (event,) = await world.see(("app", ("crm_id", "app", "U1")))
    (feedback,) = await world.see(("app", {"anchor_id": event.person.anchor_id, "name": "Push Opened"}))
    assert event.person == feedback.person


async def test_nothing_in_the_tables_or_on_the_bus_shows_a_value(world: World) -> None:
    await world.see(
        ("app", ("crm_id", "app", "RECORD77"), ("mobile", MOBILE), ("id_card", "11010519491231002X"), {"who": "欧阳娜娜"})
    )
    tables = ("identifier", "link", "claim", "observation", "outbox")
    dump = "".join([str(await world.rows(f"SELECT t::text FROM {table} t")) for table in tables])
    raw = b"".join([row.payload for row in await world.rows("SELECT payload FROM outbox")])
    for value in (MOBILE, "11010519491231002X", "RECORD77", "欧阳"):
        assert value not in dump
        assert value.encode() not in raw
        assert value.encode().hex() not in dump
