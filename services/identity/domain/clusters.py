"""Clusters as a pure function of links: whatever the order or batching of what was seen, the same partition.

A link says: this anchor (a source's own record, an openid, a device) came with this value, under this name. Guards
decide which values mean somebody and which links count; then links join, strongest first, unless an exclusive kind forbids it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from services.identity.domain.kinds import GUARDS, Guard, Kind, Names, Reason, Space, trust

NAMELESS = b""


class Node(NamedTuple):
    """An identifier: `token` orders without regard to arrival, `anchor`: facts hang on it, `blocked`: why it is shared."""

    kind: Kind
    token: bytes
    anchor: bool
    blocked: Reason | None


class Link(NamedTuple):
    """One source's claim that an anchor and a value belong together; a link of an anchor to itself carries only its name."""

    anchor: int
    value: int
    name: bytes
    source: str


# A place in the graph: an identifier, or one name on it.
Place = tuple[int, bytes]


@dataclass(frozen=True)
class Edge:
    """Links that say the same, as the join they ask for."""

    anchor: Place
    value: Place
    sources: frozenset[str]


@dataclass(frozen=True)
class Partition:
    """`groups`: identifiers that are one entity; `shared`: values past a guard; `idle`: links that ask for no join."""

    groups: Sequence[frozenset[int]]
    shared: Mapping[int, Reason]
    joined: Sequence[Edge]
    idle: Sequence[tuple[Link, Reason]]
    refused: Sequence[tuple[Edge, Reason]]


def cluster(space: Space, nodes: Mapping[int, Node], links: Iterable[Link]) -> Partition:
    """Partitions a neighbourhood that is closed: every link of every node that is not blocked must be in it."""
    guards = GUARDS[space]
    links = list(links)
    by_value: defaultdict[int, list[Link]] = defaultdict(list)
    by_anchor: defaultdict[int, list[Link]] = defaultdict(list)
    for link in links:
        by_value[link.value].append(link)
        if link.anchor != link.value:
            by_anchor[link.anchor].append(link)
    shared = {
        at: reason
        for at, node in nodes.items()
        if (reason := node.blocked or past_guard(guards[node.kind], at, by_value[at], by_anchor[at], nodes))
    }
    leading = {
        at: leading_name(by_value[at])
        for at, node in nodes.items()
        if guards[node.kind].names is Names.SPLIT and at not in shared
    }
    edges, idle = _edges(guards, nodes, links, shared, leading)
    parent, joined, refused = _join(guards, nodes, edges)
    members: defaultdict[Place, set[int]] = defaultdict(set)
    vehicle = space is Space.VEHICLE
    for at, node in nodes.items():
        if (node.kind >= Kind.VIN) is vehicle:
            members[_root(parent, (at, NAMELESS))].add(at)
    return Partition([frozenset(group) for group in members.values()], shared, joined, idle, refused)


def past_guard(
    guard: Guard, value: int, carrying: Sequence[Link], carried: Sequence[Link], nodes: Mapping[int, Node]
) -> Reason | None:
    """Which limit a value is past. Depends on the set of links only."""
    if len(carrying) > guard.max_names and len({link.name for link in carrying if link.name}) > guard.max_names:
        return Reason.TOO_MANY_NAMES
    if len(carrying) > guard.max_anchors_per_source:
        anchors: defaultdict[str, set[int]] = defaultdict(set)
        for link in carrying:
            if link.anchor != value and (guard.names is Names.IGNORED or not link.name):
                anchors[link.source].add(link.anchor)
        if any(len(records) > guard.max_anchors_per_source for records in anchors.values()):
            return Reason.TOO_MANY_ANCHORS
    if len(carried) > guard.max_values_per_kind:
        values: defaultdict[Kind, set[int]] = defaultdict(set)
        for link in carried:
            values[nodes[link.value].kind].add(link.value)
        if any(len(others) > guard.max_values_per_kind for others in values.values()):
            return Reason.TOO_MANY_VALUES
    return None


