"""Two people on one family phone, one of whom is erased, and the doors it is asked at."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from troika.identity.v1 import events_pb2
from troika.identity.v1 import identity_service_pb2 as pb
from troika.identity.v1 import vault_service_pb2 as vault_pb
from troika.identity.v1.identity_service_pb2_grpc import IdentityServiceStub, add_IdentityServiceServicer_to_server
from troika.identity.v1.vault_service_pb2_grpc import VaultServiceStub, add_VaultServiceServicer_to_server

from chassis import rpc
from services.identity.rpc import IdentityRpc
from services.identity.rpc_vault import VaultRpc
from tests.integration.identity.world import World

MOBILE, OWN_MOBILE = "13912345679", "15012345679"
UNIONID = "oUnionUnionUnionUnion"
VIN = "LSVAA49J132047371"
PERSON = events_pb2.ENTITY_KIND_PERSON
CALLERS = ("touchpoints", "operator")

Event = tuple[Any, ...]
# Li's file comes first: her phone is sealed under her key. Zhang has a dealer file, an app account and a call.
LI: Sequence[Event] = (
    ("dealer:D001", ("crm_id", "dealer:D001", "D2"), ("mobile", MOBILE), {"who": "李娜", "address": "上海市徐汇区漕溪路1号"}),
)
ZHANG: Sequence[Event] = (
    (
        "dealer:D001",
        *(("crm_id", "dealer:D001", "D1"), ("mobile", OWN_MOBILE), ("vin", VIN)),
        {"who": "张伟", "relation": "owns", "address": "上海市徐汇区漕溪路1号"},
    ),
    ("app", ("crm_id", "app", "U1"), ("mobile", OWN_MOBILE), ("unionid", UNIONID), ("device", "a8f5f167f44f4964")),
    ("call_center", ("crm_id", "call_center", "C1"), ("mobile", OWN_MOBILE), ("mobile", MOBILE), {"who": "张伟"}),
)


@dataclass
class Doors:
    """Stubs of identity's RPC services, by caller."""

    touchpoints: IdentityServiceStub
    operator: IdentityServiceStub
    vault: VaultServiceStub
    not_operator: VaultServiceStub


@asynccontextmanager
async def open_doors(world: World) -> AsyncIterator[Doors]:
    """A server on the world's tables."""
    hashes = {caller: hashlib.sha256(f"{caller}-secret".encode()).hexdigest() for caller in CALLERS}
    allowed = {
        "troika.identity.v1.IdentityService": frozenset(CALLERS),
        "troika.identity.v1.VaultService": frozenset({"operator"}),
    }
    server = rpc.Server(hashes, allowed, with_reflection=False)
    identity = IdentityRpc(world.database, world.store, world.vault, "k1", world.public_key, frozenset({"touchpoints"}))
    add_IdentityServiceServicer_to_server(identity, server.aio)
    add_VaultServiceServicer_to_server(VaultRpc(world.database, world.store, world.vault), server.aio)
    port = await server.start("127.0.0.1:0")
    touchpoints, operator = (rpc.connect(f"127.0.0.1:{port}", caller, f"{caller}-secret") for caller in CALLERS)
    yield Doors(
        IdentityServiceStub(touchpoints),
        IdentityServiceStub(operator),
        VaultServiceStub(operator),
        VaultServiceStub(touchpoints),
    )
    for channel in (touchpoints, operator):
        await channel.close()
    await server.stop(0)


def ref(kind: str, value: str, scope: str = "") -> pb.IdentifierRef:
    return pb.IdentifierRef(kind=kind, scope=scope, value=value)


ZHANGS = (
    *(ref("crm_id", "D1", "dealer:D001"), ref("crm_id", "U1", "app"), ref("crm_id", "C1", "call_center")),
    *(ref("mobile", OWN_MOBILE), ref("unionid", UNIONID), ref("device", "a8f5f167f44f4964")),
)


async def resolve(doors: Doors, *refs: pb.IdentifierRef) -> list[int]:
    answer = await doors.operator.ResolveIdentifiers(pb.ResolveIdentifiersRequest(identifiers=refs))
    return list(answer.entity_ids)


async def erase(doors: Doors, person_id: int, request_id: str = "r1", dry_run: bool = False) -> vault_pb.ErasureManifest:
    request = vault_pb.ErasePersonRequest(person_id=person_id, request_id=request_id, reason="asked for", dry_run=dry_run)
    return (await doors.vault.ErasePerson(request)).manifest


async def failed_checks(doors: Doors, request_id: str = "r1") -> dict[str, int]:
    """Checks of an erasure that found something, with how much."""
    answer = await doors.vault.GetErasure(vault_pb.GetErasureRequest(request_id=request_id))
    failed = {check.name: check.found for check in answer.checks if not check.passed}
    assert answer.clean == (not failed)
    assert {"identifier.sealed", "subject_key", "link", "profile", "ResolveIdentifiers"} <= {c.name for c in answer.checks}
    return failed


async def both(world: World) -> tuple[int, int]:
    """Li and Zhang, as persons."""
    (li,) = await world.see(*LI)
    zhang = await world.see(*ZHANG)
    persons = {event.person.entity_id for event in zhang}
    assert 1 == len(persons) and li.person.entity_id not in persons
    return li.person.entity_id, persons.pop()


async def snapshot(world: World) -> dict[str, Sequence[Any]]:
    wanted = ("identifier", "subject_key", "link", "profile", "claim", "relation_evidence", "suppression", "erasure", "consent")
    return {table: sorted(map(tuple, await world.rows(f"SELECT * FROM {table}")), key=str) for table in wanted}
