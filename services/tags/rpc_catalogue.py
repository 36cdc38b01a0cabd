"""The gRPC door of the catalogue: finding tags, adding to them, and saying first what a change would do."""

# ruff: noqa: N802  (methods bear the names of the contract)

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from troika.identity.v1.events_pb2 import EntityKind
from troika.tags.v1 import catalogue_service_pb2 as pb
from troika.tags.v1 import tags_service_pb2 as tags_pb
from troika.tags.v1.catalogue_service_pb2_grpc import CatalogueServiceServicer

from chassis import paging
from chassis.db import Database, UnitOfWork
from chassis.errors import InvalidArgument, NotFound, Unavailable
from chassis.rpc import caller_of
from services.tags.backfill.cutting import Histories, History, history
from services.tags.catalogue import stored
from services.tags.catalogue.changing import Changing, Draft, Outcome
from services.tags.catalogue.defining import body_of
from services.tags.catalogue.following import LiveCatalogue
from services.tags.catalogue.mistakes import nearest
from services.tags.catalogue.provenance import refresh_of, source_of
from services.tags.catalogue.searching import search
from services.tags.catalogue.stored import Version
from services.tags.catalogue.uses import Use
from services.tags.domain.catalogue import FromTags, Kind, TagDefinition
from services.tags.domain.language import LanguageError
from services.tags.domain.predicates import parse_predicate
from services.tags.index.index import AudienceIndex
from services.tags.index.projection import Projection

Context = grpc.aio.ServicerContext[Any, Any]
DEFAULT_PAGE, LARGEST_PAGE = 20, 1000
# Names in the contract are those of the files in capitals, behind the enum's own.
_TYPE, _CLASS = "TAG_TYPE_", "TAG_SENSITIVITY_"
_UNSAID: Final = ("UNSPECIFIED",)


class CatalogueRpc(CatalogueServiceServicer):
    """Converts and asks; what may be is decided in the catalogue's own room."""

    def __init__(self, database: Database, live: LiveCatalogue, projection: Projection, histories: Histories) -> None:
        self._database, self._live, self._projection, self._histories = database, live, projection, histories
        self._files = {(d.kind, d.name) for d in live.files}

    async def SearchTags(self, request: pb.SearchTagsRequest, context: Context) -> pb.SearchTagsResponse:
        """The best first; a page belongs to its query."""
        wanted = [
            definition
            for definition in self._live.rules.catalogue.definitions
            if request.entity_kind in (0, definition.kind) and request.folder in ("", definition.folder)
        ]
        hits = search(wanted, request.query)
        listing = f"search {request.entity_kind} {request.folder} {request.query}"
        (start,) = paging.read(listing, request.page_token, (0,))
        end = start + paging.size(request.page_size, DEFAULT_PAGE, LARGEST_PAGE)
        answer = pb.SearchTagsResponse(next_page_token=paging.token(listing, end) if end < len(hits) else "")
        for hit in hits[start:end]:
            answer.tags.add(tag=self._tag(hit.definition), relevance=hit.relevance)
        return answer

    async def GetTag(self, request: pb.GetTagRequest, context: Context) -> pb.GetTagResponse:
        """A tag by name or title, with its versions and what is built on it."""
        await self._live.refresh()
        kind = Kind(request.entity_kind)
        known = self._live.rules.catalogue.known_as(kind)
        definition = known.get(request.name)
        index = await self._index()
        async with self._database.read() as uow:
            versions = await stored.versions(uow, kind, definition.name if definition else request.name)
            uses: tuple[Use, ...] = ()
            past = None
            if definition is not None:
                if versions:
                    past = await history(uow, definition)
                uses = await (await self._changing(uow, index, True)).used(kind, definition.name)
        if definition is None and not versions:
            raise NotFound(f"there is no such tag{nearest(request.name, known)}", reason="UNKNOWN_TAG", field="name")
        answer = pb.GetTagResponse(
            versions=[_version(version) for version in versions], uses=_uses(uses), history=_history(past)
        )
        if definition is not None:
            answer.tag.CopyFrom(self._tag(definition))
        else:
            answer.tag.definition.CopyFrom(_written(versions[0]))
            answer.tag.version, answer.tag.retired = versions[0].version, versions[0].retired
        return answer

    async def CreateTag(self, request: pb.CreateTagRequest, context: Context) -> pb.CreateTagResponse:
        """Known to every batch that begins after it, and to this replica before it is answered."""
        draft = _draft(request.definition)
        await self._live.refresh()
        index = await self._index()
        async with self._database.transaction() as uow:
            changing = await self._changing(uow, index, request.dry_run)
            (outcome,) = await changing.create([draft], caller_of(context), request.dry_run)
            past = None
            if not request.dry_run:
                await self._histories.begin(uow, [outcome.definition])
                past = await history(uow, outcome.definition)
        await self._live.refresh()
        return pb.CreateTagResponse(
            tag=self._outcome(outcome), uses=_uses(outcome.uses), warnings=outcome.warnings, history=_history(past)
        )

    async def UpdateTag(self, request: pb.UpdateTagRequest, context: Context) -> pb.UpdateTagResponse:
        """A new version; says how every audience that uses the tag changes."""
        draft = replace(_draft(request.definition), expected_version=request.expected_version)
        await self._live.refresh()
        for place, predicate in enumerate(request.predicates):
            self._check(draft.kind, predicate, f"predicates[{place}]")
        index = await self._index()
        async with self._database.transaction() as uow:
            changing = await self._changing(uow, index, request.dry_run)
            outcome = await changing.update(draft, caller_of(context), request.dry_run, request.predicates)
        await self._live.refresh()
        return pb.UpdateTagResponse(tag=self._outcome(outcome), uses=_uses(outcome.uses), warnings=outcome.warnings)

    async def RetireTag(self, request: pb.RetireTagRequest, context: Context) -> pb.RetireTagResponse:
        """The end of a tag that nothing uses."""
        await self._live.refresh()
        index = await self._index()
        async with self._database.transaction() as uow:
            changing = await self._changing(uow, index, request.dry_run)
            outcome = await changing.retire(Kind(request.entity_kind), request.name, caller_of(context), request.dry_run)
        await self._live.refresh()
        answer = pb.RetireTagResponse(tag=self._outcome(outcome), uses=_uses(outcome.uses))
        answer.tag.retired = not request.dry_run
        return answer

    async def _changing(self, uow: UnitOfWork, index: AudienceIndex | None, dry_run: bool) -> Changing:
        """A change that is meant keeps all others away from here on."""
        if not dry_run:
            await self._live.begin(uow)
        return Changing(uow, self._live.files, self._live.rules.catalogue, index)

    async def _index(self) -> AudienceIndex | None:
        """The index; None until it has caught up."""
        try:
            await self._projection.check()
        except Unavailable:
            return None
        return self._projection.index

    def _check(self, kind: Kind, predicate: str, field: str) -> None:
        try:
            parse_predicate(predicate, kind, self._live.rules.catalogue)
        except LanguageError as error:
            place = {"position": str(error.position)}
            raise InvalidArgument(str(error), reason=error.reason, field=field, metadata=place) from None

    def _tag(self, definition: TagDefinition) -> pb.CataloguedTag:
        is_view = definition.name in self._live.rules.catalogue.views[definition.kind]
        return _catalogued(definition, is_view, (definition.kind, definition.name) in self._files)

    def _outcome(self, outcome: Outcome) -> pb.CataloguedTag:
        return _catalogued(outcome.definition, outcome.is_view, False)


