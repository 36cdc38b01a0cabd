"""The vault on real tables: what a thief sees, what a caller sees when a key is missing, and how fast it looks up."""

from __future__ import annotations

import hashlib

import grpc
import pytest
from troika.identity.v1 import identity_service_pb2 as pb
from troika.identity.v1 import vault_service_pb2 as vault_pb
from troika.identity.v1.identity_service_pb2_grpc import IdentityServiceStub, add_IdentityServiceServicer_to_server

from chassis import rpc
from chassis.rpc import reason_of
from services.identity import erasure, tables, token_keys
from services.identity.keks import EnvironmentKeks
from services.identity.rpc import IdentityRpc
from services.identity.vault import Vault
from tests.integration.identity.erasing import (
    MOBILE,
    OWN_MOBILE,
    UNIONID,
    VIN,
    Doors,
    both,
)
from tests.integration.identity.world import World


async def test_reveals_can_be_read_afterwards_and_show_no_value(world: World, doors: Doors) -> None:
    li, zhang = await both(world)
    for person in (li, zhang, li):
        request = pb.RevealAddressesRequest(person_ids=[person], kind="mobile", purpose="push")
        await doors.touchpoints.RevealAddresses(request)
    answer = await doors.vault.ListReveals(vault_pb.ListRevealsRequest(page_size=2))
    assert [[li], [zhang]] == [list(reveal.person_ids) for reveal in answer.reveals]
    rest = await doors.vault.ListReveals(vault_pb.ListRevealsRequest(page_size=2, page_token=answer.next_page_token))
    assert [[li]] == [list(reveal.person_ids) for reveal in rest.reveals]
    assert {("touchpoints", "push", "mobile")} == {(r.caller, r.purpose, r.kind) for r in answer.reveals}
    of_li = await doors.vault.ListReveals(vault_pb.ListRevealsRequest(person_id=li))
    assert 2 == len(of_li.reveals) and MOBILE not in str(of_li)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await doors.vault.ListReveals(vault_pb.ListRevealsRequest(person_id=zhang, page_token=answer.next_page_token))
    assert ("INVALID_PAGE_TOKEN", "page_token") == reason_of(error.value)


async def test_stolen_tables_show_nothing(world: World) -> None:
    await both(world)
    values = [MOBILE, OWN_MOBILE, UNIONID, VIN, "张伟", "李娜", "zhang wei", "漕溪路"]
    for table in tables.metadata.tables:
        for row in await world.rows(f"SELECT t::text AS content FROM {table} t"):
            content = row.content
            for value in values:
                # Bytes are shown as hexadecimal.
                assert value not in content and value.encode().hex() not in content, table


async def test_a_cell_that_was_swapped_in_the_tables_does_not_open(world: World, doors: Doors) -> None:
    li, zhang = await both(world)
    async with world.database.transaction() as uow:
        await uow.execute(
            "UPDATE identifier i SET sealed = o.sealed, subject_key_id = o.subject_key_id FROM identifier o"
            " WHERE i.kind = 6 AND o.kind = 6 AND i.id <> o.id"
        )
    for person in (li, zhang):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await doors.touchpoints.RevealAddresses(
                pb.RevealAddressesRequest(person_ids=[person], kind="mobile", purpose="push")
            )
        assert "SEALED_VALUE_UNREADABLE" == reason_of(error.value)[0]


@pytest.fixture
async def full(world: World) -> World:
    """Twenty thousand identifiers under two token keys, a hundred of them suppressed."""
    async with world.database.transaction() as uow:
        await uow.execute(
            "INSERT INTO identifier (id, kind, scope_id, token, sealed, subject_key_id, anchor, entity_id, born_id,"
            " component_id, version, person_guard, vehicle_guard, cleared, first_seen_us, last_seen_us) SELECT i, 6, 0,"
            " decode(lpad(to_hex(1 + i % 2 * 6), 2, '0') || lpad(to_hex(i), 30, '0'), 'hex'), '', i, false, 0, 0, 0,"
            " 1, 0, 0, false, 0, 0 FROM generate_series(1, 20000) AS i"
        )
        await uow.execute("INSERT INTO suppression SELECT i, 0, 1 FROM generate_series(1, 100) AS i")
    return world


async def test_the_numbers_of_token_keys_are_found_without_reading_the_table(full: World) -> None:
    async with full.database.transaction() as uow:
        assert {1, 7} == await token_keys.key_numbers(uow)
        plan = "\n".join(row[0] for row in await uow.fetch(f"EXPLAIN {token_keys.KEY_NUMBERS}"))
    assert "ix_identifier_token" in plan and "Seq Scan on identifier" not in plan


async def test_what_was_erased_is_found_by_index(full: World) -> None:
    tokens = [bytes([1 + number % 2 * 6]) + number.to_bytes(15) for number in range(50, 150)]
    async with full.database.transaction() as uow:
        assert 51 == len(await uow.fetch(erasure.SUPPRESSED, tokens))
        plan = "\n".join(row[0] for row in await uow.fetch(f"EXPLAIN {erasure.SUPPRESSED}", tokens))
    assert "ix_identifier_token" in plan and "ix_identifier_next_token" in plan and "Seq Scan on identifier" not in plan


async def test_a_reveal_without_its_key_names_the_key(world: World) -> None:
    (seen,) = await world.see(("app", ("crm_id", "app", "U1"), ("mobile", "13912345679")))
    blind = Vault(world.vault.tokens, b"h" * 32, EnvironmentKeks({"k2": b"w" * 32}, "k2"))
    servicer = IdentityRpc(world.database, world.store, blind, "k1", world.public_key, frozenset({"touchpoints"}))
    hashes = {"touchpoints": hashlib.sha256(b"touchpoints-secret").hexdigest()}
    server = rpc.Server(hashes, {"troika.identity.v1.IdentityService": frozenset(hashes)}, with_reflection=False)
    add_IdentityServiceServicer_to_server(servicer, server.aio)
    channel = rpc.connect(f"127.0.0.1:{await server.start('127.0.0.1:0')}", "touchpoints", "touchpoints-secret")
    request = pb.RevealAddressesRequest(person_ids=[seen.person.entity_id], kind="mobile", purpose="push")
    with pytest.raises(grpc.aio.AioRpcError, match="key-encryption key k1 is not configured") as error:
        await IdentityServiceStub(channel).RevealAddresses(request)
    assert (grpc.StatusCode.FAILED_PRECONDITION, "KEK_MISSING") == (error.value.code(), reason_of(error.value)[0])
    await channel.close()
    await server.stop(0)
