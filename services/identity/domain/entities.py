"""Which entity id each cluster keeps, and what happened to the ids: merges and splits for the ledger."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from services.identity.domain.graphs import Flags, Ints


@dataclass(frozen=True)
class Change:
    """Entities became one (`other` ended), or one came apart (`other` began). Nodes: who changed hands, who stayed."""

    operation: str
    survivor: int
    other: int
    moved: Sequence[int]
    kept: Sequence[int]


@dataclass(frozen=True)
class Assignment:
    """`entity` per node, 0 for values that are nobody's; negative -k stands for the k-th new entity, k from 1."""

    entity: Ints
    newcomers: int
    changes: Sequence[Change]


@dataclass(frozen=True)
class Before:
    """Per node: its rank (ids in order of first sight), whether it is an anchor, its entity so far, the first it ever had."""

    rank: Ints
    anchor: Flags
    entity: Ints
    born: Ints


def assign(
    label: Ints,
    before: Before,
    free: Callable[[Collection[int]], Collection[int]],
    preferred: frozenset[int] = frozenset(),
) -> Assignment:
    """Gives each cluster with an anchor its id: one that it may keep, else one that an anchor was born with, else a new one.

    An entity lives on where an anchor is that was born with it, else where its anchor of the smallest rank is; of several, a
    preferred one goes on, else the smallest. `free`: which of some entity ids are nobody's now.
    """
    size = int(label.max()) + 1 if len(label) else 0
    anchors = np.flatnonzero(before.anchor)
    # What every group's anchors say about its id: nothing, one id, or several.
    owned = anchors[before.entity[anchors] > 0]
    highest = np.zeros(size, np.int64)
    lowest = np.full(size, np.iinfo(np.int64).max)
    np.maximum.at(highest, label[owned], before.entity[owned])
    np.minimum.at(lowest, label[owned], before.entity[owned])
    several = (highest > 0) & (highest != lowest)
    # An entity whose anchors lie in several groups came apart.
    pairs = np.unique(np.stack([before.entity[owned], label[owned]], axis=1), axis=0) if len(owned) else np.zeros((0, 2), int)
    entities, groups_of = np.unique(pairs[:, 0], return_counts=True)
    apart = np.zeros(size, bool)
    apart[pairs[np.isin(pairs[:, 0], entities[groups_of > 1]), 1]] = True
    knotted = several | apart
    new_id = np.where(highest > 0, highest, 0)
    changes: list[Change] = []
    if knotted.any():
        kept, changes = _untie(label, before, anchors[knotted[label[anchors]]], free, preferred)
        new_id[knotted] = 0
        for group, entity in kept.items():
            new_id[group] = entity
    has_anchor = np.zeros(size, bool)
    has_anchor[label[anchors]] = True
    waiting = np.flatnonzero(has_anchor & (new_id == 0))
    if len(waiting):
        # New ids follow the order of first sight.
        first = np.full(size, np.iinfo(np.int64).max)
        np.minimum.at(first, label[anchors], before.rank[anchors])
        waiting = waiting[np.argsort(first[waiting], kind="stable")]
        new_id[waiting] = -np.arange(1, len(waiting) + 1)
    for at, change in enumerate(changes):
        if change.other < 0:
            changes[at] = Change("split", change.survivor, int(new_id[-change.other - 1]), change.moved, change.kept)
    return Assignment(new_id[label] if size else np.zeros(0, np.int64), len(waiting), changes)


def _untie(
    label: Ints,
    before: Before,
    anchors: Ints,
    free: Callable[[Collection[int]], Collection[int]],
    preferred: frozenset[int],
) -> tuple[dict[int, int], list[Change]]:
    """Groups whose ids are not plain: group → id, and the changes; a split into a group without id names it as -1 - group."""
    order = sorted(anchors.tolist(), key=before.rank.__getitem__)
    members: defaultdict[int, list[int]] = defaultdict(list)
    lives_in: dict[int, int] = {}
    for at in order:
        members[int(label[at])].append(at)
        if (entity := int(before.entity[at])) and entity == before.born[at]:
            lives_in.setdefault(entity, int(label[at]))
    for at in order:
        if entity := int(before.entity[at]):
            lives_in.setdefault(entity, int(label[at]))
    keeps: defaultdict[int, list[int]] = defaultdict(list)
    for entity in sorted(lives_in, key=lambda entity: (entity not in preferred, entity)):
        keeps[lives_in[entity]].append(entity)
    ids = {group: kept[0] for group, kept in keeps.items()}
    _give_back(members, before, ids, free)
    changes: list[Change] = []
    for group, nodes in members.items():
        by_entity: defaultdict[int, list[int]] = defaultdict(list)
        for at in nodes:
            by_entity[int(before.entity[at])].append(at)
        entity = ids.get(group, -1 - group)
        for other in keeps.get(group, [])[1:]:
            changes.append(Change("merge", entity, other, by_entity[other], by_entity[entity]))
        left = sorted(by_entity.keys() - {0} - set(keeps.get(group, [])))
        for survivor in left:
            stayed = [at for at in members[lives_in[survivor]] if int(before.entity[at]) == survivor]
            changes.append(Change("split", survivor, entity, by_entity[survivor], stayed))
    return ids, changes


def _give_back(
    members: Mapping[int, Sequence[int]],
    before: Before,
    ids: dict[int, int],
    free: Callable[[Collection[int]], Collection[int]],
) -> None:
    """Groups that came apart get the id that one of their anchors was born with, when nobody has it."""
    born = {group: [int(before.born[at]) for at in nodes] for group, nodes in members.items() if group not in ids}
    wanted = {entity for entities in born.values() for entity in entities if entity > 0}
    if not wanted:
        return
    open_ids = set(free(wanted))
    for group, entities in born.items():
        mine = next((entity for entity in entities if entity in open_ids), 0)
        if mine:
            ids[group] = mine
            open_ids.discard(mine)
