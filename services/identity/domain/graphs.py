"""A piece of the identity graph as arrays: identifiers, links, and the rules per kind that read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from services.identity.domain.kinds import GUARDS, NO_LIMIT, Guard, Kind, Space

Ints = npt.NDArray[np.int64]
Small = npt.NDArray[np.int16]
Flags = npt.NDArray[np.bool_]

_KINDS = max(Kind) + 1
SPACE_OF: Small = np.array([0, *(Kind(k).space for k in range(1, _KINDS))], np.int16)


@dataclass(frozen=True)
class Graph:
    """Nodes 0…n-1 with, per node: kind, guards that stand already (0: none), cleared; per link: ends, name, source, strength.

    Closed: every link of every node that is not guarded in the link's space must be in it. `name` is a hash (0: nameless),
    `strength` 0 where the kind of the value says it. `trust`: weight of each source by number. `apart`: node → operations
    whose sides (+op, -op) must not meet.
    """

    kind: Small
    person_guard: Small
    vehicle_guard: Small
    cleared: Flags
    anchor: Ints
    value: Ints
    name: Ints
    source: Ints
    strength: Small
    trust: Ints
    apart: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of nodes."""
        return len(self.kind)

    @cached_property
    def space(self) -> Small:
        """The space of each node's kind."""
        return SPACE_OF[self.kind]

    @cached_property
    def link_space(self) -> Small:
        """The space of each link: that of its anchor."""
        return self.space[self.anchor]

    def guard(self, space: Space) -> Small:
        """Why a node does not link in a space, as it stood before."""
        return self.person_guard if space is Space.PERSON else self.vehicle_guard


@dataclass(frozen=True)
class Rules:
    """The guards of one space as arrays by kind."""

    strength: Small
    names: Small
    max_names: Ints
    max_anchors: Ints
    max_anchors_per_source: Ints
    max_values_per_kind: Ints
    max_per_entity: Ints


def _rules(guards: Mapping[Kind, Guard]) -> Rules:
    def column(name: str, otherwise: int) -> list[int]:
        return [int(getattr(guards[Kind(k)], name)) if k and Kind(k) in guards else otherwise for k in range(_KINDS)]

    return Rules(
        np.array(column("strength", 0), np.int16),
        np.array(column("names", 0), np.int16),
        *(
            np.array(column(name, NO_LIMIT), np.int64)
            for name in ("max_names", "max_anchors", "max_anchors_per_source", "max_values_per_kind", "max_per_entity")
        ),
    )


RULES: Mapping[Space, Rules] = {space: _rules(guards) for space, guards in GUARDS.items()}
