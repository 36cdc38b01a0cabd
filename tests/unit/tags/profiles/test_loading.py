"""Where a tag's value comes from, and what it is computed from."""

from __future__ import annotations

import hashlib

from services.tags.domain.catalogue import (
    Aggregate,
    Catalogue,
    Conflict,
    FromEvents,
    FromImport,
    FromTags,
    Kind,
    TagDefinition,
    TagType,
    Window,
)
from services.tags.domain.facts import Facts
from services.tags.domain.imported import Imported, Statement, add
from services.tags.handlers import TagRules
from services.tags.lake.reading import LakeEvent
from services.tags.profiles.lineage import lineages
from services.tags.profiles.loading import _behind, _Lines, inputs

CATALOGUE = Catalogue(
    [
        TagDefinition(
            Kind.PERSON, "income", TagType.NUMBER, "d", FromImport(("bank", "ours"), Conflict.HIGHEST_CONFIDENCE), title="收入"
        ),
        TagDefinition(Kind.PERSON, "opens", TagType.NUMBER, "d", FromEvents(Aggregate.COUNT, frozenset({"Opened"}))),
        TagDefinition(
            Kind.PERSON,
            "opens_day",
            TagType.NUMBER,
            "d",
            FromEvents(Aggregate.COUNT, frozenset({"Opened"}), window=Window.of(86_400)),
        ),
        TagDefinition(Kind.PERSON, "model", TagType.CATEGORY, "d", FromEvents(Aggregate.LAST, field="model")),
        TagDefinition(Kind.PERSON, "rich", TagType.BOOLEAN, "d", FromTags(), "收入 > 10"),
        TagDefinition(Kind.PERSON, "keen", TagType.BOOLEAN, "d", FromTags(), "rich AND opens > 1 AND ANY(vehicle, old)"),
        TagDefinition(Kind.VEHICLE, "old", TagType.BOOLEAN, "d", FromEvents(Aggregate.ANY, frozenset({"Aged"}))),
    ]
)
RULES = TagRules(CATALOGUE)


def test_an_imported_value_has_the_partner_and_confidence_of_the_statement_that_counts() -> None:
    one: Facts = {}
    other: Facts = {}
    rule = RULES.facts.folds[Kind.PERSON]["income"]
    assert isinstance(rule, Imported)
    add(one, rule, Statement("income", 5.0, 9_000, 0.4, None), key=1, partner="ours", line=1)
    add(other, rule, Statement("income", 7.0, 8_000, 0.9, None), key=2, partner="bank", line=1)
    lines = _Lines(RULES, Kind.PERSON, {11: one, 12: other}, {})
    line = lines.tag(CATALOGUE.of(Kind.PERSON)["income"], 7.0, False)
    assert ("import:bank", 0.9, [12], 8_000) == (line.source, line.confidence, line.anchor_ids, line.occurred_at_us)


def test_inputs_are_the_tags_that_a_definition_names_by_name_or_title() -> None:
    known = CATALOGUE.of(Kind.PERSON)
    assert ["income"] == inputs(RULES, known["rich"])
    assert ["opens", "rich", "vehicle.old"] == inputs(RULES, known["keen"])
    assert [] == inputs(RULES, known["opens"])
    assert {"keen", "opens", "rich", "income"} == _behind(RULES, Kind.PERSON, "keen")


def event(number: int, name: str, at: int, **properties: str) -> LakeEvent:
    event_id = hashlib.sha256(str(number).encode()).digest()[:16]
    return LakeEvent(event_id, Kind.PERSON, 11, "app", name, at * 1_000_000, at * 1_000_000, dict(properties))


def test_lineage_has_the_events_that_say_something_within_the_window() -> None:
    now = 10 * 86_400
    events = [
        event(4, "Opened", now - 60),
        event(3, "Viewed", now - 70, model="X5"),
        event(2, "Viewed", now - 80),
        event(1, "Opened", now - 3 * 86_400),
    ]
    found = lineages(RULES.facts, Kind.PERSON, events, now * 1_000_000)
    assert (2, 1, 1) == (found["opens"].count, found["opens_day"].count, found["model"].count)
    assert [events[0]] == list(found["opens_day"].events)
    assert [events[1]] == list(found["model"].events)
