"""Scoring persons: when their tags changed, and once more when tags was late."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np

from chassis.db import Database, UnitOfWork
from chassis.errors import is_operational
from services.scoring import consents, events, store
from services.scoring.artefact import ServedModel
from services.scoring.domain import PersonScore
from services.scoring.events import Change
from services.scoring.frame import Frame, Ids, Matrix, matrix_of
from services.scoring.readings import Readings, neutral, read
from services.scoring.registry import Registry, Version
from services.scoring.tag_door import TagDoor, days_before

log = logging.getLogger(__name__)

# Below this, a prediction is shorter than the way to another thread.
ROWS_IN_LOOP = 500
RESCORE_BATCH = 2000
RESCORE_EVERY_S = 0.5


def overlay(
    model: ServedModel, frame: Frame, changes: Mapping[int, Change], times: frozenset[str], at: datetime
) -> tuple[Ids, Matrix, list[int]]:
    """What tags showed, with the changes laid over it: persons, their rows, and those where both disagreed.

    tags publishes a change a moment before its own index shows it; persons that the index does not know at all get a row
    of unknowns to lay their changes over. `times` are tags whose values count back from `at`, as in the frame.
    """
    known = set(frame.persons.tolist())
    missing = sorted(changes.keys() - known)
    persons = np.concatenate([frame.persons, np.array(missing, np.int64)])
    matrix = np.full((len(persons), len(model.tags)), np.nan, np.float32)
    if len(frame):
        matrix[: len(frame)] = matrix_of(model.encodings, frame)
    places = {encoding.feature.tag: (place, encoding) for place, encoding in enumerate(model.encodings)}
    disagreeing = set(missing)
    for row, person in enumerate(persons.tolist()):
        change = changes.get(person)
        for tag, (_, value) in change.values.items() if change else ():
            if tag not in places:
                continue
            place, encoding = places[tag]
            told = float(days_before(at.timestamp(), value)) if tag in times and isinstance(value, float) else value
            code = np.float32(encoding.value(told))
            shown = matrix[row, place]
            if shown != code and not (np.isnan(shown) and np.isnan(code)):
                disagreeing.add(person)
                matrix[row, place] = code
    return persons, matrix, sorted(disagreeing)


async def predict(model: ServedModel, matrix: Matrix) -> Readings:
    """What a model says of rows, off the event loop when there are many."""
    if len(matrix) <= ROWS_IN_LOOP:
        return read(model, matrix)
    return await asyncio.to_thread(read, model, matrix)


async def keep(
    uow: UnitOfWork,
    version: Version,
    persons: Ids,
    said: Readings,
    scored_at: datetime,
    *,
    changes: Mapping[int, Change] | None = None,
) -> int:
    """Writes scores and publishes those that changed; returns how many did.

    Who has switched personalisation off gets what is said of somebody of whom nothing is known.
    """
    said = neutral(said, await consents.silent(uow, persons, consents.regime_of(version.card), scored_at), version)
    received = {person: change.received_at_us for person, change in (changes or {}).items()}
    columns = zip(persons.tolist(), said.scores.tolist(), said.probabilities.tolist(), said.labels, strict=True)
    scores = [PersonScore(person, score, p, received.get(person, 0), label) for person, score, p, label in columns]
    model = version.served
    changed = await store.write_scores(uow, model.model, model.version, scores, scored_at)
    for payload in events.scores_changed(model.model, model.version, changed, scored_at):
        uow.publish(events.SCORES_CHANGED, payload)
    return len(changed)


class Scorer:
    """Keeps the scores of persons in step with their tags."""

    def __init__(self, database: Database, tags: TagDoor, registry: Registry, rescore_delay_s: float) -> None:
        self._database, self._tags, self._registry = database, tags, registry
        self._delay_s = rescore_delay_s

    async def models(self, uow: UnitOfWork) -> list[Version]:
        """The models in use; asked first, so that a change costs next to nothing while there is none."""
        return await self._registry.in_use(uow)

    async def score_changed(self, uow: UnitOfWork, version: Version, changes: Mapping[int, Change]) -> None:
        """Scores persons whose tags changed; where tags was behind its own message, they come up again a moment later."""
        model = version.served
        tags = set(model.tags)
        concerned = {person: change for person, change in changes.items() if not tags.isdisjoint(change.values)}
        if not concerned:
            return
        scored_at = datetime.now(UTC)
        frame = await self._tags.values_of(list(concerned), model.tags, scored_at)
        times = await self._tags.times(model.tags)
        persons, matrix, disagreeing = overlay(model, frame, concerned, times, scored_at)
        said = await predict(model, matrix)
        await keep(uow, version, persons, said, scored_at, changes=concerned)
        # The message may be the newer one, or the index (another change is on its way to us), or the index may lack
        # an earlier change that is not in this batch: only a later look settles it.
        if disagreeing:
            await store.look_again(uow, model.model, disagreeing, self._delay_s)

    async def rescore_due(self) -> int:
        """Scores persons whose second look is due from what tags shows now; returns how many there were."""
        async with self._database.transaction(traced=False) as uow:
            if ended := await consents.lapse(uow, datetime.now(UTC)):
                for name in await store.versions_in_use(uow):
                    await store.look_again(uow, name, ended, 0)
            due = await store.take_due(uow, RESCORE_BATCH)
            for name, persons in due.items():
                version = await self._registry.one(uow, name)
                if version is None:
                    continue
                model, scored_at = version.served, datetime.now(UTC)
                frame = await self._tags.values_of(persons, model.tags, scored_at)
                if len(frame):
                    said = await predict(model, matrix_of(model.encodings, frame))
                    await keep(uow, version, frame.persons, said, scored_at)
        return sum(len(persons) for persons in due.values())

    async def run(self) -> None:
        """Works through second looks until cancelled."""
        while True:
            try:
                while await self.rescore_due() == RESCORE_BATCH:
                    pass
            except Exception as error:
                if not is_operational(error):
                    log.exception("second look failed")
            await asyncio.sleep(RESCORE_EVERY_S)
