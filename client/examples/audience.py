"""Lists the tags of persons, then counts an audience and reads its ids: python audience.py "lead_score > 600" """

from __future__ import annotations

import asyncio
import sys

import grpc
from troika.identity.v1.events_pb2 import ENTITY_KIND_PERSON
from troika.tags.v1.tags_service_pb2 import CountAudienceRequest, ListTagsRequest, StreamAudienceRequest
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceStub

from troika_client import Refusal, Troika, pages


async def main(predicate: str) -> int:
    """Prints what there is to ask for, and who all this is true of."""
    async with Troika.from_environment() as troika:
        tags = TagsServiceStub(troika.tags)
        try:
            names = [tag.name async for page in pages(tags.ListTags, ListTagsRequest(page_size=50)) for tag in page.tags]
            print(f"{len(names)} tags: {', '.join(names[:8])} …")
            asked = CountAudienceRequest(entity_kind=ENTITY_KIND_PERSON, predicate=predicate)
            counted = await tags.CountAudience(asked)
            print(f"{counted.count} of {counted.base}")
            streamed = tags.StreamAudience(StreamAudienceRequest(entity_kind=ENTITY_KIND_PERSON, predicate=predicate))
            ids = [entity_id async for chunk in streamed for entity_id in chunk.entity_ids]
            print(f"first ids: {ids[:8]}")
        except grpc.aio.AioRpcError as error:
            refusal = Refusal.of(error)
            print(f"{refusal.reason or refusal.code.name} {refusal.field}: {refusal.message}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
