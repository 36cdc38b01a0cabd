"""Clusters as a pure function of links: whatever the order or batching of what was seen, the same partition.

A link says: this anchor (a source's own record, an openid, a device) came with this value, under this name. Guards
decide which values mean somebody and which links count; what the remaining links connect is one entity, unless that would
break a limit per entity (two id cards): then the strongest evidence stands, and a tie joins nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from services.identity.domain.clashes import Crowd, settle
from services.identity.domain.graphs import RULES, Flags, Graph, Ints, Rules, Small
from services.identity.domain.kinds import NO_LIMIT, NUMBERS, Names, Reason, Space

NOT_HERE = -1
_LARGEST = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Partition:
    """One space of a graph, solved.

    `label` per node: equal for what is one entity. `guard` per node: why a value does not link, 0 where it does. `state`
    per link: 0 joins, -1 is none of this space's (or an anchor's link to itself), else the reason why it does not join.
    `place` per link: where on its value it ends, the value's own number or, behind all nodes, that of one name on it.
    """

    label: Ints
    guard: Small
    state: Small
    place: Ints


def partition(graph: Graph, space: Space) -> Partition:
    """Solves one space."""
    rules = RULES[space]
    guard = graph.guard(space).copy()
    own = graph.link_space == space
    if not own.any():
        return Partition(np.arange(graph.size), guard, np.full(len(own), NOT_HERE, np.int16), graph.value)
    retracted = np.flatnonzero(own & (graph.strength < 0))
    own[retracted] = False
    _count(graph, rules, own, guard)
    links = own & (graph.anchor != graph.value)
    state = np.where(links, np.int16(0), np.int16(NOT_HERE))
    state[retracted] = NUMBERS[Reason.RETRACTED]
    guarded = guard != 0
    if guarded.any():
        at = np.flatnonzero(links & (guarded[graph.value] | guarded[graph.anchor]))
        # The value's guard explains more than the anchor's.
        at_value = guard[graph.value[at]]
        state[at] = np.where(at_value, at_value, guard[graph.anchor[at]])
    place, places = _places(graph, rules, own, guard, state)
    joins = state == 0
    label = components(graph.size + places, graph.anchor[joins], place[joins])
    crowded = _crowded(graph, rules, space, label)
    if crowded.size:
        label = _settle(graph, rules, label, crowded, state, place)
    return Partition(label[: graph.size], guard, state, place)


def components(size: int, one: Ints, other: Ints) -> Ints:
    """Label of each of `size` nodes, equal for what edges connect."""
    if not len(one):
        return np.arange(size, dtype=np.int64)
    # What no edge leads to, such as a record, is where one of the values is that it leads to: that takes most nodes and half
    # the edges away at the price of a few look-ups.
    reached = np.zeros(size, bool)
    reached[other] = True
    at: npt.NDArray[Any] = np.arange(size, dtype=np.int32)
    at[one] = other
    stays = np.flatnonzero(reached)
    at[stays] = stays
    moved = at[one]
    left = moved != other
    ends = moved[left], other[left].astype(np.int32)
    edges = coo_matrix((np.ones(len(ends[0]), np.int8), ends), shape=(size, size))
    label: Ints = connected_components(edges, directed=False)[1][at]
    return label


def _count(graph: Graph, rules: Rules, own: Flags, guard: Small) -> None:
    """Marks values that are past a counted limit. Depends on the set of links only; a limit that nobody nears costs a count."""
    kind = graph.kind
    open_to = (guard == 0) & ~graph.cleared
    found: list[tuple[Reason, Ints]] = []
    lowest = np.minimum(np.minimum(rules.max_names, rules.max_anchors), rules.max_anchors_per_source)
    at = _beyond(graph, lowest, open_to, graph.value, own)
    if len(at):
        anchor, value, name = graph.anchor[at], graph.value[at], graph.name[at]
        named = name != 0
        values, names = _distinct(value[named], name[named])
        found.append((Reason.TOO_MANY_NAMES, values[names > rules.max_names[kind[values]]]))
        real = (anchor != value) & (graph.strength[at] == 0)
        many = real & (np.bincount(value)[value] > rules.max_anchors.min())
        values, anchors = _distinct(value[many], anchor[many])
        found.append((Reason.TOO_MANY_ANCHORS, values[anchors > rules.max_anchors[kind[values]]]))
        alike = real & ((rules.names[kind[value]] == Names.IGNORED) | ~named)
        sources = len(graph.trust)
        pair = value[alike].astype(np.int64) * sources + graph.source[at[alike]]
        pairs, anchors = _distinct(pair, anchor[alike])
        values = pairs // sources
        found.append((Reason.TOO_MANY_ANCHORS, values[anchors > rules.max_anchors_per_source[kind[values]]]))
    limited = (rules.max_values_per_kind < NO_LIMIT)[kind]
    at = _beyond(graph, rules.max_values_per_kind, open_to, graph.anchor, own & limited[graph.anchor])
    at = at[(graph.anchor[at] != graph.value[at]) & (graph.strength[at] == 0)]
    if len(at):
        anchor, value = graph.anchor[at], graph.value[at]
        kinds = len(rules.strength)
        pairs, values = _distinct(anchor.astype(np.int64) * kinds + kind[value], value)
        anchors = pairs // kinds
        found.append((Reason.TOO_MANY_VALUES, anchors[values > rules.max_values_per_kind[kind[anchors]]]))
    for reason, nodes in found:
        fresh = nodes[guard[nodes] == 0]
        guard[fresh] = NUMBERS[reason]


def _beyond(graph: Graph, limit: Ints, open_to: Flags, end: Ints, links: Flags) -> Ints:
    """Those of some links at whose `end` there are more of them than the kind's limit."""
    degree = np.bincount(end[links], minlength=graph.size)
    hot = np.flatnonzero(degree > limit.min())
    hot = hot[(degree[hot] > limit[graph.kind[hot]]) & open_to[hot]]
    if not len(hot):
        return hot
    many = np.zeros(graph.size, bool)
    many[hot] = True
    return np.flatnonzero(links & many[end])


