"""Which entity id each group keeps, and what happened to the ids: merges and splits for the ledger."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """Entities became one (`other` ended), or one came apart (anchors of `survivor` went to `other`)."""

    operation: str
    survivor: int
    other: int
    group: frozenset[int]


@dataclass(frozen=True)
class Assignment:
    """`owners`: identifier → entity id, 0 for values that are nobody's."""

    owners: Mapping[int, int]
    changes: Sequence[Change]


def newcomers(groups: Sequence[frozenset[int]], anchors: Mapping[int, int]) -> list[frozenset[int]]:
    """Groups that need a new id. `anchors`: anchor → its entity so far, 0 when it has none."""
    keeps = _keeps(groups, anchors)
    return [group for group in groups if group not in keeps and not group.isdisjoint(anchors)]


def assign(groups: Sequence[frozenset[int]], anchors: Mapping[int, int], fresh: Iterable[int]) -> Assignment:
    """Gives each group with an anchor its id: the smallest it may keep, else the next of `fresh` (one per newcomer)."""
    ids = iter(fresh)
    keeps = _keeps(groups, anchors)
    owners: dict[int, int] = {}
    changes: list[Change] = []
    for group in groups:
        if group.isdisjoint(anchors):
            owners.update(dict.fromkeys(group, 0))
            continue
        kept = keeps.get(group)
        entity = kept[0] if kept else next(ids)
        owners.update(dict.fromkeys(group, entity))
        changes += [Change("merge", entity, other, group) for other in (kept or [])[1:]]
        left = {anchors[a] for a in group if anchors.get(a)} - set(kept or ())
        changes += [Change("split", survivor, entity, group) for survivor in sorted(left)]
    return Assignment(owners, changes)


def _keeps(groups: Sequence[frozenset[int]], anchors: Mapping[int, int]) -> dict[frozenset[int], list[int]]:
    """Group → entity ids that live on in it, ascending: an entity lives on where its smallest anchor is."""
    first: dict[int, int] = {}
    for anchor in sorted(anchors):
        if entity := anchors[anchor]:
            first.setdefault(entity, anchor)
    group_of = {at: group for group in groups for at in group if at in anchors}
    keeps: defaultdict[frozenset[int], list[int]] = defaultdict(list)
    for entity in sorted(first):
        keeps[group_of[first[entity]]].append(entity)
    return dict(keeps)
