"""A partner that hashes what it knows, and the door that matches it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from troika.identity.v1 import matching_service_pb2 as pb
from troika.identity.v1.matching_service_pb2_grpc import MatchingServiceStub, add_MatchingServiceServicer_to_server

from chassis import rpc
from services.identity import partner_hashes
from services.identity.matching import Limits
from services.identity.partners import Partners
from services.identity.rpc_matching import MatchingRpc
from tests.integration.identity.world import World

KEYS = {"acme": b"a" * 32, "bravo": b"b" * 32}
PARTNERS = Partners(KEYS, b"h" * 32)
CALLERS = ("tags", "operator")


def hashed(value: str, partner: str = "acme") -> bytes:
    """As the partner does it, from the normal form."""
    return hmac.new(KEYS[partner], value.encode(), hashlib.sha256).digest()


def secret(caller: str) -> str:
    """What a caller shows."""
    return f"{caller}-secret-of-a-test"


@dataclass
class Doors:
    """Stubs by caller."""

    tags: MatchingServiceStub
    operator: MatchingServiceStub

    async def match(self, kind: str, *hashes: bytes, partner: str = "acme") -> pb.MatchHashesResponse:
        return await self.tags.MatchHashes(pb.MatchHashesRequest(partner=partner, kind=kind, hashes=b"".join(hashes)))

    async def entities(self, kind: str, *values: str, partner: str = "acme") -> Sequence[int]:
        answer = await self.match(kind, *(hashed(value, partner) for value in values), partner=partner)
        return list(answer.entity_ids)


@asynccontextmanager
async def matching_server(world: World, limits: Limits, partners: Partners = PARTNERS) -> AsyncIterator[str]:
    """Where the door on the world's tables listens; callers show their `secret`."""
    hashes = {caller: hashlib.sha256(secret(caller).encode()).hexdigest() for caller in CALLERS}
    server = rpc.Server(hashes, {"troika.identity.v1.MatchingService": frozenset(CALLERS)}, with_reflection=False)
    servicer = MatchingRpc(world.database, partners, limits, frozenset({"tags"}))
    add_MatchingServiceServicer_to_server(servicer, server.aio)
    yield f"127.0.0.1:{await server.start('127.0.0.1:0')}"
    await server.stop(0)


@asynccontextmanager
async def matching_doors(world: World, limits: Limits, partners: Partners = PARTNERS) -> AsyncIterator[Doors]:
    """Stubs of that server."""
    async with matching_server(world, limits, partners) as target:
        channels = [rpc.connect(target, caller, secret(caller)) for caller in CALLERS]
        yield Doors(*(MatchingServiceStub(channel) for channel in channels))
        for channel in channels:
            await channel.close()


async def fill(world: World, partners: Partners = PARTNERS, batch: int = 3) -> None:
    """Makes all hashes that are missing, some at a time."""
    while await partner_hashes.fill(world.database, world.vault, partners, batch):
        pass