def _catalogued(definition: TagDefinition, is_view: bool, from_file: bool) -> pb.CataloguedTag:
    return pb.CataloguedTag(
        definition=_definition(definition.kind, definition.name, body_of(definition)),
        version=definition.version,
        from_file=from_file,
        is_view=is_view,
        business_expression=definition.expression if isinstance(definition.origin, FromTags) else "",
        source=source_of(definition),
        refresh=pb.TagRefresh.ValueType(int(refresh_of(definition, is_view))),
    )


def _draft(given: pb.TagDefinition) -> Draft:
    """A definition of the contract, with the keys that files have."""
    body: dict[str, Any] = {
        "type": _word(tags_pb.TagType.Name(given.type), _TYPE),
        "sensitivity": _word(pb.TagSensitivity.Name(given.sensitivity), _CLASS) or "internal",
        "retention_days": given.retention_days,
        "words": list(given.words),
    }
    texts = {
        **{key: getattr(given, key) for key in ("expression", "title", "description", "folder", "owner", "conflict")},
        "score": given.score_model,
    }
    body |= {key: text for key, text in texts.items() if text}
    if given.import_partners:
        body["import"] = list(given.import_partners)
    return Draft(Kind(given.entity_kind), given.name, body)


def _definition(kind: Kind, name: str, body: dict[str, Any]) -> pb.TagDefinition:
    made = pb.TagDefinition(
        name=name,
        entity_kind=EntityKind.ValueType(int(kind)),
        type=tags_pb.TagType.Value(f"{_TYPE}{body['type'].upper()}"),
        score_model=body.get("score", ""),
        words=body.get("words", ()),
        sensitivity=pb.TagSensitivity.Value(f"{_CLASS}{body['sensitivity'].upper()}"),
        retention_days=body.get("retention_days", 0),
        **{key: body.get(key, "") for key in ("expression", "title", "description", "folder", "owner", "conflict")},
    )
    made.import_partners.extend(body.get("import", ()))
    return made


def _written(version: Version) -> pb.TagDefinition:
    return _definition(version.kind, version.name, version.body)


def _version(version: Version) -> pb.TagVersion:
    made = Timestamp()
    if version.created_at is not None:
        made.FromDatetime(version.created_at)
    return pb.TagVersion(
        version=version.version,
        definition=_written(version),
        retired=version.retired,
        created_by=version.created_by,
        created_at=made,
    )


def _history(past: History | None) -> pb.TagHistory | None:
    if past is None:
        return None
    return pb.TagHistory(reach=pb.TagReach.ValueType(past.reach.value), progress=past.progress, anchors=past.anchors)


def _uses(uses: Iterable[Use]) -> list[pb.TagUse]:
    made = []
    for use in uses:
        one = pb.TagUse(
            kind=pb.TagUseKind.ValueType(int(use.kind)),
            entity_kind=EntityKind.ValueType(int(use.entity_kind)),
            name=use.name,
            predicate=use.predicate,
        )
        if use.sizes:
            one.has_sizes = True
            one.size_before, one.size_after, one.leaving = use.sizes.before, use.sizes.after, use.sizes.leaving
        made.append(one)
    return made


def _word(name: str, prefix: str) -> str:
    """The word of the files for a name of the contract; empty for one that was not stated."""
    word = name.removeprefix(prefix)
    return "" if word in _UNSAID else word.lower()
