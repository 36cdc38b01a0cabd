"""Adds, changes and retires tags beside those of the files: all of a change or nothing, and said first what it would do.

What a base tag makes of events never changes: what was counted by one expression means nothing under another. Nor is a name
used twice: facts under it stay with the anchors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from chassis.db import UnitOfWork
from chassis.errors import FailedPrecondition, InvalidArgument, NotFound, TroikaError
from services.tags.catalogue import stored, uses
from services.tags.catalogue.checking import Key, examine
from services.tags.catalogue.defining import body_of, define
from services.tags.catalogue.mistakes import Fault, Found, nearest
from services.tags.catalogue.stored import Version
from services.tags.catalogue.uses import Measuring, Use, UseKind
from services.tags.domain.business import compile_all
from services.tags.domain.catalogue import Catalogue, FromTags, Kind, TagDefinition
from services.tags.index.index import AudienceIndex

# Of what breaks or uses something, as many are told in a message as one reads.
_TOLD = 5


@dataclass(frozen=True)
class Draft:
    """A definition as somebody wrote it. `expected_version` 0: whichever there is."""

    kind: Kind
    name: str
    body: Mapping[str, Any]
    expected_version: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a change makes, or would make, of one tag."""

    definition: TagDefinition
    is_view: bool
    uses: tuple[Use, ...]
    warnings: tuple[str, ...] = ()


class Changing:
    """One change of the catalogue, within a transaction that has begun it (`LiveCatalogue.begin`) unless it is a dry run."""

    def __init__(
        self, uow: UnitOfWork, files: Sequence[TagDefinition], present: Catalogue, index: AudienceIndex | None = None
    ) -> None:
        """`present`: all tags there are now, those of the `files` among them. Without an index there are no sizes."""
        self._uow, self._files, self._present, self._index = uow, {(d.kind, d.name): d for d in files}, present, index

    async def create(self, drafts: Sequence[Draft], caller: str, dry_run: bool = False) -> list[Outcome]:
        """Adds tags, which may be built on each other."""
        added = await self._added()
        for draft in drafts:
            self._refuse_of_file(draft.kind, draft.name)
            if (known := added.get((draft.kind, draft.name))) is not None:
                what = "was retired, and names are not used twice" if known.retired else "exists already"
                raise FailedPrecondition(f"{_place(draft.kind, draft.name)} {what}", reason="TAG_EXISTS", field="name")
        defined = [self._defined(draft, 1) for draft in drafts]
        return await self._put(defined, [], caller, dry_run)

    async def update(self, draft: Draft, caller: str, dry_run: bool = False, asked: Sequence[str] = ()) -> Outcome:
        """Makes a new version of an added tag. `asked`: predicates over its kind whose sizes are wanted, too."""
        added = await self._added()
        known = self._known(added, draft.kind, draft.name)
        if draft.expected_version and draft.expected_version != known.version:
            message = f"{_place(draft.kind, draft.name)} is at version {known.version} now"
            raise FailedPrecondition(message, reason="VERSION_CHANGED", field="expected_version")
        definition, warnings = self._defined(draft, known.version + 1)
        before = self._present.of(draft.kind).get(draft.name)
        if before is not None:
            _refuse_other_meaning(before, definition)
        return (await self._put([(definition, warnings)], asked, caller, dry_run))[0]

    async def retire(self, kind: Kind, name: str, caller: str, dry_run: bool = False) -> Outcome:
        """Ends an added tag that nothing is built on."""
        known = self._known(await self._added(), kind, name)
        definition = self._present.of(kind).get(name)
        if definition is None:
            # Set aside: nothing can be built on it.
            definition, _ = self._defined(Draft(kind, name, known.body), known.version)
        after = Catalogue([each for each in self._present.definitions if (each.kind, each.name) != (kind, name)])
        others = await self._uses({(kind, name)})
        itself = Use(UseKind.ITSELF, kind, name)
        outcome = Outcome(definition, name in self._present.views[kind], self._sized([itself, *others], after, {(kind, name)}))
        if not dry_run:
            if others:
                told = ", ".join(f"{use.kind.name.lower()} {use.name}" for use in others[:_TOLD])
                message = f"{_place(kind, name)} is used by {told}{' and others' if len(others) > _TOLD else ''}"
                raise FailedPrecondition(message, reason="TAG_IN_USE", field="name")
            await stored.add(self._uow, [Version(kind, name, known.version + 1, known.body, True, caller)])
        return outcome

    async def used(self, kind: Kind, name: str) -> tuple[Use, ...]:
        """What a tag is used for now, with sizes."""
        found = [Use(UseKind.ITSELF, kind, name), *await self._uses({(kind, name)})]
        return self._sized(found, self._present, set())

    async def _added(self) -> dict[Key, Version]:
        """What was added so far."""
        return {(version.kind, version.name): version for version in await stored.current(self._uow)}

    def _refuse_of_file(self, kind: Kind, name: str) -> None:
        if (kind, name) in self._files:
            message = f"{_place(kind, name)} is defined by a file of the release: change it there"
            raise FailedPrecondition(message, reason="TAG_OF_FILE", field="name")

    def _known(self, added: Mapping[Key, Version], kind: Kind, name: str) -> Version:
        self._refuse_of_file(kind, name)
        known = added.get((kind, name))
        if known is None or known.retired:
            hint = nearest(name, [each for at, each in added if at is kind])
            raise NotFound(f"nobody added {_place(kind, name)}{hint}", reason="UNKNOWN_TAG", field="name")
        return known

    def _defined(self, draft: Draft, version: int) -> tuple[TagDefinition, tuple[str, ...]]:
        definition, faults = define(draft.kind, draft.name, draft.body)
        for fault in faults:
            if not fault.is_warning:
                raise _invalid(draft.kind, draft.name, fault)
        assert definition is not None  # noqa: S101  # or there would be faults
        return replace(definition, version=version), tuple(fault.message for fault in faults)

    async def _put(
        self, defined: Sequence[tuple[TagDefinition, tuple[str, ...]]], asked: Sequence[str], caller: str, dry_run: bool
    ) -> list[Outcome]:
        keys = {(definition.kind, definition.name) for definition, _ in defined}
        kept = [each for each in self._present.definitions if (each.kind, each.name) not in keys]
        together = [*kept, *(definition for definition, _ in defined)]
        found = examine(together)
        for each in found:
            if not each.fault.is_warning:
                raise _refused(each, keys)
        after = Catalogue(together)
        compile_all(after)
        others = await self._uses(keys)
        self._refuse_broken(others, after)
        others += [Use(UseKind.ASKED, defined[0][0].kind, "", predicate) for predicate in asked]
        outcomes = []
        for definition, warnings in defined:
            itself = Use(UseKind.ITSELF, definition.kind, definition.name)
            more = tuple(
                each.fault.message for each in found if each.definition is definition and each.fault.reason != "UNUSED"
            )
            sized = self._sized([itself, *others], after, keys)
            outcomes.append(Outcome(definition, definition.name in after.views[definition.kind], sized, (*warnings, *more)))
        if not dry_run:
            made = [Version(d.kind, d.name, d.version, body_of(d), False, caller) for d, _ in defined]
            await stored.add(self._uow, made)
        return outcomes

    async def _uses(self, keys: set[Key]) -> list[Use]:
        """Tags, audiences and shares that are built on some tags, at whatever distance."""
        readers = uses.readers_closure(self._present, keys)
        tags = [Use(UseKind.TAG, reader.kind, reader.name) for reader in readers.values()]
        predicates = await uses.predicates_in_use(self._uow)
        return [*tags, *uses.concerned(predicates, {*keys, *readers}, self._present)]

    def _refuse_broken(self, others: Sequence[Use], after: Catalogue) -> None:
        """Raises FailedPrecondition when a predicate in use could not be asked any more."""
        for use in others:
            if use.predicate and (why := uses.unreadable(use, after)):
                message = f"{use.kind.name.lower()} {use.name} could not be asked any more: {why}"
                raise FailedPrecondition(message, reason="TAG_IN_USE", field="definition")

    def _sized(self, found: Sequence[Use], after: Catalogue, changed: set[Key]) -> tuple[Use, ...]:
        if self._index is None:
            return tuple(found)
        measuring = Measuring(self._index, self._present, after, changed)
        return tuple(measuring.measured(use) for use in found)


