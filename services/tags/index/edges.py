"""Relations of the audience index: an edge list in arrays, so that crossing it is one gather."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from services.tags.domain.catalogue import Kind
from services.tags.index.columns import bitmap, grown


class Edges:
    """Edges between persons and vehicles, each with a kind; a removed one keeps its slot and its version."""

    def __init__(self) -> None:
        self._slots: dict[tuple[int, int, str], int] = {}
        self._ends: dict[Kind, NDArray[np.generic]] = {kind: np.zeros(0, np.int64) for kind in Kind}
        self._alive: NDArray[np.generic] = np.zeros(0, np.bool_)
        self._versions: NDArray[np.generic] = np.zeros(0, np.int64)

    def set(self, person_id: int, vehicle_id: int, kind: str, removed: bool, version: int) -> None:
        """Applies one change unless a newer one was applied."""
        slot = self._slots.setdefault((person_id, vehicle_id, kind), len(self._slots))
        size = slot + 1
        self._versions, self._alive = grown(self._versions, size, 0), grown(self._alive, size, 0)
        if version <= self._versions[slot]:
            return
        for end, entity_id in ((Kind.PERSON, person_id), (Kind.VEHICLE, vehicle_id)):
            self._ends[end] = grown(self._ends[end], size, 0)
            self._ends[end][slot] = entity_id
        self._versions[slot], self._alive[slot] = version, not removed

    def across(self, members: BitMap, kind: Kind) -> BitMap:
        """Entities of the other kind that are related to at least one of these entities of `kind`."""
        count = len(self._slots)
        if not count or not members:
            return BitMap()
        from_ids, to_ids = self._ends[kind][:count], self._ends[kind.other][:count]
        mask = np.zeros(int(from_ids.max()) + 1, np.bool_)
        ids = np.asarray(members.to_array())
        mask[ids[ids < len(mask)]] = True
        reached = to_ids[mask[from_ids] & self._alive[:count]]
        if not len(reached):
            return BitMap()
        targets = np.zeros(int(reached.max()) + 1, np.bool_)
        targets[reached] = True
        return bitmap(targets)
