"""Prints what is true of who has a mobile: python who_is.py 13800138000"""

from __future__ import annotations

import asyncio
import sys

import grpc
from troika.identity.v1.events_pb2 import ENTITY_KIND_PERSON
from troika.identity.v1.identity_service_pb2 import IdentifierRef, ResolveIdentifiersRequest
from troika.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from troika.tags.v1.tags_service_pb2 import GetProfileRequest
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceStub

from troika_client import Refusal, Troika


async def main(mobile: str) -> int:
    """Asks identity who it is, and tags for the profile."""
    async with Troika.from_environment() as troika:
        identity, tags = IdentityServiceStub(troika.identity), TagsServiceStub(troika.tags)
        try:
            asked = ResolveIdentifiersRequest(identifiers=[IdentifierRef(kind="mobile", value=mobile)])
            (person,) = (await identity.ResolveIdentifiers(asked)).entity_ids
            if not person:
                print("nobody is known by it")
                return 0
            profile = await tags.GetProfile(GetProfileRequest(entity_kind=ENTITY_KIND_PERSON, entity_id=person))
        except grpc.aio.AioRpcError as error:
            refusal = Refusal.of(error)
            print(f"{refusal.reason or refusal.code.name} {refusal.field}: {refusal.message}", file=sys.stderr)
            return 1
    print(f"person {person}, {len(profile.related_ids)} vehicles")
    for tag in profile.tags:
        kind = tag.value.WhichOneof("kind")
        print(f"  {tag.tag} = {getattr(tag.value, kind) if kind else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
