"""Scores everybody with the version in use, in a stream; who takes over goes on behind the last person that was scored."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime

from chassis.db import Database
from chassis.errors import Unavailable
from services.scoring import health
from services.scoring.artefact import ServedModel
from services.scoring.distributions import Sampler
from services.scoring.frame import Ids, Matrix, matrix_of
from services.scoring.handlers import keep, predict
from services.scoring.readings import Readings
from services.scoring.registry import Registry, Version
from services.scoring.tag_door import TagDoor
from services.scoring.working import Task

# Chunks that are predicted, in threads, while one is written.
_AHEAD = 1


class Everybody:
    """The work of a SCORE operation, and the end of most others."""

    def __init__(self, database: Database, tags: TagDoor, registry: Registry, settle_s: float) -> None:
        """`settle_s`: how long tags may need to show a change that it has published."""
        self._database, self._tags, self._registry, self._settle_s = database, tags, registry, settle_s

    async def __call__(self, task: Task) -> None:
        """Until everybody is scored."""
        await self.score(task, task.operation.model, 0.0)

    async def score(self, task: Task, model: str, done: float) -> None:
        """Scores everybody; `done` is the share of the operation's work that was done before."""
        # Changes that came before the model was in use were passed over: tags must show them before we look.
        await asyncio.sleep(self._settle_s)
        async with self._database.read() as uow:
            version = await self._registry.one(uow, model)
        if version is None:
            raise Unavailable("the model that is to score everybody is not in use")
        _, total = await self._tags.count("", "predicate")
        # The time of the question, not of the answer: whatever changes meanwhile is scored online and is newer.
        await self._stream(task, version, datetime.now(UTC), total, done)

    async def _stream(self, task: Task, version: Version, at: datetime, total: int, done: float) -> None:
        model, before = version.served, task.operation
        # What another version has done does not count.
        after, scored = (before.cursor, before.persons_scored) if before.version == model.version else (0, 0)
        # Who goes on where another process stopped has not seen the whole base.
        sampler = Sampler(model.encodings, total) if after == 0 else None
        async with aclosing(self._predicted(model, at, after)) as chunks:
            async for persons, matrix, said in chunks:
                if sampler is not None:
                    sampler.see(persons, matrix, said.scores)
                scored += len(persons)
                progress = done + (1 - done) * min(1.0, scored / max(total, 1))
                async with self._database.transaction() as uow:
                    await task.tell(
                        uow, progress=progress, version=model.version, persons_scored=scored, cursor=int(persons[-1])
                    )
                    await keep(uow, version, persons, said, at)
        if sampler is not None:
            await self._picture(task, version, sampler, at)

    async def _predicted(
        self, model: ServedModel, at: datetime, after: int
    ) -> AsyncGenerator[tuple[Ids, Matrix, Readings], None]:
        """Everybody behind a person in chunks, each with what the model says; the next is predicted while one is written."""
        begun: deque[tuple[Ids, Matrix, asyncio.Task[Readings]]] = deque()
        try:
            async for chunk in self._tags.values("", model.tags, at):
                if not len(chunk) or chunk.persons[-1] <= after:
                    continue
                matrix = matrix_of(model.encodings, chunk)
                begun.append((chunk.persons, matrix, asyncio.create_task(predict(model, matrix))))
                if len(begun) > _AHEAD:
                    persons, earlier, said = begun.popleft()
                    yield persons, earlier, await said
            while begun:
                persons, earlier, said = begun.popleft()
                yield persons, earlier, await said
        finally:
            for _, _, said in begun:
                said.cancel()

    async def _picture(self, task: Task, version: Version, sampler: Sampler, at: datetime) -> None:
        """Keeps how features and scores are spread."""
        model = version.served
        async with self._database.transaction() as uow:
            references = await health.references(uow, model.model, model.version)
            seen = await asyncio.to_thread(sampler.pictures, references)
            await task.tell(uow)
            await health.keep(uow, model.model, model.version, seen, at)
