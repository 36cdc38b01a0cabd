"""Identity as a peer sees it: a real gRPC server that holds a key pair and an address book, and can open what was sealed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from troika.identity.v1 import identity_service_pb2 as pb
from troika.identity.v1.identity_service_pb2_grpc import IdentityServiceServicer, add_IdentityServiceServicer_to_server
from troika.touchpoints.v1.events_pb2 import Identifiers, ObservedBatch, ObservedEvent

from chassis.sealing import open_sealed, recover


@dataclass
class Identity(IdentityServiceServicer):
    """`book`: (person, kind, scope) → (anchor, value)."""

    private: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)
    book: dict[tuple[int, str, str], tuple[int, str]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    reveals: list[pb.RevealAddressesRequest] = field(default_factory=list)
    target: str = ""
    # (kind, value) → person, for ResolveIdentifiers.
    resolved: dict[tuple[str, str], int] = field(default_factory=dict)
    resolves_nothing: bool = False
    # What a test puts in the place of the usual answer.
    reveal: Any = None

    async def GetSealingKey(self, request: pb.GetSealingKeyRequest, context: Any) -> pb.GetSealingKeyResponse:  # noqa: N802
        return pb.GetSealingKeyResponse(key_id="k1", public_key=self.private.public_key().public_bytes_raw())

    async def RevealAddresses(self, request: pb.RevealAddressesRequest, context: Any) -> pb.RevealAddressesResponse:  # noqa: N802
        if answer := self.reveal:
            self.reveal = None
            return await answer(request, context)
        self.reveals.append(request)
        found = []
        for person in request.person_ids:
            if entry := self.book.get((person, request.kind, request.scope)):
                name = self.names.get(person, "") if request.purpose == "dealer_contact" else ""
                found.append(pb.Address(person_id=person, anchor_id=entry[0], value=entry[1], person_name=name))
        return pb.RevealAddressesResponse(addresses=found)

    async def ResolveIdentifiers(  # noqa: N802
        self, request: pb.ResolveIdentifiersRequest, context: Any
    ) -> pb.ResolveIdentifiersResponse:
        if self.resolves_nothing:
            await context.abort(grpc.StatusCode.INTERNAL, "out of order")
        persons = [self.resolved.get((i.kind, i.value), 0) for i in request.identifiers]
        anchors = [self.book.get((p, i.kind, i.scope), (0, ""))[0] for p, i in zip(persons, request.identifiers, strict=True)]
        return pb.ResolveIdentifiersResponse(entity_ids=persons, anchor_ids=anchors if request.with_anchors else ())

    def open(self, batch: ObservedBatch, event: ObservedEvent) -> Identifiers:
        key = recover(self.private, batch.sealed_key.key_id, batch.sealed_key.ephemeral_public_key)
        return Identifiers.FromString(open_sealed(key, event.event_id, event.sealed_identifiers))

    def open_bytes(self, batch: ObservedBatch, event: ObservedEvent) -> bytes:
        key = recover(self.private, batch.sealed_key.key_id, batch.sealed_key.ephemeral_public_key)
        return open_sealed(key, event.event_id, event.sealed_identifiers)


@asynccontextmanager
async def serving(identity: Identity, port: int = 0) -> AsyncIterator[Identity]:
    server = grpc.aio.server()
    add_IdentityServiceServicer_to_server(identity, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    identity.target = f"127.0.0.1:{port}"
    try:
        yield identity
    finally:
        await server.stop(0)
