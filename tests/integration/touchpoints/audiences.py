"""Identity and tags as advertising asks them: whose hashes may go, and who is in an audience."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from troika.identity.v1 import identity_service_pb2 as identity_pb2
from troika.tags.v1 import tags_service_pb2 as tags_pb2

from tests.integration.touchpoints.neighbours import Neighbours


def mobile(person: int) -> str:
    return f"138{person:08}"


def hashed(person: int) -> tuple[str, str]:
    """A person's number as a platform gets it."""
    return "mobile", hashlib.sha256(mobile(person).encode()).hexdigest()


@dataclass
class Audiences(Neighbours):
    """`members` are the audience, `allowed` those who gave separate consent; `before`: what happens before hashes are given."""

    members: set[int] = field(default_factory=set)
    allowed: set[int] = field(default_factory=set)
    pages: list[str] = field(default_factory=list)
    before: Callable[[], Awaitable[None]] | None = None

    async def CountAudience(self, request: Any, context: Any) -> Any:  # noqa: N802
        if "=" not in request.predicate:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such tag")
        return tags_pb2.CountAudienceResponse(count=len(self.members))

    async def StreamAudience(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        await self._asked("StreamAudience", context)
        self.pages.append(request.page_token)
        behind = sorted(person for person in self.members if person > int(request.page_token or 0))
        page = behind[: request.page_size]
        yield tags_pb2.StreamAudienceResponse(entity_ids=page, next_page_token=str(page[-1]) if len(behind) > len(page) else "")

    async def HashAddresses(self, request: Any, context: Any) -> Any:  # noqa: N802
        if ("mobile", "sha256", "national") != (*request.kinds[-1:], request.digest, request.mobile_form):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "another form")
        answer = identity_pb2.HashAddressesResponse()
        for person in self.allowed & set(request.person_ids):
            kind, value = hashed(person)
            answer.persons.add(person_id=person, hashes=[identity_pb2.HashedAddress(kind=kind, digest=bytes.fromhex(value))])
        if self.before:
            await self.before()
        return answer