def leading_name(carrying: Iterable[Link]) -> bytes | None:
    """The name under which the most trusted sources know a value; NAMELESS when no source names it, None on a tie."""
    sources: defaultdict[bytes, set[str]] = defaultdict(set)
    for link in carrying:
        if link.name:
            sources[link.name].add(link.source)
    if not sources:
        return NAMELESS
    if len(sources) == 1:
        return next(iter(sources))
    ranked = sorted(((sum(map(trust, known)), name) for name, known in sources.items()), reverse=True)
    return ranked[0][1] if ranked[0][0] > ranked[1][0] else None


def _edges(
    guards: Mapping[Kind, Guard],
    nodes: Mapping[int, Node],
    links: Iterable[Link],
    shared: Mapping[int, Reason],
    leading: Mapping[int, bytes | None],
) -> tuple[list[Edge], list[tuple[Link, Reason]]]:
    sources: defaultdict[tuple[Place, Place], set[str]] = defaultdict(set)
    idle: list[tuple[Link, Reason]] = []
    for link in links:
        if link.anchor == link.value:
            continue
        place: Place | Reason
        if reason := shared.get(link.value) or shared.get(link.anchor):
            place = reason
        else:
            place = _place(guards[nodes[link.value].kind].names, link, leading.get(link.value))
        if isinstance(place, Reason):
            idle.append((link, place))
        else:
            sources[(link.anchor, NAMELESS), place].add(link.source)
    return [Edge(anchor, value, frozenset(known)) for (anchor, value), known in sources.items()], idle


def _place(names: Names, link: Link, leading: bytes | None) -> Place | Reason:
    """Where on its value a link ends, or why nowhere."""
    if names is Names.IGNORED:
        return link.value, NAMELESS
    if names is Names.REQUIRED:
        return (link.value, link.name) if link.name else Reason.NAME_MISSING
    # The leading name's place is the value itself: there it meets nameless links and the value as an anchor. Where no name
    # leads, nameless links meet one another only.
    return link.value, NAMELESS if link.name == leading else link.name


def _join(
    guards: Mapping[Kind, Guard], nodes: Mapping[int, Node], edges: Iterable[Edge]
) -> tuple[dict[Place, Place], list[Edge], list[tuple[Edge, Reason]]]:
    """Union by strength; a component remembers the exclusive values in it."""
    parent: dict[Place, Place] = {}
    owned: dict[Place, dict[Kind, int]] = {
        (at, NAMELESS): {node.kind: at} for at, node in nodes.items() if guards[node.kind].exclusive
    }
    joined, refused = [], []
    for edge in sorted(edges, key=lambda e: _strength(guards, nodes, e)):
        a, b = _root(parent, edge.anchor), _root(parent, edge.value)
        if a == b:
            joined.append(edge)
            continue
        mine, other = owned.get(a), owned.get(b)
        clash = next((kind for kind in mine if kind in other and mine[kind] != other[kind]), None) if mine and other else None
        if clash is not None and (reason := guards[clash].exclusive):
            refused.append((edge, reason))
            continue
        parent[b] = a
        if other:
            owned[a] = {**other, **(mine or {})}
        joined.append(edge)
    return parent, joined, refused


def _strength(guards: Mapping[Kind, Guard], nodes: Mapping[int, Node], edge: Edge) -> tuple[int, int, bytes, bytes, bytes]:
    """Sort key, strongest first; tokens break ties, for they do not know who came first."""
    value = nodes[edge.value[0]]
    known = sum(map(trust, edge.sources))
    return -guards[value.kind].strength, -known, value.token, edge.value[1], nodes[edge.anchor[0]].token


def _root(parent: dict[Place, Place], place: Place) -> Place:
    while (up := parent.get(place)) is not None:
        if (upper := parent.get(up)) is not None:
            parent[place] = upper
        place = up
    return place