def _distinct(group: Ints, member: Ints) -> tuple[Ints, Ints]:
    """Groups and how many different members each has."""
    if not len(group):
        return group, group
    width = int(member.max()) + 1
    if int(member.min()) < 0 or width > _LARGEST // (int(group.max()) + 1):
        member = np.unique(member, return_inverse=True)[1]
        width = int(member.max()) + 1
    # To sort numbers is several times faster than to sort pairs.
    pairs = np.sort(group.astype(np.int64) * width + member)
    pairs = pairs[_starts(pairs)] // width
    first = np.flatnonzero(_starts(pairs))
    return pairs[first], np.diff(first, append=len(pairs))


def _starts(ordered: Ints) -> Flags:
    """Where something else begins."""
    starts = np.ones(len(ordered), bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    return starts


def _places(graph: Graph, rules: Rules, own: Flags, guard: Small, state: Small) -> tuple[Ints, int]:
    """Where on its value each link ends, and how many places there are beside the values' own; sets states of the nameless."""
    value, name = graph.value, graph.name
    mode = rules.names[graph.kind][value]
    required = (mode == Names.REQUIRED) & (state == 0)
    state[required & (name == 0)] = NUMBERS[Reason.NAME_MISSING]
    apart = [np.flatnonzero(required & (name != 0))]
    named = np.flatnonzero(own & (mode == Names.SPLIT) & (name != 0))
    named = named[guard[value[named]] == 0]
    # Of values with one name at most, every link ends at the value itself; to find the others takes no sorting.
    some_name = np.zeros(graph.size, np.int64)
    some_name[value[named]] = name[named]
    differing = value[named[some_name[value[named]] != name[named]]]
    if len(differing):
        several = np.zeros(graph.size, bool)
        several[differing] = True
        named = named[several[value[named]]]
        leading = _leading(graph, named)
        # The leading name's place is the value itself: there it meets nameless links and the value as an anchor. Where no
        # name leads, nameless links meet one another only.
        apart.append(named[(state[named] == 0) & (name[named] != leading[value[named]])])
    at = np.concatenate(apart)
    if not len(at):
        return value, 0
    order = at[np.lexsort((name[at], value[at]))]
    ends, names = value[order], name[order]
    new = np.ones(len(order), bool)
    new[1:] = (ends[1:] != ends[:-1]) | (names[1:] != names[:-1])
    number = np.cumsum(new)
    place = value.copy()
    place[order] = graph.size - 1 + number
    return place, int(number[-1])


def _leading(graph: Graph, named: Ints) -> Ints:
    """Per node the name under which the most trusted sources know it, 0 on a tie. `named`: links to look at."""
    value, name, source = graph.value[named], graph.name[named], graph.source[named]
    order = np.lexsort((source, name, value))
    value, name, source = value[order], name[order], source[order]
    names = np.ones(len(value), bool)
    names[1:] = (value[1:] != value[:-1]) | (name[1:] != name[:-1])
    sources = names.copy()
    sources[1:] |= source[1:] != source[:-1]
    first = np.flatnonzero(names)
    weight = np.add.reduceat(graph.trust[source] * sources, first)
    value, name = value[first], name[first]
    best = np.full(graph.size, -1, np.int64)
    np.maximum.at(best, value, weight)
    top = weight == best[value]
    leading = np.zeros(graph.size, np.int64)
    leading[value[top]] = name[top]
    leading[np.bincount(value[top], minlength=graph.size) > 1] = 0
    return leading


def _crowded(graph: Graph, rules: Rules, space: Space, label: Ints) -> Ints:
    """Labels of components that hold more values of a kind than one entity may have, or both sides of an undone merge."""
    found: list[Ints] = []
    own = label[: graph.size]
    sizes = np.bincount(own)
    kinds = np.flatnonzero(rules.max_per_entity < min(NO_LIMIT, int(sizes.max(initial=0))))
    # Most components are smaller than any limit but that on id cards, of which there are few.
    large = np.flatnonzero(
        (sizes > min((limit for limit in rules.max_per_entity[kinds].tolist() if limit > 1), default=0))[own]
    )
    for kind in kinds:
        at = large if rules.max_per_entity[kind] > 1 else slice(None)
        held = own[at][graph.kind[at] == kind]
        if len(held):
            found.append(np.flatnonzero(np.bincount(held) > rules.max_per_entity[kind]))
    sides: dict[int, set[int]] = {}
    for node, operations in graph.apart.items():
        if graph.space[node] == space:
            for operation in operations:
                sides.setdefault(operation, set()).add(int(own[node]))
    met = {at for operation, labels in sides.items() if operation > 0 for at in labels & sides.get(-operation, set())}
    found.append(np.array(sorted(met), np.int64))
    return np.unique(np.concatenate(found))


def _settle(graph: Graph, rules: Rules, label: Ints, crowded: Ints, state: Small, place: Ints) -> Ints:
    """Solves crowded components link by link, strongest first; writes the states of refused links, returns the labels."""
    is_crowded = np.zeros(int(label.max()) + 1, bool)
    is_crowded[crowded] = True
    nodes = np.flatnonzero(is_crowded[label])
    inside = np.zeros(len(label), bool)
    inside[nodes] = True
    links = np.flatnonzero((state == 0) & inside[graph.anchor])
    crowd = Crowd()
    for node in nodes[nodes < graph.size].tolist():
        kind = int(graph.kind[node])
        if rules.max_per_entity[kind] < NO_LIMIT:
            crowd.holds(node, kind, int(rules.max_per_entity[kind]))
        for operation in graph.apart.get(node, ()):
            crowd.stands(node, operation)
    strength = np.where(graph.strength[links] > 0, graph.strength[links], rules.strength[graph.kind[graph.value[links]]])
    ends = zip(graph.anchor[links].tolist(), place[links].tolist(), strict=True)
    for (one, other), strong, source in zip(ends, strength.tolist(), graph.source[links].tolist(), strict=True):
        crowd.link(one, other, strong, source, int(graph.trust[source]))
    root, refused = settle(crowd)
    for at, one, other in zip(links.tolist(), graph.anchor[links].tolist(), place[links].tolist(), strict=True):
        if reason := refused.get((one, other)):
            state[at] = NUMBERS[reason]
    # Every place of a crowded component gets its root as a label of its own, behind all others.
    roots = np.array([root.get(node, node) for node in nodes.tolist()], np.int64)
    label = label.astype(np.int64)
    label[nodes] = int(label.max()) + 1 + roots
    return label


class Guarded(Protocol):
    """Whatever says why nodes do not link in a space."""

    @property
    def guard(self) -> Small:
        """Per node, 0 where it links."""


def neighbourhoods(graph: Graph, *parts: tuple[Space, Guarded]) -> Ints:
    """Label per node: equal for what hangs together over values that are not shared, whatever other guards make of it."""
    one, other = [], []
    for space, part in parts:
        links = np.flatnonzero(
            (graph.link_space == space)
            & (graph.strength >= 0)
            & (part.guard[graph.anchor] == 0)
            & (part.guard[graph.value] == 0)
        )
        one.append(graph.anchor[links])
        other.append(graph.value[links])
    return components(graph.size, np.concatenate(one), np.concatenate(other))
