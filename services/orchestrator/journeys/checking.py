"""What a document says of other rooms: predicates, tags, audiences, models, themes, offers, experiments. All faults at once."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping

import grpc
from troika.tags.v1 import tags_service_pb2 as pb

from chassis.db import Database, UnitOfWork
from chassis.errors import TroikaError, Unavailable
from services.orchestrator.domain.themes import id_of
from services.orchestrator.journeys import programs
from services.orchestrator.journeys.asking import PersonTags
from services.orchestrator.journeys.documents import Document, Fault, Step
from services.orchestrator.journeys.programs import Program
from services.orchestrator.leads.tasks import KINDS
from services.orchestrator.peers import Scoring, Tags
from services.orchestrator.themes.store import ThemeStore

# What tags says of where a tag comes from when journeys write it.
OURS = "journeys"


class Checker:
    """Reads documents and asks the rooms that they speak of."""

    def __init__(self, database: Database, tags: Tags, person_tags: PersonTags, scoring: Scoring) -> None:
        self._database, self._tags, self._person_tags, self._scoring = database, tags, person_tags, scoring

    async def read(self, text: str) -> tuple[Program | None, list[Fault]]:
        """The program of a text; None with every mistake in it."""
        program, faults = programs.read(text)
        if program is not None:
            faults = await self.faults(program.document)
        return (None if faults else program), faults

    async def faults(self, document: Document) -> list[Fault]:
        """What of a document the other rooms do not know."""
        found = await self._trigger(document)
        catalogue = await self._tags.catalogue() if any(step.update_tag for step in document.steps) else {}
        for number, step in enumerate(document.steps):
            found += await self._step(f"steps[{number}]", step, catalogue)
        return found + await self._names(document)

    async def _trigger(self, document: Document) -> list[Fault]:
        trigger = document.trigger
        if trigger.audience is not None:
            return await _asked(self._is_of_persons(trigger.audience.name), "trigger.audience.name")
        if trigger.score is not None:
            return await _asked(self._scoring.require(trigger.score.model, "model"), "trigger.score.model")
        if (stated := trigger.date) is not None:
            # A time can be compared with a moment, nothing else can.
            inside = f"{stated.tag} >= TIMESTAMP '2000-01-01T00:00:00Z'"
            predicate = inside if stated.of == "person" else f"ANY(vehicle, {inside})"
            found = await _asked(self._tags.count(predicate, "tag"), "trigger.date.tag")
            return found + (await _asked(self._tags.count(stated.among, "among"), "trigger.date.among") if stated.among else [])
        return []

    async def _is_of_persons(self, name: str) -> None:
        answer = await self._person_tags.audience(name, "name")
        if answer.audience.entity_kind != 1 or answer.audience.HasField("deleted_at"):
            raise Wrong("AUDIENCE_UNFIT", f"{name} is no living audience of persons")

    async def _step(self, path: str, step: Step, catalogue: Mapping[str, pb.Tag]) -> list[Fault]:
        if step.condition is not None:
            return await _asked(self._tags.count(step.condition.holds, "holds"), f"{path}.condition.holds")
        if (stated := step.update_tag) is not None:
            tag = catalogue.get(stated.tag)
            wanted = {str: pb.TAG_TYPE_CATEGORY, float: pb.TAG_TYPE_NUMBER}.get(type(stated.value))
            if tag is None or tag.score_model != OURS or wanted not in (None, tag.type):
                what = "tags that journeys may write have `score: journeys`, and a value of their type"
                return [Fault(f"{path}.update_tag", 0, "TAG_NOT_OF_JOURNEYS", what)]
        if step.create_task is not None and step.create_task.kind not in KINDS:
            return [Fault(f"{path}.create_task.kind", 0, "UNKNOWN_TASK_KIND", f"one of {', '.join(sorted(KINDS))}")]
        return []

    async def _names(self, document: Document) -> list[Fault]:
        """Themes, offers and experiments that are not there."""
        asked = [
            (f"{kind}.{alias}", kind, int((resource or "0").split("/")[-1]))
            for kind in ("themes", "offers")
            for alias, resource in getattr(document, kind).items()
        ] + [
            (f"steps[{number}].ab.experiment", "experiments", int(step.ab.experiment.split("/")[-1]))
            for number, step in enumerate(document.steps)
            if step.ab is not None
        ]
        missing = {"themes": "MISSING_THEME", "offers": "MISSING_OFFER", "experiments": "MISSING_EXPERIMENT"}
        async with self._database.read() as uow:
            rows = await uow.rows(
                "SELECT 'themes' AS kind, theme_id AS id FROM theme WHERE theme_id = ANY(CAST(:themes AS bigint[]))"
                " UNION ALL SELECT 'offers', offer_id FROM offer WHERE offer_id = ANY(CAST(:offers AS bigint[]))"
                " AND retired_at IS NULL UNION ALL SELECT 'experiments', experiment_id FROM experiment"
                " WHERE experiment_id = ANY(CAST(:experiments AS bigint[]))",
                **{kind: [number for _, of, number in asked if of == kind] for kind in missing},
            )
            known = {(row.kind, row.id) for row in rows}
            faults = [
                Fault(path, 0, missing[kind], f"there is no {kind}/{number}")
                for path, kind, number in asked
                if (kind, number) not in known
            ]
            return faults or await _strangers(uow, document)


async def _strangers(uow: UnitOfWork, document: Document) -> list[Fault]:
    """Pushes of offers that their theme does not have: the arbiter would take one of the theme's instead."""
    faults = []
    for number, step in enumerate(document.steps):
        if step.push is None or step.push.offer is None:
            continue
        theme = document.themes[step.push.theme] or ""
        offer = document.offers[step.push.offer] or ""
        found = await ThemeStore(uow).in_force(id_of(theme))
        if found is None or int(offer.removeprefix("offers/")) not in found.definition.offers:
            faults.append(Fault(f"steps[{number}].push.offer", 0, "OFFER_NOT_OF_THEME", f"{theme} does not have {offer}"))
    return faults


class Wrong(TroikaError):
    """A fault of a document, on its way to the list."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, reason=reason)


async def _asked(question: Awaitable[object], path: str) -> list[Fault]:
    """The fault that a room's refusal is."""
    try:
        await question
    except Unavailable:
        raise
    except TroikaError as error:
        return [Fault(path, 0, error.reason, error.message)]
    except grpc.aio.AioRpcError as error:
        if error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION):
            return [Fault(path, 0, "REFUSED", error.details() or "refused")]
        raise
    return []
