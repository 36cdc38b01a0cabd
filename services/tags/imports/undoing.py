"""Withdraws all facts of one import: what other files say counts again, as if it had never been."""

from __future__ import annotations

from typing import Final

from chassis.db import Database
from services.tags import store
from services.tags.domain import imported
from services.tags.domain.catalogue import Kind
from services.tags.handlers import TagRules, now_us
from services.tags.imports import jobs, writing
from services.tags.imports.jobs import Job

_PAGE: Final = 1000


async def undo(database: Database, rules: TagRules, job: Job) -> None:
    """Goes through all anchors of an import; may be stopped and goes on where it was."""
    while await undo_page(database, rules, job):
        pass
    await jobs.finish(database, job.id, jobs.UNDONE)


async def undo_page(database: Database, rules: TagRules, job: Job, size: int = _PAGE) -> bool:
    """Withdraws from some anchors; False when none is left."""
    kind = Kind(job.entity_kind)
    async with database.transaction() as uow:
        await rules.hold(uow)
        rows = await uow.fetch(
            "SELECT anchor_id FROM import_line WHERE import_id = $1 ORDER BY anchor_id LIMIT $2", job.id, size
        )
        ids = {int(row[0]) for row in rows}
        if not ids:
            await uow.fetch("DELETE FROM import_error WHERE import_id = $1", job.id)
            return False
        entities, anchors = await writing.lock(uow, kind, ids)
        stated: dict[int, set[str]] = {}
        touched = []
        for anchor_id in ids & anchors.keys():
            row = anchors[anchor_id]
            if tags := imported.withdraw(row.facts, rules.facts.folds[kind], job.id):
                stated.setdefault(row.entity_id, set()).update(tags)
                touched.append(row)
        if touched:
            await store.update_anchors(uow, kind, touched)
        await writing.derive(uow, rules, kind, entities, anchors, stated, now_us())
        await uow.fetch("DELETE FROM import_line WHERE import_id = $1 AND anchor_id = ANY($2::bigint[])", job.id, list(ids))
    return True
