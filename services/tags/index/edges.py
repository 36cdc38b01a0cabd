"""Relations in one direction: from each entity of one kind to those of another, as arrays that are gathered whole.

Nearly everyone has none or one, so each entity's lowest target lies at the entity's own place, and only the others in a list:
its front sorted by entity, its end as they came, until it is merged. The target is kept as what a gather needs, the byte of a
packed bitmap and the bit in it: packed, the members of ten million fit a processor's cache, as bytes they would not.

Where versions are kept, removed edges stay in the list as dead ones (no relation), for their versions' sake. A place in the
list that nobody needs any more has no bit.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from services.tags.index.bitmaps import Bits, bitmap
from services.tags.index.columns import grown

MORE: Final = 0x80  # beside the bits of relations: the entity is in the list, too
_RELATIONS: Final = 0x7F
LATE = 4096  # entries that the list may end with before they are merged, besides a small part of it
_CHUNK: Final = 1 << 19
_PARALLEL: Final = 1 << 21
_LOWEST_BIT = np.array([0, *((byte & -byte).bit_length() - 1 for byte in range(1, 256))], np.uint8)
_CORES = len(os.sched_getaffinity(0))
_pool = ThreadPoolExecutor(_CORES, "gather")
# Of each entity, and of each entry of the list.
_ARRAYS: Final = {"byte": np.int32, "bit": np.uint8, "relations": np.uint8, "versions": np.uint32}


class Edge(NamedTuple):
    """To whom, in which relations (bits; 0: none any more), and the version of each relation in a byte of its own."""

    target: int
    relations: int
    versions: int


class Edges:
    """All edges from one kind to another."""

    def __init__(self, versioned: bool) -> None:
        self._versioned = versioned
        self._first: dict[str, Any] = {
            name: np.zeros(0, dtype) for name, dtype in _ARRAYS.items() if versioned or name != "versions"
        }
        self._list: dict[str, Any] = {
            name: np.zeros(0, dtype) for name, dtype in _ARRAYS.items() if versioned or name != "versions"
        }
        self._own: NDArray[np.int32] = np.zeros(0, np.int32)
        self._sorted = self._length = 0
        self._late: dict[int, list[int]] = {}
        self.size = self.reach = 0

    def row(self, own: int) -> list[Edge]:
        """The edges of one entity, dead ones included, in no promised order."""
        if own >= self.size:
            return []
        places = self._places(own) if int(self._first["relations"][own]) & MORE else []
        found = [self._edge(self._list, place) for place in places if self._list["bit"][place]]
        return [self._edge(self._first, own), *found] if self._first["bit"][own] else found

    def put(self, own: int, edge: Edge) -> None:
        """Sets one edge, new or not."""
        self._extend(own, edge.target)
        if not self._first["relations"][own] and edge.relations:
            self._write(self._first, own, edge)
            return
        edges = {each.target: each for each in self.row(own)}
        edges[edge.target] = edge
        alive = sorted(each for each in edges.values() if each.relations)
        dead = [each for each in edges.values() if not each.relations and self._versioned]
        rest = [*alive[1:], *dead]
        places = self._places(own)
        for place in places[len(rest) :]:
            self._list["bit"][place] = self._list["relations"][place] = 0
        for place, each in zip(places, rest, strict=False):
            self._write(self._list, place, each)
        for each in rest[len(places) :]:
            self._append(own, each)
        if alive:
            self._write(self._first, own, alive[0])
        else:
            self._first["bit"][own] = self._first["relations"][own] = 0
        if rest or places:
            self._first["relations"][own] |= MORE
        if self._length - self._sorted > LATE + self._length // 64:
            self._merge()

    def reached(self, bits: Bits) -> BitMap:
        """Entities with an edge to one of those in `bits` (packed, at least `reach` long)."""
        return bitmap(self._hits(bits))

    def single(self, bits: Bits, relation: int) -> BitMap:
        """Entities whose lowest target in a relation is one of those in `bits`."""
        out = self._gather(self._first, self.size, bits)
        held = self._first["relations"][: self.size] & relation
        np.logical_and(out, held, out=out.view(np.bool_))
        own, target = self._lowest_in_list(relation)
        out[own[(bits[target >> 3] >> (target & 7)) & 1 != 0]] = 1
        return bitmap(out)

    def counted(self, bits: Bits) -> NDArray[np.float64]:
        """For each entity, to how many of those in `bits` it has an edge."""
        counts = np.not_equal(self._gather(self._first, self.size, bits), 0).astype(np.float64)
        if self._length:
            counts += np.bincount(self._own_of_hits(bits), minlength=self.size)
        return counts

    def of(self, ids: NDArray[np.integer]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """All edges of some entities: (position in `ids`, target, relations)."""
        inside = np.flatnonzero(ids < self.size)
        own = ids[inside].astype(np.intp)
        relations, bit = self._first["relations"][own], self._first["bit"][own]
        many = np.flatnonzero(relations & MORE)
        has = np.flatnonzero(bit)
        targets = _targets(self._first, own[has])
        position, relations = inside[has], relations[has] & _RELATIONS
        if not len(many):
            return position, targets, relations
        places, which = self._places_of(own[many])
        held = self._list["relations"][places]
        alive = held != 0
        places, which, held = places[alive], which[alive], held[alive]
        more = _targets(self._list, places)
        return (
            np.concatenate((position, inside[many[which]])),
            np.concatenate((targets, more)),
            np.concatenate((relations, held)),
        )

    def fill(self, own: NDArray[np.int64], edges: Mapping[str, NDArray[np.int64]]) -> None:
        """Takes over edges at once: `target`, `relations` and `versions` of each, sorted by entity, then target."""
        target, relations = edges["target"], edges["relations"]
        self.size = int(own.max()) + 1 if len(own) else 0
        self.reach = int(target.max()) + 1 if len(target) else 0
        alive = np.flatnonzero(relations)
        first = alive[np.flatnonzero(np.diff(own[alive], prepend=-1))]
        rest = np.ones(len(own), np.bool_)
        rest[first] = False
        columns = {"byte": target >> 3, "bit": 1 << (target & 7), **edges}
        for name, array in self._first.items():
            self._first[name] = np.zeros(self.size, array.dtype)
            self._first[name][own[first]] = columns[name][first].astype(array.dtype)
            self._list[name] = columns[name][rest].astype(array.dtype)
        self._own = own[rest].astype(np.int32)
        self._sorted = self._length = len(self._own)
        self._first["relations"][self._own] |= MORE
        self._late = {}

    def state(self) -> dict[str, NDArray[np.generic]]:
        """A copy of everything, for `restore`."""
        self._merge()
        arrays: dict[str, NDArray[np.generic]] = {f"first_{name}": a[: self.size].copy() for name, a in self._first.items()}
        arrays |= {f"list_{name}": a[: self._length].copy() for name, a in self._list.items()}
        return arrays | {"own": self._own[: self._length].copy(), "reach": np.array([self.reach])}

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """Takes over what `state` gave."""
        self._first = {name: arrays[f"first_{name}"] for name in self._first}
        self._list = {name: arrays[f"list_{name}"] for name in self._list}
        self._own = arrays["own"]
        self.size, self.reach = len(self._first["bit"]), int(arrays["reach"][0])
        self._sorted = self._length = len(self._own)
        self._late = {}

    def _extend(self, own: int, target: int) -> None:
        self.reach = max(self.reach, target + 1)
        if own >= self.size:
            for name, array in self._first.items():
                self._first[name] = grown(array, own + 1, 0)
            self.size = own + 1

    def _edge(self, arrays: Mapping[str, Any], place: int) -> Edge:
        target = int(arrays["byte"][place]) * 8 + int(arrays["bit"][place]).bit_length() - 1
        return Edge(
            target,
            int(arrays["relations"][place]) & _RELATIONS,
            int(arrays["versions"][place]) if self._versioned else 0,
        )

    def _write(self, arrays: Mapping[str, Any], place: int, edge: Edge) -> None:
        arrays["byte"][place], arrays["bit"][place] = edge.target >> 3, 1 << (edge.target & 7)
        arrays["relations"][place] = edge.relations
        if self._versioned:
            arrays["versions"][place] = edge.versions

    def _append(self, own: int, edge: Edge) -> None:
        place = self._length
        self._own = grown(self._own, place + 1, 0)
        for name, array in self._list.items():
            self._list[name] = grown(array, place + 1, 0)
        self._own[place] = own
        self._write(self._list, place, edge)
        self._late.setdefault(own, []).append(place)
        self._length += 1

    def _places(self, own: int) -> list[int]:
        front = self._own[: self._sorted]
        sought = np.int32(own)  # of another type than the array it would cost a copy of the array
        start, end = int(front.searchsorted(sought)), int(front.searchsorted(sought, "right"))
        return [*range(start, end), *self._late.get(own, ())]

    def _places_of(self, own: NDArray[np.intp]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places in the list of several entities, and which of them each belongs to."""
        front = self._own[: self._sorted]
        sought = own.astype(np.int32)
        starts, ends = front.searchsorted(sought), front.searchsorted(sought, "right")
        lengths = ends - starts
        which = np.repeat(np.arange(len(own)), lengths)
        places = np.arange(len(which)) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
        if not self._late:
            return places, which
        late = [(place, index) for index, each in enumerate(own.tolist()) if each in self._late for place in self._late[each]]
        if late:
            places = np.concatenate((places, [place for place, _ in late]))
            which = np.concatenate((which, [index for _, index in late]))
        return places, which

    def _hits(self, bits: Bits) -> NDArray[np.uint8]:
        out = self._gather(self._first, self.size, bits)
        if self._length:
            out[self._own_of_hits(bits)] = 1
        return out

    def _own_of_hits(self, bits: Bits) -> NDArray[np.int32]:
        hits = self._gather(self._list, self._length, bits)
        alive = np.logical_and(hits, self._list["relations"][: self._length])
        return np.compress(alive, self._own[: self._length])

    def _lowest_in_list(self, relation: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Entities and targets where the lowest target in a relation is not the entity's lowest of all."""
        places = np.flatnonzero(self._list["relations"][: self._length] & relation)
        own = self._own[places]
        wanted = (self._first["relations"][own] & relation) == 0
        places, own = places[wanted], own[wanted]
        targets = _targets(self._list, places)
        order = np.argsort(own.astype(np.int64) << 32 | targets)
        firsts = order[np.flatnonzero(np.diff(own[order], prepend=-1))]
        return own[firsts], targets[firsts]

    def _gather(self, arrays: Mapping[str, Any], size: int, bits: Bits) -> NDArray[np.uint8]:
        """For each place, not zero where its bit is set."""
        out = np.empty(size, np.uint8)
        byte, bit = arrays["byte"], arrays["bit"]

        def part(start: int, end: int) -> None:
            for low in range(start, end, _CHUNK):
                high = min(low + _CHUNK, end)
                np.take(bits, byte[low:high], out=out[low:high], mode="clip")
                np.bitwise_and(out[low:high], bit[low:high], out=out[low:high])

        if not len(bits):
            out[:] = 0
        elif size < _PARALLEL or _CORES == 1:
            part(0, size)
        else:
            half = size // 2
            second = _pool.submit(part, half, size)
            part(0, half)
            second.result()
        return out

    def _merge(self) -> None:
        """Sorts the end of the list into its front."""
        if self._length == self._sorted:
            return
        end = self._sorted + np.argsort(self._own[self._sorted : self._length], kind="stable")
        places = self._own[: self._sorted].searchsorted(self._own[end], "right")
        for name, array in self._list.items():
            self._list[name] = np.insert(array[: self._sorted], places, array[end])
        self._own = np.insert(self._own[: self._sorted], places, self._own[end])
        self._sorted, self._late = self._length, {}


def _targets(arrays: Mapping[str, Any], places: NDArray[Any]) -> NDArray[np.int64]:
    targets: NDArray[np.int64] = arrays["byte"][places].astype(np.int64) * 8
    targets += _LOWEST_BIT[arrays["bit"][places]]
    return targets
