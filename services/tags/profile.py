"""One entity's tags with their time and lineage, as the database has them."""

from __future__ import annotations

from dataclasses import dataclass

from chassis.db import UnitOfWork
from services.tags import store
from services.tags.domain.catalogue import Kind, Value
from services.tags.handlers import TagRules
from services.tags.store import Pair


@dataclass(frozen=True)
class ProfileTag:
    """A tag, when the newest event behind it happened, and the anchors it was computed from (none for business tags)."""

    name: str
    value: Value
    occurred_at_us: int | None
    anchor_ids: list[int]
    expression: str


@dataclass(frozen=True)
class Profile:
    """An entity's tags by name, and its present relations."""

    tags: list[ProfileTag]
    relations: list[Pair]


async def load(uow: UnitOfWork, rules: TagRules, kind: Kind, entity_id: int) -> Profile | None:
    """The profile, None when the entity does not exist."""
    entity = await store.entity(uow, kind, entity_id)
    if entity is None or not entity.present:
        return None
    anchors = await store.anchors_of(uow, kind, [entity_id])
    explained = rules.facts.explained(kind, {row.anchor_id: row.facts for row in anchors.values()})
    times: dict[str, int | None] = {name: occurred for name, (occurred, _) in explained.items()}
    times |= {name: score[1] for name, score in entity.scores.items()}
    for name, inputs in rules.business.inputs[kind].items():
        times[name] = max((time for tag in inputs if (time := times.get(tag)) is not None), default=None)
    definitions = rules.catalogue.of(kind)
    tags = [
        ProfileTag(name, value, times.get(name), explained[name][1] if name in explained else [], definitions[name].expression)
        for name, value in sorted(entity.tags.items())
        if name in definitions
    ]
    return Profile(tags, await store.related(uow, kind, [entity_id]))
