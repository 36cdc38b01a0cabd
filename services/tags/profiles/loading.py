"""One entity's tags with their time, source and confidence, and who is related to it, as the database has them."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chassis.db import UnitOfWork
from chassis.errors import FailedPrecondition
from services.tags import store
from services.tags.audiences.around import Reach, stand
from services.tags.domain.catalogue import FromEvents, FromImport, FromScore, FromTags, Kind, TagDefinition, Value
from services.tags.domain.evaluation import compile_expression
from services.tags.domain.facts import Facts
from services.tags.domain.imported import Imported
from services.tags.domain.language import LanguageError
from services.tags.domain.names import names_in
from services.tags.handlers import TagRules
from services.tags.scores import CONFIDENCE
from services.tags.store import Pair


@dataclass(frozen=True)
class ProfileTag:
    """A tag and where it comes from.

    `occurred_at_us`: when the newest event behind it happened; `anchor_ids`: the anchors it was computed from (none for tags
    over tags); `inputs`: the tags it is computed from, those of related entities as kind.tag; `computed`: for this answer,
    because it asks related entities.
    """

    definition: TagDefinition
    value: Value
    occurred_at_us: int | None
    anchor_ids: Sequence[int]
    source: str
    confidence: float
    inputs: Sequence[str]
    computed: bool = False


@dataclass(frozen=True)
class Profile:
    """An entity's tags by name, its present relations, and the anchors it consists of.

    `too_many_related`: tags that ask related entities are left out.
    """

    tags: Sequence[ProfileTag]
    relations: Sequence[Pair]
    anchor_ids: Sequence[int]
    too_many_related: bool


async def load(uow: UnitOfWork, rules: TagRules, kind: Kind, entity_id: int, tag: str = "") -> Profile | None:
    """The profile, None when the entity does not exist; with `tag` only that one and all that it is computed from."""
    entity = await store.entity(uow, kind, entity_id)
    if entity is None or not entity.present:
        return None
    anchors = await store.anchors_of(uow, kind, [entity_id])
    facts = {row.anchor_id: row.facts for row in anchors.values()}
    definitions = rules.catalogue.of(kind)
    wanted = _behind(rules, kind, tag) if tag else definitions.keys()
    values: dict[str, Value] = {name: value for name, value in entity.tags.items() if name in definitions}
    computed = await _computed(uow, rules, kind, entity_id, wanted)
    values |= computed or {}
    lines = _Lines(rules, kind, facts, entity.scores)
    tags = [
        lines.tag(definitions[name], value, name in (computed or ()))
        for name, value in sorted(values.items())
        if name in wanted
    ]
    return Profile(tags, await store.related(uow, kind, [entity_id]), sorted(anchors), computed is None)


async def _computed(
    uow: UnitOfWork, rules: TagRules, kind: Kind, entity_id: int, wanted: Collection[str]
) -> dict[str, Value] | None:
    """Tags that ask related entities; None when there are too many of those."""
    views = {name: view for name, view in rules.catalogue.views[kind].items() if name in wanted}
    if not views:
        return {}
    try:
        standing = await stand(uow, kind, entity_id, time.time(), Reach.of_all(views.values()))
    except FailedPrecondition:
        return None
    if standing is None:
        return {}
    found = {name: compile_expression(view)(standing.seen) for name, view in views.items()}
    return {name: value for name, value in found.items() if value is not None}


def _behind(rules: TagRules, kind: Kind, tag: str) -> set[str]:
    """A tag and all tags of the same entity that it is computed from."""
    found: set[str] = set()
    open_ = [tag]
    while open_:
        name = open_.pop()
        definition = rules.catalogue.of(kind).get(name)
        if definition is not None and name not in found:
            found.add(name)
            open_ += [each for each in inputs(rules, definition) if "." not in each]
    return found


def inputs(rules: TagRules, definition: TagDefinition) -> list[str]:
    """The tags that a tag over tags names, by their names; those of related entities as kind.tag."""
    if not isinstance(definition.origin, FromTags):
        return []
    try:
        named = names_in(definition.expression, definition.kind)
    except LanguageError:
        return []
    found = set()
    for kind, name in named:
        known = rules.catalogue.known_as(kind).get(name)
        if known is not None:
            found.add(known.name if kind is definition.kind else f"{kind.name.lower()}.{known.name}")
    return sorted(found)


class _Lines:
    """What stands behind the values of one entity."""

    def __init__(self, rules: TagRules, kind: Kind, facts: Mapping[int, Facts], scores: Mapping[str, Sequence[Any]]) -> None:
        self._rules, self._kind, self._facts = rules, kind, facts
        self._explained = rules.facts.explained(kind, facts)
        self._times: dict[str, int | None] = {name: occurred for name, (occurred, _) in self._explained.items()}
        self._times |= {name: score[1] for name, score in scores.items()}
        self._scores = scores
        for name, read in rules.business.inputs[kind].items():
            self._times[name] = max((t for each in read if (t := self._times.get(each)) is not None), default=None)

    def tag(self, definition: TagDefinition, value: Value, computed: bool) -> ProfileTag:
        """One line of the profile."""
        name = definition.name
        anchors = self._explained[name][1] if name in self._explained else []
        occurred, source, confidence = self._times.get(name), "tags", 1.0
        match definition.origin:
            case FromEvents():
                source = "events"
            case FromScore(model):
                source = f"score:{model}"
                # Of a class how likely it is; a score says that itself.
                score = self._scores.get(name, ())
                confidence = score[CONFIDENCE] if len(score) > CONFIDENCE else confidence
            case FromImport():
                source = "import:"
                if said := self._imported(name):
                    anchors, (_, occurred, confidence, partner, *_) = [said[0]], said[1]
                    source = f"import:{partner}"
        return ProfileTag(definition, value, occurred, anchors, source, confidence, inputs(self._rules, definition), computed)

    def _imported(self, name: str) -> tuple[int, list[Any]] | None:
        """(anchor, what was said) of the statement that counts."""
        rule, now_us = self._rules.facts.folds[self._kind][name], time.time_ns() // 1000
        if not isinstance(rule, Imported):
            return None
        alive = [
            (anchor, said)
            for anchor, facts in sorted(self._facts.items())
            if name in facts
            for said in facts[name][0].values()
            if rule.counts(said, now_us)
        ]
        return max(alive, key=lambda each: rule.order(each[1]), default=None)
