"""Who is related to whom in the audience index, for all pairs of kinds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from services.tags.domain.catalogue import RELATIONS, Kind
from services.tags.index.bitmaps import bitmap, bits_of, from_ids, ids_of
from services.tags.index.edges import Edge, Edges

# So many times fewer than there are on the other side: then their own edges are followed instead of everyone's.
_FEW = 128
_VERSION_BITS, _VERSIONS = 8, 255


@dataclass(frozen=True)
class RelationTable:
    """Columns of equal length: the edges from one kind to another, each in one relation, as a table holds them."""

    one: NDArray[np.int64]
    other: NDArray[np.int64]
    relation: NDArray[np.int64]  # place in RELATIONS of the pair
    removed: NDArray[np.bool_]
    version: NDArray[np.int64]


class Relations:
    """Edges of every pair of kinds, from the first kind of the pair and, where degrees are small on both sides, back."""

    def __init__(self) -> None:
        self.edges: dict[tuple[Kind, Kind], Edges] = {}
        for one, other in RELATIONS:
            self.edges[one, other] = Edges(versioned=True)
            # A dealer has tens of thousands: nobody walks them one by one, and all of them are found from their own side.
            if other is not Kind.DEALER:
                self.edges[other, one] = Edges(versioned=False)

    def set(self, pair: tuple[Kind, Kind], one: int, other: int, relation: str, removed: bool, version: int) -> None:
        """Applies one change unless a newer one was applied. Relations that do not exist are ignored."""
        if relation not in RELATIONS.get(pair, ()):
            return
        place = RELATIONS[pair].index(relation)
        edges, shift = self.edges[pair], _VERSION_BITS * place
        old = next((edge for edge in edges.row(one) if edge.target == other), Edge(other, 0, 0))
        # A byte is enough: nothing comes 128 changes of one edge too late.
        new, applied = (version - 1) % _VERSIONS + 1, old.versions >> shift & 0xFF
        if applied and not 0 < (new - applied) % _VERSIONS < 128:
            return
        relations = old.relations & ~(1 << place) if removed else old.relations | 1 << place
        edges.put(one, Edge(other, relations, old.versions & ~(0xFF << shift) | new << shift))
        back = self.edges.get((pair[1], pair[0]))
        if back is not None and relations != old.relations:
            back.put(other, Edge(one, relations, 0))

    def fill(self, pair: tuple[Kind, Kind], rows: RelationTable) -> None:
        """Takes over all edges of a pair at once, in any order."""
        order = np.lexsort((rows.other, rows.one))
        one, other, place = rows.one[order], rows.other[order], rows.relation[order]
        starts = np.flatnonzero((np.diff(one, prepend=-1) != 0) | (np.diff(other, prepend=-1) != 0))
        relations, versions = np.zeros(0, np.int64), np.zeros(0, np.int64)
        if len(starts):
            relations = np.bitwise_or.reduceat(np.where(rows.removed[order], 0, 1 << place), starts)
            modulo = (rows.version[order] - 1) % _VERSIONS + 1
            versions = np.bitwise_or.reduceat(modulo << place * _VERSION_BITS, starts)
        one, other = one[starts], other[starts]
        self.edges[pair].fill(one, {"target": other, "relations": relations, "versions": versions})
        back = self.edges.get((pair[1], pair[0]))
        if back is not None:
            alive = np.flatnonzero(relations)
            order = alive[np.lexsort((one[alive], other[alive]))]
            back.fill(other[order], {"target": one[order], "relations": relations[order]})

    def reached(self, kind: Kind, other: Kind, members: BitMap) -> BitMap:
        """Entities of a kind related to at least one of these members of another kind."""
        if not members:
            return BitMap()
        edges, back = self.edges.get((kind, other)), self.edges.get((other, kind))
        if edges is None or (back is not None and len(members) * _FEW < edges.size):
            if back is None:
                return BitMap()
            _, targets, _ = back.of(ids_of(members))
            return _bitmap_of(targets, back.reach)
        return edges.reached(bits_of(members, edges.reach))

    def counted(self, kind: Kind, other: Kind, members: BitMap) -> NDArray[np.float64]:
        """For each entity of a kind, by id, to how many of these members it is related; what is not there has none."""
        edges = self.edges.get((kind, other))
        if edges is not None:
            return edges.counted(bits_of(members, edges.reach))
        back = self.edges.get((other, kind))
        if back is None:
            return np.zeros(0)
        _, targets, _ = back.of(ids_of(members))
        return np.bincount(targets, minlength=back.reach).astype(np.float64)

    def single(self, kind: Kind, other: Kind, relation: str, members: BitMap) -> BitMap:
        """Entities of a kind whose one related entity in a relation (the lowest id of several) is one of these members."""
        pair = (kind, other) if (kind, other) in RELATIONS else (other, kind)
        edges, bit = self.edges[kind, other], 1 << RELATIONS[pair].index(relation)
        return edges.single(bits_of(members, edges.reach), bit) if members else BitMap()

    def of(self, kind: Kind, other: Kind, ids: NDArray[np.integer], relation: str = "") -> Pairs | None:
        """The edges of some entities of a kind to another; None where only everyone's can be looked at."""
        edges = self.edges.get((kind, other))
        if edges is None:
            return None
        positions, targets, relations = edges.of(ids)
        if relation:
            pair = (kind, other) if (kind, other) in RELATIONS else (other, kind)
            in_it = np.flatnonzero(relations & (1 << RELATIONS[pair].index(relation)))
            positions, targets = positions[in_it], targets[in_it]
            order = np.lexsort((targets, positions))
            firsts = order[np.flatnonzero(np.diff(positions[order], prepend=-1))]
            positions, targets = positions[firsts], targets[firsts]
        return Pairs(positions, targets)


@dataclass(frozen=True)
class Pairs:
    """Some entities' edges: the position of the entity among those asked for, and whom it is related to."""

    positions: NDArray[np.int64]
    targets: NDArray[np.int64]

    def neighbours(self) -> BitMap:
        """Everyone they lead to."""
        return from_ids(self.targets)


def _bitmap_of(ids: NDArray[np.integer], below: int) -> BitMap:
    """Ids in any order, repeated ones once; a mask where there are many."""
    if len(ids) * 64 < below:
        return from_ids(ids)
    mask = np.zeros(below, np.bool_)
    mask[ids] = True
    return bitmap(mask)