def _place(kind: Kind, name: str) -> str:
    return f"{kind.name.lower()}.{name}"


def _refuse_other_meaning(before: TagDefinition, definition: TagDefinition) -> None:
    place = _place(before.kind, before.name)
    if definition.type is not before.type:
        message = f"{place} is a {before.type.value} and stays one: add another tag"
        raise FailedPrecondition(message, reason="TYPE_FIXED", field="definition.type")
    is_business = isinstance(before.origin, FromTags)
    if isinstance(definition.origin, FromTags) != is_business or (not is_business and definition.origin != before.origin):
        message = f"what {place} makes of events was counted as it is defined: add another tag, and retire this one"
        raise FailedPrecondition(message, reason="BASE_TAG_FIXED", field="definition.expression")


def _invalid(kind: Kind, name: str, fault: Fault) -> TroikaError:
    place = {"position": str(fault.position)} if fault.position else {}
    field = f"definition.{fault.key}" if fault.key else "definition"
    return InvalidArgument(f"{_place(kind, name)}: {fault.message}", reason=fault.reason, field=field, metadata=place)


def _refused(found: Found, changed: set[Key]) -> TroikaError:
    """The error of a change: its own fault, or that it would break another tag."""
    definition, fault = found.definition, found.fault
    if (definition.kind, definition.name) in changed:
        return _invalid(definition.kind, definition.name, fault)
    message = f"{_place(definition.kind, definition.name)} would be wrong then: {fault.message}"
    return FailedPrecondition(message, reason="TAG_IN_USE", field="definition")
