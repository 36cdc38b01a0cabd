"""Named audiences: made, changed and ended, with what that does to their members said first."""

from __future__ import annotations

import asyncio
import logging
from typing import Final, NamedTuple

from pyroaring import BitMap

from chassis.db import Database
from chassis.errors import FailedPrecondition, NotFound, TroikaError, is_operational
from services.tags.audiences import store
from services.tags.audiences.live import Live
from services.tags.audiences.store import Definition, Named
from services.tags.domain.catalogue import Kind
from services.tags.questions import Questions

log = logging.getLogger(__name__)

_LOOK_S: Final = 1.0


class Sizes(NamedTuple):
    """What a definition does to the members."""

    before: int
    after: int
    entering: int
    leaving: int


async def sizes(questions: Questions, old: Definition | None, new: Definition) -> Sizes:
    """Members by the old definition (None: nobody) and by the new one, now."""
    before = await questions.members(old.kind, old.predicate, "name") if old else BitMap()
    after = await questions.members(new.kind, new.predicate, "predicate")
    kept = before.intersection_cardinality(after)
    return Sizes(len(before), len(after), len(after) - kept, len(before) - kept)


async def create(database: Database, name: str, definition: Definition, caller: str) -> Named:
    """A new audience; the same one again is answered as it is. Raises FailedPrecondition when the name is taken."""
    async with database.transaction() as uow:
        made = await store.add(uow, name, definition, caller)
        if made is None:
            made = await store.named(uow, name)
            if made is None or made.definition != definition or made.deleted_at is not None:
                raise FailedPrecondition("there is, or was, another audience of this name", reason="NAME_TAKEN", field="name")
    return made


async def update(database: Database, name: str, definition: Definition, version: int, caller: str) -> Named:
    """The next version. Raises FailedPrecondition when the audience is not at `version` any more."""
    async with database.transaction() as uow:
        made = await store.change(uow, name, definition, version, caller)
    if made is None:
        raise _outdated((await living(database, name)).version)
    return made


async def living(database: Database, name: str) -> Named:
    """An audience that has not ended. Raises NotFound."""
    found = await known(database, name)
    if found.deleted_at is not None:
        raise NotFound("this audience has ended", reason="AUDIENCE_ENDED", field="name")
    return found


async def known(database: Database, name: str) -> Named:
    """An audience, be it ended. Raises NotFound."""
    if (found := await store.named(database, name)) is None:
        raise NotFound("no such audience", reason="AUDIENCE_NOT_FOUND", field="name")
    return found


def check_version(named: Named, version: int) -> None:
    """Raises FailedPrecondition when a caller has seen another version."""
    if named.version != version:
        raise _outdated(named.version)


def _outdated(version: int) -> FailedPrecondition:
    return FailedPrecondition(
        f"it is at version {version} now",
        reason="VERSION_CHANGED",
        field="version",
        metadata={"version": str(version)},
    )


def key_of(named: Named) -> tuple[str, int]:
    """The key that a named audience is followed under."""
    return "audience", named.audience_id


async def keep_defined(database: Database, questions: Questions, live: Live) -> None:
    """Lets named audiences that somebody follows here be what they are defined as now, whoever changed them. For ever."""
    while True:
        await asyncio.sleep(_LOOK_S)
        try:
            await redefine(database, questions, live)
        except Exception as error:
            if not is_operational(error) and not isinstance(error, TroikaError):
                log.exception("definitions of audiences failed")


async def redefine(database: Database, questions: Questions, live: Live) -> None:
    """Does so once."""
    for key in list(live.keys):
        match key:
            case ("predicate", Kind() as kind, str(text)):
                # The catalogue may have changed what its names mean.
                try:
                    live.redefine(key, questions.term(kind, text, "predicate"), 0)
                except TroikaError as error:
                    live.end(key, error)
    followed = {key[1] for key in live.keys if isinstance(key, tuple) and key[0] == "audience"}
    for named in await store.by_number(database, followed) if followed else ():
        if named.deleted_at is not None:
            live.end(key_of(named), NotFound("this audience has ended", reason="AUDIENCE_ENDED", field="audience"))
            continue
        try:
            term = questions.term(named.definition.kind, named.definition.predicate, "predicate")
        except TroikaError as error:
            # Its tags have left the catalogue: it stays as it was.
            log.warning("audience cannot be read", extra={"audience": named.name, "reason": error.reason})
            continue
        live.redefine(key_of(named), term, named.version)
        await asyncio.sleep(0)
