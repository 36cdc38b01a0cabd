"""The gRPC door of audiences: previews, explanations, names, and watching."""

# ruff: noqa: N802  (methods bear the names of the contract)

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import grpc
from pyroaring import BitMap
from troika.tags.v1 import audience_service_pb2 as pb
from troika.tags.v1.audience_service_pb2_grpc import AudienceServiceServicer

from chassis import paging
from chassis.db import Database
from chassis.errors import FailedPrecondition, InvalidArgument, NotFound
from chassis.moments import moment
from chassis.rpc import caller_of
from services.tags import answers
from services.tags.audiences import naming, store
from services.tags.audiences.around import Reach, stand
from services.tags.audiences.consents import ReachConsents
from services.tags.audiences.explaining import decisive, explain
from services.tags.audiences.live import Live, Watch
from services.tags.audiences.naming import key_of
from services.tags.audiences.previewing import reach, sample, usual_tags
from services.tags.audiences.store import Definition, Named
from services.tags.domain.catalogue import Kind
from services.tags.domain.terms import Term
from services.tags.index.distribution import distribution
from services.tags.questions import Questions, ids_in

SAMPLE: Final = 10
MOST_SIZES: Final = 10_000
HEARTBEAT_S: Final = 5.0
Context = grpc.aio.ServicerContext[Any, Any]


