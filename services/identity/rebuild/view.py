"""The view of who is who in one canonical form, as the tables hold it and as the links alone make it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from services.identity.domain.clusters import neighbourhoods, partition
from services.identity.domain.graphs import Flags, Graph, Ints, Small
from services.identity.domain.kinds import Space
from services.identity.rebuild.stored import Stored

SPACES = (Space.PERSON, Space.VEHICLE)


@dataclass(frozen=True)
class Solution:
    """What the rules make of one space of a graph: a label per node, equal for what is one entity, and the guards."""

    label: Ints
    guard: Small


Engine = Callable[[Graph], Mapping[Space, Solution]]


def in_memory(graph: Graph) -> Mapping[Space, Solution]:
    """Solves a graph here."""
    found = {}
    for space in SPACES:
        solved = partition(graph, space)
        found[space] = Solution(solved.label, solved.guard)
    return found


@dataclass(frozen=True)
class View:
    """Per identifier, in the order of ids: the smallest id of its cluster and of its neighbourhood (0: of none), its guards.

    A neighbourhood is what incremental work reads at once: all that hangs together over values that are in use.
    """

    cluster: Ints
    neighbourhood: Ints
    person_guard: Small
    vehicle_guard: Small

    @cached_property
    def clusters(self) -> bytes:
        """The clusters as big-endian 64-bit numbers: equal bytes, equal clusters."""
        return self.cluster.astype(">i8").tobytes()

    @property
    def digest(self) -> str:
        """SHA-256 of the clusters."""
        return sha256(self.clusters).hexdigest()

    def guarded(self) -> Flags:
        """Which values are out of use anywhere."""
        guarded: Flags = (self.person_guard != 0) | (self.vehicle_guard != 0)
        return guarded

    def differs(self, other: View) -> Mapping[str, Flags]:
        """By what is compared, the identifiers on which two views do not agree."""
        return {
            "clusters": self.cluster != other.cluster,
            # Which of two limits a value passed first is history.
            "guards": ((self.person_guard != 0) != (other.person_guard != 0))
            | ((self.vehicle_guard != 0) != (other.vehicle_guard != 0)),
            "neighbourhoods": self.neighbourhood != other.neighbourhood,
        }


def of_tables(stored: Stored) -> View:
    """The view that the tables hold."""
    space = stored.graph.space
    cluster, neighbourhood = np.zeros((2, len(stored.ids)), np.int64)
    for one in SPACES:
        at = np.flatnonzero(space == one)
        cluster[at] = smallest(stored.ids[at], stored.entity[at], stored.entity[at] != 0)
    at = np.flatnonzero(np.isin(space, SPACES))
    neighbourhood[at] = smallest(stored.ids[at], stored.component[at], stored.component[at] != 0)
    return View(cluster, neighbourhood, stored.person_guard, stored.vehicle_guard)


def of_links(stored: Stored, engine: Engine = in_memory) -> View:
    """The view that follows from links and from what people decided, whatever the tables say."""
    graph, solved = stored.graph, engine(stored.graph)
    person, vehicle = (solved[space].guard for space in SPACES)
    cluster, neighbourhood = np.zeros((2, len(stored.ids)), np.int64)
    for one in SPACES:
        at = np.flatnonzero(graph.space == one)
        label = solved[one].label[at]
        # Values that came with nobody's record are nobody's.
        owned = np.zeros(int(label.max()) + 1 if len(label) else 0, bool)
        owned[label[stored.anchor[at]]] = True
        cluster[at] = smallest(stored.ids[at], label, owned[label])
    in_use = (graph.space == Space.PERSON) & (person == 0) | (graph.space == Space.VEHICLE) & ((person == 0) | (vehicle == 0))
    at = np.flatnonzero(in_use)
    near = neighbourhoods(graph, *solved.items())
    neighbourhood[at] = smallest(stored.ids[at], near[at], np.ones(len(at), bool))
    return View(cluster, neighbourhood, person, vehicle)


def smallest(ids: Ints, label: Ints, counts: Flags) -> Ints:
    """Per node the smallest id among those of its label, 0 for nodes that do not count. `ids` ascend."""
    found: npt.NDArray[np.int64] = np.zeros(len(ids), np.int64)
    at = np.flatnonzero(counts)
    if not len(at):
        return found
    # Labels may be few and far between.
    number = label[at] if int(label[at].max()) < 4 * len(ids) else np.unique(label[at], return_inverse=True)[1]
    first = np.zeros(int(number.max()) + 1, np.int64)
    # The last one written stays: backwards, that is the first.
    first[number[::-1]] = ids[at][::-1]
    found[at] = first[number]
    return found
