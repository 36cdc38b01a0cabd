"""Partners' hashes: they match who is meant and nobody else, leave with the person and with the key, and cannot be guessed."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator

import grpc
import pytest
from troika.identity.v1 import events_pb2
from troika.identity.v1 import matching_service_pb2 as pb

from chassis.rpc import reason_of
from services.identity import matching, partner_hashes, sharing
from services.identity.domain.identifiers import Known
from services.identity.domain.kinds import Reason, Space
from services.identity.matching import Limits
from services.identity.partners import Partners
from services.identity.queries import kinds_of
from tests.integration.identity.erasing import MOBILE, OWN_MOBILE, UNIONID, VIN, ZHANG, both, erase, failed_checks, open_doors
from tests.integration.identity.matching import KEYS, PARTNERS, Doors, fill, hashed, matching_doors
from tests.integration.identity.world import World

LIMITS = Limits(hashes=10_000, calls=1000)
E164, OWN_E164 = f"+86{MOBILE}", f"+86{OWN_MOBILE}"


@pytest.fixture
async def doors(world: World) -> AsyncIterator[Doors]:
    async with matching_doors(world, LIMITS) as found:
        yield found


async def test_hashes_match_the_anchor_and_the_entity_whose_identifier_it_is(world: World, doors: Doors) -> None:
    (app,) = await world.see(("app", ("crm_id", "app", "U1"), ("mobile", MOBILE), ("email", "Li@Mail.cn"), ("vin", VIN)))
    await fill(world)
    answer = await doors.match("mobile", hashed("+8615000000000"), hashed(E164))
    owner = app.person
    assert events_pb2.ENTITY_KIND_PERSON == answer.entity_kind
    assert [0, owner.anchor_id] == list(answer.anchor_ids)
    assert [0, owner.entity_id] == list(answer.entity_ids) and [0, owner.version] == list(answer.versions)
    assert [owner.entity_id] == await doors.entities("email", "li@mail.cn")
    assert [0] == await doors.entities("email", E164)
    car = await doors.match("vin", hashed(VIN))
    assert events_pb2.ENTITY_KIND_VEHICLE == car.entity_kind
    assert ([app.vehicle.anchor_id], [app.vehicle.entity_id]) == (list(car.anchor_ids), list(car.entity_ids))


async def test_each_partner_has_a_key_of_its_own(world: World, doors: Doors) -> None:
    (app,) = await world.see(("app", ("crm_id", "app", "U1"), ("mobile", MOBILE)))
    await fill(world)
    acme, bravo = hashed(E164, "acme"), hashed(E164, "bravo")
    assert [app.person.entity_id, 0] == list((await doors.match("mobile", acme, bravo)).entity_ids)
    assert [0, app.person.entity_id] == list((await doors.match("mobile", acme, bravo, partner="bravo")).entity_ids)


async def test_what_comes_later_gets_its_hash_and_a_new_partner_gets_all(world: World, doors: Doors) -> None:
    await world.see(*(("app", ("crm_id", "app", f"U{n}"), ("mobile", f"1391234{n:04}")) for n in range(10)))
    one = Partners({"acme": KEYS["acme"]}, b"h" * 32)
    await fill(world, one)
    await world.see(("app", ("crm_id", "app", "U10"), ("mobile", "13912340010")))
    await fill(world, one)
    values = [f"+861391234{n:04}" for n in range(11)]
    persons = await doors.entities("mobile", *values)
    assert 11 == len(set(persons) - {0})
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await doors.entities("mobile", *values, partner="bravo")
    assert ("HASHES_NOT_READY", "partner") == reason_of(error.value)
    await fill(world)
    assert persons == await doors.entities("mobile", *values, partner="bravo")


async def test_replicas_that_hash_at_the_same_time_make_each_hash_once(world: World, doors: Doors) -> None:
    await world.see(*(("app", ("crm_id", "app", f"U{n}"), ("mobile", f"1391234{n:04}")) for n in range(40)))
    await asyncio.gather(*(partner_hashes.fill_all(world.database, world.vault, PARTNERS, lambda *_: None, 7) for _ in "abc"))
    rows = await world.rows("SELECT partner_key_id, count(*) AS hashes FROM partner_hash GROUP BY 1")
    assert [40, 40] == [row.hashes for row in rows]
    assert 40 == len(set(await doors.entities("mobile", *(f"+861391234{n:04}" for n in range(40)))) - {0})


async def test_a_familys_phone_and_a_dealers_desk_match_nobody(world: World, doors: Doors) -> None:
    await both(world)
    await world.see(("app", ("crm_id", "app", "U7"), ("mobile", "13700001234")))
    await fill(world)
    # Li and Zhang both bear it: whose answer it would be is a guess.
    assert [0] == await doors.entities("mobile", E164)
    assert [0] != await doors.entities("mobile", "+8613700001234")
    known = world.vault.known("mobile", "", "13700001234")
    assert isinstance(known, Known)
    async with world.database.transaction() as uow:
        await sharing.set_aside(uow, world.store, world.vault, [known], Reason.REGISTERED, "front desk")
    assert [0] == await doors.entities("mobile", "+8613700001234")


async def test_the_erased_leave_no_hash_and_get_none_again(world: World, doors: Doors) -> None:
    li, zhang = await both(world)
    await fill(world)
    assert [zhang, zhang] == [*await doors.entities("mobile", OWN_E164), *await doors.entities("unionid", UNIONID)]
    async with open_doors(world) as identity:
        await erase(identity, zhang)
        assert {} == await failed_checks(identity)
    await world.see(*ZHANG)
    await fill(world)
    assert [0, 0] == [*await doors.entities("mobile", OWN_E164), *await doors.entities("unionid", UNIONID)]
    # The family's phone is Li's alone now.
    assert [li] == await doors.entities("mobile", E164)
    left = await world.rows("SELECT h.identifier_id FROM partner_hash h JOIN identifier i ON i.id = h.identifier_id"
                            " WHERE i.sealed = ''")  # fmt: skip
    assert [] == left


async def test_stolen_tables_show_nothing_even_to_who_has_the_partners_key(world: World) -> None:
    await both(world)
    await fill(world)
    tokens = {bytes(row.token) for row in await world.rows("SELECT token FROM partner_hash")}
    assert tokens
    for value in (E164, OWN_E164, UNIONID, VIN):
        full = hmac.new(KEYS["acme"], value.encode(), hashlib.sha256).digest()
        assert not any(token in full or full[:16] == token for token in tokens)


async def test_a_key_that_goes_takes_its_hashes_along(world: World, doors: Doors) -> None:
    await both(world)
    await fill(world)
    rotated = Partners({"acme": b"z" * 32}, b"h" * 32)
    await fill(world, rotated)
    assert not await partner_hashes.drop(world.database)
    async with world.database.transaction() as uow:
        # Since these were last named by a process: acme's old key and bravo's.
        old = list(PARTNERS.fingerprints.values())
        await uow.fetch("UPDATE partner_key SET seen_at = now() - interval '6 minutes' WHERE fingerprint = ANY($1)", old)
    while await partner_hashes.drop(world.database):
        pass
    keys = await world.rows("SELECT id, partner, fingerprint FROM partner_key")
    assert [("acme", rotated.fingerprints["acme"])] == [(row.partner, bytes(row.fingerprint)) for row in keys]
    assert {keys[0].id} == {row.partner_key_id for row in await world.rows("SELECT partner_key_id FROM partner_hash")}
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await doors.entities("mobile", OWN_E164)
    assert "HASHES_NOT_READY" == reason_of(error.value)[0]


async def test_a_key_that_comes_back_while_its_hashes_go_has_all_of_them_again(world: World, doors: Doors) -> None:
    await world.see(*(("app", ("crm_id", "app", f"U{n}"), ("mobile", f"1391234{n:04}")) for n in range(20)))
    await fill(world)
    async with world.database.transaction() as uow:
        await uow.fetch("UPDATE partner_key SET seen_at = now() - interval '6 minutes'")
    assert await partner_hashes.drop(world.database, at_once=7)
    values = [f"+861391234{n:04}" for n in range(20)]
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await doors.entities("mobile", *values)
    assert "HASHES_NOT_READY" == reason_of(error.value)[0]
    await fill(world)
    assert 20 == len(set(await doors.entities("mobile", *values)) - {0})


async def test_only_tags_may_match_and_only_known_partners_in_whole_hashes(world: World, doors: Doors) -> None:
    await fill(world)
    request = pb.MatchHashesRequest(partner="acme", kind="mobile", hashes=hashed(E164))
    wrong = [
        (doors.operator.MatchHashes(request), "MATCHING_NOT_ALLOWED", "authorization"),
        (doors.match("mobile", hashed(E164), partner="charlie"), "UNKNOWN_PARTNER", "partner"),
        (doors.match("mobile", hashed(E164)[:-1] + b"xx"), "INVALID_HASH", "hashes"),
        (doors.match("mobile", b"short"), "INVALID_ARGUMENT", "hashes"),
        (doors.match("mobile", *[hashed(E164)] * 10_001), "INVALID_ARGUMENT", "hashes"),
        (doors.match("crm_id", hashed(E164)), "INVALID_ARGUMENT", "kind"),
    ]
    for call, reason, field in wrong:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        assert (reason, field) == reason_of(error.value)


async def test_who_asks_too_much_within_an_hour_is_refused_and_all_is_in_the_audit(world: World) -> None:
    await both(world)
    await fill(world)
    async with matching_doors(world, Limits(hashes=5, calls=3)) as doors:
        await doors.entities("mobile", OWN_E164, "+8613700001111")
        await doors.entities("vin", VIN)
        for kind, hashes in (("mobile", [hashed(OWN_E164)] * 3), ("mobile", [hashed(OWN_E164)])):
            if len(hashes) == 3:
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await doors.match(kind, *hashes)
                assert (grpc.StatusCode.RESOURCE_EXHAUSTED, "MATCHING_LIMIT") == (error.value.code(), reason_of(error.value)[0])
            else:
                await doors.match(kind, *hashes)
        with pytest.raises(grpc.aio.AioRpcError):
            await doors.entities("mobile", OWN_E164)
        await doors.entities("mobile", OWN_E164, partner="bravo")
        page = await doors.operator.ListMatchings(pb.ListMatchingsRequest(page_size=3))
        rest = await doors.operator.ListMatchings(pb.ListMatchingsRequest(page_token=page.next_page_token))
    lines = [(m.caller, m.partner, m.kind, m.asked, m.matched) for m in (*page.matchings, *rest.matchings)]
    assert [
        ("tags", "bravo", "mobile", 1, 1),
        ("tags", "acme", "mobile", 1, 1),
        ("tags", "acme", "vin", 1, 1),
        ("tags", "acme", "mobile", 2, 1),
    ] == lines


async def test_the_operator_sees_how_far_the_hashes_are(world: World, doors: Doors) -> None:
    await world.see(*(("app", ("crm_id", "app", f"U{n}"), ("mobile", f"1391234{n:04}")) for n in range(5)))
    assert await partner_hashes.fill(world.database, world.vault, PARTNERS, 4)
    first = (await doors.operator.ListPartners(pb.ListPartnersRequest())).partners
    assert [("acme", False, 6), ("bravo", False, 6)] == [(p.partner, p.complete, p.waiting) for p in first]
    await fill(world)
    done = (await doors.operator.ListPartners(pb.ListPartnersRequest())).partners
    assert [("acme", True, 5, 0), ("bravo", True, 5, 0)] == [(p.partner, p.complete, p.hashes, p.waiting) for p in done]


async def test_hashes_are_matched_by_index_however_many_there_are(world: World) -> None:
    async with world.database.transaction() as uow:
        await uow.fetch(
            "INSERT INTO identifier (id, kind, scope_id, token, sealed, subject_key_id, anchor, entity_id, born_id,"
            " component_id, version, person_guard, vehicle_guard, cleared, first_seen_us, last_seen_us) SELECT i, 6, 0,"
            " decode(lpad(to_hex(i), 32, '0'), 'hex'), 'x', i, true, i, i, i, 1, 0, 0, false, 0, 0"
            " FROM generate_series(1, 20000) AS i"
        )
        await uow.fetch("INSERT INTO partner_hash SELECT 1, token, id FROM identifier")
    tokens = [number.to_bytes(16) for number in range(1, 101)]
    async with world.database.transaction() as uow:
        statement = matching.MATCH[Space.PERSON]
        given = (1, tokens, kinds_of(Space.PERSON))
        assert 100 == len(await uow.fetch(statement, *given))
        plan = "\n".join(row[0] for row in await uow.fetch(f"EXPLAIN {statement}", *given))
    assert all(index in plan for index in ("pk_partner_hash", "pk_identifier", "ix_link_value_id"))
    assert "Seq Scan on identifier" not in plan and "Seq Scan on partner_hash" not in plan
