"""Components that links alone would make too large: two id cards in one, or both sides of a merge that was undone.

Links join strongest first. Where links of equal strength contradict each other, none of those that lie between the
contradicting sides joins: to guess would be to merge strangers. So the outcome depends on the set of links alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from services.identity.domain.kinds import EXCLUSIVE, Kind, Reason

Pair = tuple[int, int]
# What one entity holds, by what it is limited in: a kind (positive) or an operation that was undone (negative).
Holding = dict[int, frozenset[int]]


@dataclass
class Crowd:
    """What to settle: links with their strength, and what nodes hold that one entity may not have too much of."""

    limits: dict[int, int] = field(default_factory=dict)
    held: dict[int, Holding] = field(default_factory=dict)
    strengths: dict[Pair, int] = field(default_factory=dict)
    sources: defaultdict[Pair, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))

    def holds(self, node: int, kind: int, limit: int) -> None:
        """A node that is a value of a limited kind."""
        self.limits[kind] = limit
        self.held.setdefault(node, {})[kind] = frozenset((node,))

    def stands(self, node: int, operation: int) -> None:
        """A node on one side (the sign) of an operation that was undone."""
        self.limits[-abs(operation)] = 1
        mine = self.held.setdefault(node, {})
        mine[-abs(operation)] = mine.get(-abs(operation), frozenset()) | {operation}

    def link(self, one: int, other: int, strength: int, source: int, trust: int) -> None:
        """Links that say the same are one, as strong as the strongest and as trusted as all their sources."""
        self.strengths[one, other] = max(strength, self.strengths.get((one, other), 0))
        self.sources[one, other][source] = trust


def settle(crowd: Crowd) -> tuple[Mapping[int, int], Mapping[Pair, Reason]]:
    """Node → root of what it is one with (missing: itself), and the links that were refused."""
    levels: defaultdict[tuple[int, int], list[Pair]] = defaultdict(list)
    for pair, strength in crowd.strengths.items():
        levels[strength, sum(crowd.sources[pair].values())].append(pair)
    parent: dict[int, int] = {}
    held = dict(crowd.held)
    refused: dict[Pair, Reason] = {}
    for level in sorted(levels, reverse=True):
        between: defaultdict[Pair, list[Pair]] = defaultdict(list)
        for pair in levels[level]:
            ends = _root(parent, pair[0]), _root(parent, pair[1])
            if ends[0] == ends[1]:
                continue
            if broken := _broken(crowd.limits, held, ends):
                # What stronger links hold contradicts this one by itself: that says nothing of the others of its level.
                refused[pair] = _reason(broken)
            else:
                between[ends].append(pair)
        for group in _connected(between):
            broken = _broken(crowd.limits, held, {node for ends in group for node in ends})
            contested = _contested(group, broken, held) if broken else set()
            if contested:
                reason = _reason(broken)
                refused.update((pair, reason) for ends in contested for pair in between[ends])
            for one, other in group - contested:
                _join(parent, held, one, other)
    return {node: _root(parent, node) for node in list(parent)}, refused


def _connected(edges: Iterable[Pair]) -> list[set[Pair]]:
    """Edges in groups that hang together."""
    parent: dict[int, int] = {}
    edges = list(edges)
    for one, other in edges:
        a, b = _root(parent, one), _root(parent, other)
        if a != b:
            parent[max(a, b)] = min(a, b)
    groups: defaultdict[int, set[Pair]] = defaultdict(set)
    for one, other in edges:
        groups[_root(parent, one)].add((one, other))
    return list(groups.values())


def _broken(limits: Mapping[int, int], held: Mapping[int, Holding], nodes: Iterable[int]) -> set[int]:
    """Limits that these nodes together are past."""
    together: defaultdict[int, set[int]] = defaultdict(set)
    for node in nodes:
        for key, values in held.get(node, {}).items():
            together[key] |= values
    return {key for key, values in together.items() if len(values) > limits[key]}


def _contested(edges: set[Pair], broken: set[int], held: Mapping[int, Holding]) -> set[Pair]:
    """Edges between nodes that hold what there is too much of; what merely hangs on them is free to join."""
    neighbours: defaultdict[int, set[int]] = defaultdict(set)
    for one, other in edges:
        neighbours[one].add(other)
        neighbours[other].add(one)
    loose = [node for node, near in neighbours.items() if len(near) == 1 and broken.isdisjoint(held.get(node, {}))]
    gone: set[int] = set()
    while loose:
        node = loose.pop()
        gone.add(node)
        for other in neighbours.pop(node):
            if other in neighbours:
                neighbours[other].discard(node)
                if len(neighbours[other]) == 1 and broken.isdisjoint(held.get(other, {})):
                    loose.append(other)
    return {edge for edge in edges if gone.isdisjoint(edge)}


def _reason(broken: set[int]) -> Reason:
    if any(key < 0 for key in broken):
        return Reason.UNMERGED
    kinds = [Kind(key) for key in sorted(broken)]
    return next((EXCLUSIVE[kind] for kind in kinds if kind in EXCLUSIVE), Reason.TOO_MANY_OF_A_KIND)


def _join(parent: dict[int, int], held: dict[int, Holding], one: int, other: int) -> None:
    a, b = _root(parent, one), _root(parent, other)
    if a == b:
        return
    parent[b] = a
    if b in held:
        mine = held.get(a, {})
        held[a] = {key: mine.get(key, frozenset()) | held[b].get(key, frozenset()) for key in mine.keys() | held[b].keys()}


def _root(parent: dict[int, int], node: int) -> int:
    while (up := parent.get(node)) is not None:
        if (upper := parent.get(up)) is not None:
            parent[node] = upper
        node = up
    return node
