"""Random events over one catalogue that has something of everything, and its tags by the first execution."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa
from hypothesis import strategies as st
from troika.identity.v1 import events_pb2 as identity

from services.tags.domain.aggregates import RESULTS, parse_aggregate
from services.tags.domain.business import BusinessRules
from services.tags.domain.catalogue import Catalogue, FromTags, Kind, TagDefinition, TagType, Value
from services.tags.domain.evaluation import Seen, compile_term
from services.tags.domain.facts import FactRules, Facts, Occurrence, fold
from services.tags.domain.terms import Term
from services.tags.lake.engines import OWNERS, RELATIONS
from services.tags.lake.rows import SCHEMA
from services.tags.lake.writing import rows_of

N, C, B, T, S, X = TagType.NUMBER, TagType.CATEGORY, TagType.BOOLEAN, TagType.TIME, TagType.SET, TagType.TEXT
PERSON: dict[str, tuple[TagType, str]] = {
    "last_amount": (N, "LAST(amount)"),
    "first_model": (C, "FIRST(model)"),
    "last_note": (X, "LAST(note)"),
    "paid": (B, "LAST(paid)"),
    "ever_paid": (B, "BOOL_OR(paid)"),
    "seen_app": (B, "BOOL_OR(TRUE) FILTER (WHERE source = 'app')"),
    "orders": (N, "COUNT(*) FILTER (WHERE event = 'Order Placed')"),
    "spent": (N, "SUM(amount) FILTER (WHERE event IN ('Order Placed', '下单') AND amount > 0)"),
    "mean": (N, "AVG(amount)"),
    "least": (N, "MIN(amount)"),
    "sold": (T, "MAX(sold_on)"),
    "last_seen": (T, "MAX(occurred_at)"),
    "models": (S, "ARRAY_AGG(DISTINCT model)"),
    "models_count": (N, "COUNT(DISTINCT model)"),
    "dealer": (C, "LAST(source_name) FILTER (WHERE source LIKE 'dealer:%')"),
    "orders_90s": (N, "COUNT(*) FILTER (WHERE event = 'Order Placed' AND occurred_at > NOW() - INTERVAL '90 seconds')"),
    "spent_40s": (N, "SUM(amount) FILTER (WHERE occurred_at > NOW() - INTERVAL '40 seconds')"),
    "model_30s": (C, "LAST(model) FILTER (WHERE occurred_at > NOW() - INTERVAL '30 seconds')"),
    "odd": (N, "COUNT(*) FILTER (WHERE NOT (model = 'it''s' OR paid) AND amount * 2 > 1)"),
    "no_model": (N, "COUNT(*) FILTER (WHERE model IS NULL)"),
    # Business tags, two layers of them, and views.
    "band": (C, "CASE WHEN spent > 100 THEN 'A' WHEN spent > 0 THEN '车主' END"),
    "good": (B, "band = 'A' OR orders >= 2 AND NOT paid"),
    "ratio": (N, "spent / orders_90s + 1"),
    "days": (N, "DAYS_SINCE(sold)"),
    "recent": (B, "last_seen > NOW() - INTERVAL '60 seconds'"),
    "likes": (B, "(CONTAINS(models, 'X5') OR CONTAINS(models, 'it''s')) IS TRUE"),
    "cars": (N, "COUNT(vehicle)"),
    "old_car": (B, "ANY(vehicle, mileage > 50 AND NOT ANY(person, good))"),
}
VEHICLE: dict[str, tuple[TagType, str]] = {
    "mileage": (N, "MAX(mileage)"),
    "model": (C, "LAST(model)"),
    "worn": (B, "mileage > 60"),
    "well_owned": (B, "owner.good"),
}


def _catalogue() -> Catalogue:
    made = []
    for kind, tags in ((Kind.PERSON, PERSON), (Kind.VEHICLE, VEHICLE)):
        for name, (of, text) in tags.items():
            origin = parse_aggregate(text) if not _is_business(name) else None
            if origin is None:
                made.append(TagDefinition(kind, name, of, "made", FromTags(), expression=text))
            else:
                assert RESULTS.get(origin.aggregate, of) is of, name
                made.append(TagDefinition(kind, name, of, "made", origin, expression=text))
    return Catalogue(made)


def _is_business(name: str) -> bool:
    return name in {"band", "good", "ratio", "days", "recent", "likes", "cars", "old_car", "worn", "well_owned"}


CATALOGUE = _catalogue()
FACTS, BUSINESS = FactRules(CATALOGUE), BusinessRules(CATALOGUE)
# Around this moment, so that windows matter.
BASE_US = 1_772_323_200_000_000
WORDS = ("X5", "it's", "车主\\n", "", "a\\'b", "x" * 201, "2026-02-01", "zz")
AMOUNTS = (0.1, 0.25, -7, 3.3333335, 1e12, 2e12, 12, 1e301, -0.0000005, 99.99)


@dataclass(frozen=True)
class LakeWorld:
    """Events as they came, who owns the anchors, who is related (subject, object, kind, from, to)."""

    events: list[identity.ResolvedEvent]
    owners: dict[tuple[Kind, int], int]
    relations: list[tuple[int, int, str, int, int]]

    def tables(self) -> dict[str, pa.Table]:
        rows = rows_of([(1, identity.ResolvedBatch(events=self.events))], {})
        owners = [(anchor, entity, int(kind)) for (kind, anchor), entity in self.owners.items()]
        relations = [(1, p, 2, v, kind, since, until) for p, v, kind, since, until in self.relations]
        return {
            "events": pa.concat_tables([SCHEMA.empty_table(), *rows.values()]),
            "owners": pa.table(list(zip(*owners, strict=True)) or [[]] * 3, schema=OWNERS),
            "relations": pa.table(list(zip(*relations, strict=True)) or [[]] * 7, schema=RELATIONS),
        }

    def tags(self, at_us: int) -> dict[Kind, dict[int, dict[str, Value]]]:  # noqa: C901  # the whole execution in one place
        """By folding each event that had happened once; views included."""
        anchors: dict[tuple[Kind, int], Facts] = defaultdict(dict)
        for event in {e.event_id: e for e in self.events if e.occurred_at_us <= at_us}.values():
            tie = int.from_bytes(event.event_id[:8], "big") >> 1
            happened = Occurrence(event.source, event.name, event.occurred_at_us, tie, 0)
            for kind, owner, properties in (
                (Kind.PERSON, event.person, event.properties_json),
                (Kind.VEHICLE, event.vehicle, event.vehicle_properties_json),
            ):
                if owner.anchor_id:
                    fold(anchors[kind, owner.anchor_id], happened, FACTS.stated(kind, happened, properties))
        owned: dict[Kind, dict[int, list[Facts]]] = {kind: defaultdict(list) for kind in Kind}
        for (kind, anchor), facts in anchors.items():
            owned[kind][self.owners[kind, anchor]].append(facts)
        values: dict[Kind, dict[int, dict[str, Value]]] = {kind: {} for kind in Kind}
        for kind, entities in owned.items():
            for entity, having in entities.items():
                values[kind][entity] = FACTS.combined(kind, having, at_us)
                BUSINESS.complete(kind, values[kind][entity], at_us / 1e6)
        complete = {kind: {entity: dict(tags) for entity, tags in entities.items()} for kind, entities in values.items()}
        for kind, entities in complete.items():
            for entity, tags in entities.items():
                for name, view in BUSINESS.views[kind].items():
                    if (value := view.evaluate(self._seen(values, kind, entity, at_us))) is not None:
                        tags[name] = value
        return complete

    def audience(self, kind: Kind, term: Term, at_us: int) -> list[int]:
        values = self.tags(at_us)
        truth = compile_term(term)
        return sorted(e for e in values[kind] if truth(self._seen(values, kind, e, at_us)) is True)

    def _seen(self, values: Any, kind: Kind, entity: int, at_us: int) -> Seen:
        return Seen(values[kind][entity], at_us / 1e6, _Around(self, values, kind, entity, at_us))


@dataclass(frozen=True)
class _Around:
    world: LakeWorld
    values: Any
    kind: Kind
    entity: int
    at_us: int

    def _ids(self, kind: Kind, relation: str | None) -> list[int]:
        found = set()
        for person, vehicle, name, since, until in self.world.relations:
            ends = {Kind.PERSON: person, Kind.VEHICLE: vehicle}
            holds = since <= self.at_us and (until == 0 or until > self.at_us)
            if holds and ends[self.kind] == self.entity and relation in (None, name):
                found.add(ends[kind])
        return sorted(i for i in found if i in self.values[kind])

    def related(self, kind: Kind) -> Sequence[Seen]:
        return [self.world._seen(self.values, kind, each, self.at_us) for each in self._ids(kind, None)]

    def single(self, kind: Kind, relation: str) -> Seen | None:
        ids = self._ids(kind, relation)
        return self.world._seen(self.values, kind, ids[0], self.at_us) if ids else None


PROPERTIES = st.fixed_dictionaries(
    {},
    optional={
        "amount": st.sampled_from((*AMOUNTS, "12", True, None, [1])),
        "model": st.sampled_from((*WORDS, 5, None, {"a": 1}, False)),
        "note": st.sampled_from(("n", "", "y" * 3000, 1)),
        "paid": st.sampled_from((True, False, "true", 1)),
        "sold_on": st.sampled_from(("2026-02-01", "2025-12-31T23:59:59+08:00", "rubbish", 20260101, "20260203")),
        "mileage": st.sampled_from((10, 55.5, 70, "70")),
    },
)
MOMENTS = st.one_of(st.integers(-120, 5).map(lambda s: s * 1_000_000), st.integers(-100_000_000, 1_000_000))


@st.composite
def lake_worlds(draw: st.DrawFn) -> LakeWorld:
    events = [_event(draw, number) for number in range(draw(st.integers(0, 14)))]
    repeated = [events[i] for i in draw(st.lists(st.integers(0, len(events) - 1), max_size=4))] if events else []
    anchors = {(k, a) for e in events for k, a in ((Kind.PERSON, e.person.anchor_id), (Kind.VEHICLE, e.vehicle.anchor_id)) if a}
    owners = {each: draw(st.integers(1, 4)) for each in sorted(anchors)}
    relation = st.tuples(
        st.integers(1, 4),
        st.integers(1, 4),
        st.sampled_from(("owns", "drives")),
        MOMENTS.map(lambda m: BASE_US + m),
        st.sampled_from((0, BASE_US - 30_000_000, BASE_US)),
    )
    relations = draw(st.lists(relation, max_size=6))
    return LakeWorld(draw(st.permutations(events + repeated)), owners, relations)


def _event(draw: st.DrawFn, number: int) -> identity.ResolvedEvent:
    return identity.ResolvedEvent(
        event_id=hashlib.sha256(str(number).encode()).digest()[:16],
        source=draw(st.sampled_from(("app", "dealer:D001", "dealer:", "dealer:'", "wechat:wx1"))),
        name=draw(st.sampled_from(("Order Placed", "下单", "App Opened"))),
        occurred_at_us=BASE_US + draw(MOMENTS),
        person=identity.AnchorOwner(anchor_id=draw(st.integers(0, 5))),
        vehicle=identity.AnchorOwner(anchor_id=draw(st.integers(0, 4))),
        properties_json=orjson.dumps(draw(PROPERTIES)),
        vehicle_properties_json=orjson.dumps(draw(PROPERTIES)),
    )
