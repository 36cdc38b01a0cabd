"""Random histories of a few entities as the bus tells them, and the index that they end in."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from hypothesis import strategies as st
from troika.tags.v1 import events_pb2 as pb

from services.tags import events
from services.tags.domain.catalogue import RELATIONS, Kind, Value
from services.tags.index.columns import BooleanColumn, CategoryColumn, NumberColumn, SetColumn
from services.tags.index.index import AudienceIndex
from tests.unit.tags.index.worlds import IDS, World, tags

PAIR = (Kind.PERSON, Kind.VEHICLE)


class History:
    """Transactions one after the other; each changes some entities by one version and flips some relations."""

    def __init__(self) -> None:
        self.world = World()
        self.versions: dict[tuple[Kind, int], int] = {}
        self.relation_versions: dict[tuple[int, int, str], int] = {}

    def commit(
        self, changes: list[tuple[Kind, int, dict[str, Value] | None]], flips: set[tuple[int, int, str]]
    ) -> pb.TagsChanged:
        """Lets entities be so (None: gone) and relations end or begin; returns what is told of it."""
        entities = []
        for kind, entity_id, new in {each[:2]: each for each in changes}.values():
            old = self.world.entities[kind].pop(entity_id, None)
            if new is not None:
                self.world.entities[kind][entity_id] = new
            changed: dict[str, Any] = {name: value for name, value in (new or {}).items() if (old or {}).get(name) != value}
            changed |= {name: None for name in old or {} if name not in (new or {})}
            if not changed and (old is None) == (new is None):
                continue
            version = self.versions[kind, entity_id] = self.versions.get((kind, entity_id), 0) + 1
            present = None if (old is None) == (new is None) else new is not None
            entities.append(events.Told(int(kind), entity_id, version, changed, present, 0))
        told = events.message_of(entities)
        for one, other, relation in sorted(flips):
            alive = self.world.relations[PAIR]
            alive.symmetric_difference_update({(one, other, relation)})
            version = self.relation_versions[one, other, relation] = self.relation_versions.get((one, other, relation), 0) + 1
            told.relation_changes.add(
                subject_kind=1,
                subject_id=one,
                object_kind=2,
                object_id=other,
                kind=relation,
                removed=(one, other, relation) not in alive,
                version=version,
            )
        return told

    def mend(self, index: AudienceIndex) -> None:
        """As the projection does from the database, which has everything as it is now."""
        for kind, torn in index.torn.items():
            for entity_id in sorted(torn):
                values = self.world.entities[kind].get(entity_id)
                index.load_entity(kind, entity_id, values is not None, values or {}, self.versions[kind, entity_id])


entity_changes = st.tuples(st.sampled_from((Kind.PERSON, Kind.VEHICLE)), IDS, st.none() | tags())
flips = st.sets(st.tuples(IDS, IDS, st.sampled_from(RELATIONS[PAIR])), max_size=2)
commits = st.lists(st.tuples(st.lists(entity_changes, max_size=3), flips), max_size=12)


def shuffled(messages: list[pb.TagsChanged], rnd: random.Random) -> list[pb.TagsChanged]:
    """In another order, some of them twice."""
    told = [*messages, *rnd.sample(messages, len(messages) // 2)]
    rnd.shuffle(told)
    return told


def held(index: AudienceIndex, kind: Kind) -> dict[int, dict[str, Value]]:
    """What an index holds, entity by entity; a text as the one that all have here."""
    found: dict[int, dict[str, Value]] = {entity_id: {} for entity_id in index.present[kind]}
    for tag, column in index.columns(kind).items():
        for entity_id in column.known():
            ids = np.array([entity_id], np.int64)
            match column:
                case CategoryColumn():
                    places, words = column.take(ids)
                    found[entity_id][tag] = words[places[0]]
                    assert entity_id in column.members[words[places[0]]]
                    assert 1 == sum(entity_id in members for members in column.members.values())
                case SetColumn():
                    (words_,) = column.take(ids)
                    found[entity_id][tag] = words_ or []
                case BooleanColumn():
                    found[entity_id][tag] = bool(column.take(ids)[0])
                case NumberColumn():
                    found[entity_id][tag] = float(column.take(ids)[0])
                case _:
                    found[entity_id][tag] = "said"
    return found


def related(index: AudienceIndex) -> set[tuple[int, int]]:
    """Who is related to whom, seen from both sides."""
    ids = np.array(sorted((1, 2, 3, 4, 70_000, 200_000)), np.int64)
    seen = []
    for one, other in (PAIR, PAIR[::-1]):
        pairs = index.relations.of(one, other, ids)
        assert pairs is not None
        seen.append(
            {(int(ids[at]), target) for at, target in zip(pairs.positions.tolist(), pairs.targets.tolist(), strict=True)}
        )
    assert seen[0] == {(one, other) for other, one in seen[1]}
    return seen[0]