class AudienceRpc(AudienceServiceServicer):
    """Converts and asks; the index answers, definitions and profiles come from the database."""

    def __init__(self, database: Database, questions: Questions, live: Live, consents: ReachConsents) -> None:
        self._database, self._questions, self._live, self._consents = database, questions, live, consents

    async def PreviewAudience(self, request: pb.PreviewAudienceRequest, context: Context) -> pb.PreviewAudienceResponse:
        """Everything is of one moment, but for other calls' changes between two tags."""
        kind, catalogue = Kind(request.entity_kind), self._questions.catalogue
        tags = list(request.tags) or usual_tags(catalogue, kind)
        self._questions.check_tags(kind, tags, "tags")
        members = await self._questions.members(kind, request.predicate, "predicate")
        index = await self._questions.index()
        base = index.present[kind].copy()
        answer = pb.PreviewAudienceResponse(count=len(members), base=len(base))
        for tag in tags:
            answer.breakdown.append(answers.distribution(catalogue, kind, distribution(index, kind, tag, members, base)))
            await asyncio.sleep(0)
        if kind is Kind.PERSON:
            reached, answer.reachable = reach(index, members, await self._consents.listed(), time.time())
            for each in reached:
                answer.reach.add(channel=each.channel, addressable=each.addressable, allowed=each.allowed)
        ids = await asyncio.to_thread(sample, ids_in(members), request.sample_size or SAMPLE, request.seed)
        answer.sample_ids.extend(ids)
        return answer

    async def ExplainMembership(self, request: pb.ExplainMembershipRequest, context: Context) -> pb.ExplainMembershipResponse:
        """From the database's rows, through the execution that tags themselves are made with."""
        kind = Kind(request.entity_kind)
        term = await self._asked(kind, request.predicate, request.audience)
        now = time.time()
        async with self._database.read() as uow:
            standing = await stand(uow, kind, request.entity_id, now, Reach.of_all([term]))
        if standing is None:
            raise NotFound("no such entity", field="entity_id")
        explained = explain(self._questions.catalogue, standing, term)
        answer = pb.ExplainMembershipResponse(
            member=explained.truth is True,
            explanation=answers.explanation(self._questions.catalogue, kind, explained),
            decisive=decisive(explained),
        )
        answer.as_of.FromMicroseconds(int(now * 1e6))
        return answer

    async def _asked(self, kind: Kind, predicate: str, name: str) -> Term:
        """The term of a predicate or of a named audience."""
        if not name:
            return self._questions.term(kind, predicate, "predicate")
        if predicate:
            raise InvalidArgument("give a predicate or the name of an audience, not both", field="predicate")
        named = await self._named(name)
        if named.definition.kind is not kind:
            raise InvalidArgument("the audience is of another kind", reason="WRONG_KIND", field="entity_kind")
        return self._questions.term(kind, named.definition.predicate, "audience")

    async def _named(self, name: str) -> Named:
        try:
            return await naming.living(self._database, name)
        except NotFound as error:
            raise NotFound(error.message, reason=error.reason, field="audience") from None

    async def CreateAudience(self, request: pb.CreateAudienceRequest, context: Context) -> pb.CreateAudienceResponse:
        """Checks the predicate and says how large it is before anything is written."""
        kind = Kind(request.entity_kind)
        definition = Definition(kind, request.predicate, request.description, request.owner)
        sizes = await naming.sizes(self._questions, None, definition)
        if request.dry_run:
            named = Named(0, request.name, 1, definition, None, None, None)
        else:
            named = await naming.create(self._database, request.name, definition, caller_of(context))
        return pb.CreateAudienceResponse(audience=answers.audience(named), size=answers.size(sizes))

    async def UpdateAudience(self, request: pb.UpdateAudienceRequest, context: Context) -> pb.UpdateAudienceResponse:
        """What changes for its members is said of this moment, dry run or not."""
        old = await naming.living(self._database, request.name)
        naming.check_version(old, request.version)
        definition = Definition(old.definition.kind, request.predicate, request.description, request.owner)
        sizes = await naming.sizes(self._questions, old.definition, definition)
        if request.dry_run:
            named = Named(old.audience_id, old.name, old.version + 1, definition, old.created_at, old.updated_at, None)
        else:
            caller = caller_of(context)
            named = await naming.update(self._database, request.name, definition, request.version, caller)
        return pb.UpdateAudienceResponse(audience=answers.audience(named), size=answers.size(sizes))

    async def DeleteAudience(self, request: pb.DeleteAudienceRequest, context: Context) -> pb.DeleteAudienceResponse:
        """Its readers are told within a second."""
        await naming.known(self._database, request.name)
        async with self._database.transaction() as uow:
            await store.end(uow, request.name)
        return pb.DeleteAudienceResponse(audience=answers.audience(await naming.known(self._database, request.name)))

    async def GetAudience(self, request: pb.GetAudienceRequest, context: Context) -> pb.GetAudienceResponse:
        """Counts by the index, from its definition."""
        named = await naming.known(self._database, request.name)
        answer = pb.GetAudienceResponse(audience=answers.audience(named))
        for version, predicate, description, owner, caller, created_at in await store.versions(
            self._database, named.audience_id
        ):
            line = answer.versions.add(
                version=version, predicate=predicate, description=description, owner=owner, caller=caller
            )
            line.created_at.FromDatetime(created_at)
        if named.deleted_at is None:
            answer.count = await self._questions.count(named.definition.kind, named.definition.predicate, "name")
        return answer

    async def ListAudiences(self, request: pb.ListAudiencesRequest, context: Context) -> pb.ListAudiencesResponse:
        """By number."""
        (after,) = paging.read("audiences", request.page_token, (0,))
        size = paging.size(request.page_size, 100, 1000)
        found = await store.page(self._database, after, size + 1)
        answer = pb.ListAudiencesResponse(audiences=[answers.audience(named) for named in found[:size]])
        if len(found) > size:
            answer.next_page_token = paging.token("audiences", found[size - 1].audience_id)
        return answer

    async def ListAudienceSizes(self, request: pb.ListAudienceSizesRequest, context: Context) -> pb.ListAudienceSizesResponse:
        """As sampled; see audiences/telling.py."""
        named = await naming.known(self._database, request.name)
        since = moment(request.since, "since") if request.HasField("since") else datetime.now(UTC) - timedelta(days=90)
        answer = pb.ListAudienceSizesResponse()
        for at, members, base, version in await store.sizes(self._database, named.audience_id, since, MOST_SIZES):
            answer.sizes.add(count=members, base=base, version=version).at.FromDatetime(at)
        return answer

    async def WatchAudience(
        self, request: pb.WatchAudienceRequest, context: Context
    ) -> AsyncIterator[pb.WatchAudienceResponse]:
        """Where it starts, then changes, and a sign of life where there are none."""
        key, kind, term, version = await self._watched(request)
        await self._questions.index()
        until = time.monotonic() + request.duration_s if request.duration_s else None
        async with self._live.watch(key, kind, term, version) as watch:
            members = watch.followed.membership.members.copy()
            start = pb.WatchStart(count=len(members), version=watch.followed.version, position=self._live.position)
            start.as_of.GetCurrentTime()
            yield pb.WatchAudienceResponse(start=start)
            if request.with_members:
                for change in answers.changes(members, BitMap(), start.position, time.time(), len(members), start.version):
                    yield pb.WatchAudienceResponse(change=change)
            del members
            async for message in self._followed(watch, until):
                yield message

    async def _followed(self, watch: Watch, until: float | None) -> AsyncIterator[pb.WatchAudienceResponse]:
        while until is None or time.monotonic() < until:
            left = HEARTBEAT_S if until is None else min(HEARTBEAT_S, until - time.monotonic())
            change = await watch.next(max(left, 0.0))
            if change is None:
                beat = pb.WatchHeartbeat(count=len(watch.followed.membership.members), position=self._live.position)
                beat.as_of.GetCurrentTime()
                yield pb.WatchAudienceResponse(heartbeat=beat)
                continue
            parts = answers.changes(change.entered, change.left, change.position, change.as_of, change.count, change.version)
            for part in parts:
                yield pb.WatchAudienceResponse(change=part)

    async def _watched(self, request: pb.WatchAudienceRequest) -> tuple[object, Kind, Term, int]:
        if request.audience:
            if request.predicate or request.entity_kind:
                raise FailedPrecondition(
                    "a named audience has its own kind and predicate", reason="ALREADY_DEFINED", field="audience"
                )
            named = await self._named(request.audience)
            definition = named.definition
            term = self._questions.term(definition.kind, definition.predicate, "audience")
            return key_of(named), definition.kind, term, named.version
        if not request.entity_kind:
            raise InvalidArgument("name an audience, or a kind of entities", field="entity_kind")
        kind = Kind(request.entity_kind)
        term = self._questions.term(kind, request.predicate, "predicate")
        return ("predicate", kind, request.predicate), kind, term, 0
