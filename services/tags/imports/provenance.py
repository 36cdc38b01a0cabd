"""What partners say of one entity, with file and line, and which of it counts."""

from __future__ import annotations

from dataclasses import dataclass

from chassis.db import UnitOfWork
from services.tags import store
from services.tags.domain import imported
from services.tags.domain.catalogue import Kind, Value
from services.tags.domain.imported import Imported
from services.tags.handlers import TagRules, now_us


@dataclass(frozen=True)
class ImportedFact:
    """One cell of one line; `sha256` of its file. `until_us` None: for ever."""

    tag: str
    value: Value
    partner: str
    import_id: int
    sha256: bytes
    line: int
    anchor_id: int
    occurred_us: int
    confidence: float
    until_us: int | None
    counts: bool


async def facts_of(uow: UnitOfWork, rules: TagRules, kind: Kind, entity_id: int) -> list[ImportedFact]:
    """By tag, strongest first; empty for entities that nobody said anything of."""
    folds, at_us = rules.facts.folds[kind], now_us()
    said = [
        (tag, each, int(key), row.anchor_id)
        for row in (await store.anchors_of(uow, kind, [entity_id])).values()
        for tag, each, key in imported.spoken(row.facts, folds)
    ]
    files = await uow.fetch(
        "SELECT id, file_sha256 FROM import_job WHERE id = ANY($1::bigint[])", list({key for _, _, key, _ in said})
    )
    digests = {row[0]: bytes(row[1] or b"") for row in files}
    found: list[ImportedFact] = []
    for tag in sorted({each[0] for each in said}):
        rule = folds[tag]
        if not isinstance(rule, Imported):
            continue
        mine = [each for each in said if each[0] == tag]
        mine.sort(key=lambda each: (rule.counts(each[1], at_us), rule.order(each[1])), reverse=True)
        for place, (_, (value, occurred, confidence, partner, until, line), key, anchor_id) in enumerate(mine):
            counts = place == 0 and rule.counts(mine[0][1], at_us)
            found.append(
                ImportedFact(
                    *(tag, value, partner, key, digests.get(key, b""), line, anchor_id, occurred, confidence, until, counts)
                )
            )
    return found
