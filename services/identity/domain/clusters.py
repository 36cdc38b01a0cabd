"""Clusters as a pure function of links: whatever the order or batching of what was seen, the same partition.

A link says: this anchor (a source's own record, an openid, a device) came with this value, under this name. Guards
decide which values mean somebody and which links count; what the remaining links connect is one entity, unless that would
break a limit per entity (two id cards): then the strongest evidence stands, and a tie joins nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from services.identity.domain.clashes import Crowd, settle
from services.identity.domain.graphs import RULES, Flags, Graph, Ints, Rules, Small
from services.identity.domain.kinds import NO_LIMIT, NUMBERS, Names, Reason, Space

NOT_HERE = -1


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
    own = (graph.link_space == space) & (graph.strength >= 0)
    guard = graph.guard(space).copy()
    _count(graph, rules, own, guard)
    state = np.full(len(graph.anchor), NOT_HERE, np.int16)
    state[(graph.link_space == space) & (graph.strength < 0)] = NUMBERS[Reason.RETRACTED]
    links = own & (graph.anchor != graph.value)
    # The value's guard explains more than the anchor's.
    at_value, at_anchor = guard[graph.value], guard[graph.anchor]
    state[links] = np.where(at_value, at_value, at_anchor)[links]
    place, places = _places(graph, rules, own, guard, state)
    joins = np.flatnonzero(state == 0)
    label = components(graph.size + places, graph.anchor[joins], place[joins])
    crowded = _crowded(graph, rules, space, label)
    if crowded.size:
        label = _settle(graph, rules, label, crowded, state, place)
    return Partition(label[: graph.size], guard, state, place)


def components(size: int, one: Ints, other: Ints) -> Ints:
    """Label of each of `size` nodes, equal for what edges connect."""
    if not len(one):
        return np.arange(size, dtype=np.int64)
    edges = coo_matrix((np.ones(len(one), np.int8), (one, other)), shape=(size, size))
    labels: Ints = connected_components(edges, directed=False)[1].astype(np.int64, copy=False)
    return labels


def _count(graph: Graph, rules: Rules, own: Flags, guard: Small) -> None:
    """Marks values that are past a counted limit. Depends on the set of links only; a limit that nobody nears costs a count."""
    anchor, value, kind = graph.anchor, graph.value, graph.kind
    real = own & (anchor != value)
    open_to = (guard == 0) & ~graph.cleared
    found: list[tuple[Reason, Ints]] = []

    degree = np.bincount(value[own], minlength=graph.size)
    if (many := open_to & (degree > rules.max_names[kind])).any():
        at = np.flatnonzero(own & many[value] & (graph.name != 0))
        values, names = _past(rules.max_names[kind], value[at], graph.name[at])
        found.append((Reason.TOO_MANY_NAMES, values[names]))
    if (many := open_to & (degree > rules.max_anchors[kind])).any():
        at = np.flatnonzero(real & many[value])
        values, past = _past(rules.max_anchors[kind], value[at], anchor[at])
        found.append((Reason.TOO_MANY_ANCHORS, values[past]))
    alike = real & ((rules.names[kind][value] == Names.IGNORED) | (graph.name == 0)) & (graph.strength == 0)
    degree = np.bincount(value[alike], minlength=graph.size)
    if (many := open_to & (degree > rules.max_anchors_per_source[kind])).any():
        at = np.flatnonzero(alike & many[value])
        pair = value[at] * (int(graph.source.max()) + 1) + graph.source[at]
        pairs, past = _past(None, pair, anchor[at], rules.max_anchors_per_source[kind[value[at]]])
        found.append((Reason.TOO_MANY_ANCHORS, np.unique(pairs[past] // (int(graph.source.max()) + 1))))
    carried = real & (graph.strength == 0)
    degree = np.bincount(anchor[carried], minlength=graph.size)
    if (many := open_to & (degree > rules.max_values_per_kind[kind])).any():
        at = np.flatnonzero(carried & many[anchor])
        pair = anchor[at] * len(rules.strength) + kind[value[at]]
        pairs, past = _past(None, pair, value[at], rules.max_values_per_kind[kind[anchor[at]]])
        found.append((Reason.TOO_MANY_VALUES, np.unique(pairs[past] // len(rules.strength))))
    for reason, nodes in found:
        fresh = nodes[guard[nodes] == 0]
        guard[fresh] = NUMBERS[reason]


def _past(limit_of: Ints | None, group: Ints, member: Ints, limits: Ints | None = None) -> tuple[Ints, Flags]:
    """Groups and whether each has more different members than its limit (by group number, or one beside each entry)."""
    order = np.lexsort((member, group))
    group, member = group[order], member[order]
    starts = np.ones(len(group), bool)
    starts[1:] = group[1:] != group[:-1]
    distinct = starts.copy()
    distinct[1:] |= member[1:] != member[:-1]
    first = np.flatnonzero(starts)
    counts = np.add.reduceat(distinct, first) if len(first) else np.zeros(0, np.int64)
    groups = group[first]
    limit = limit_of[groups] if limit_of is not None else (limits if limits is not None else counts)[order][first]
    return groups, counts > limit


def _places(graph: Graph, rules: Rules, own: Flags, guard: Small, state: Small) -> tuple[Ints, int]:
    """Where on its value each link ends, and how many places there are beside the values' own; sets states of the nameless."""
    place = graph.value.copy()
    mode = rules.names[graph.kind][graph.value]
    joins = state == 0
    state[joins & (mode == Names.REQUIRED) & (graph.name == 0)] = NUMBERS[Reason.NAME_MISSING]
    apart = (state == 0) & (mode == Names.REQUIRED)
    named = own & (mode == Names.SPLIT) & (graph.name != 0) & (guard[graph.value] == 0)
    # Of values with one name at most, every link ends at the value itself; to find the others takes no sorting.
    some_name = np.zeros(graph.size, np.int64)
    some_name[graph.value[named]] = graph.name[named]
    several = np.zeros(graph.size, bool)
    several[graph.value[named & (some_name[graph.value] != graph.name)]] = True
    if several.any():
        leading = _leading(graph, np.flatnonzero(named & several[graph.value]))
        # The leading name's place is the value itself: there it meets nameless links and the value as an anchor. Where no
        # name leads, nameless links meet one another only.
        apart |= (
            (state == 0)
            & (mode == Names.SPLIT)
            & several[graph.value]
            & (graph.name != 0)
            & (graph.name != leading[graph.value])
        )
    at = np.flatnonzero(apart)
    if not len(at):
        return place, 0
    order = at[np.lexsort((graph.name[at], graph.value[at]))]
    new = np.ones(len(order), bool)
    new[1:] = (graph.value[order[1:]] != graph.value[order[:-1]]) | (graph.name[order[1:]] != graph.name[order[:-1]])
    number = np.cumsum(new)
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
    for kind in np.flatnonzero(rules.max_per_entity < NO_LIMIT):
        held = own[graph.kind == kind]
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
    links = np.flatnonzero((state == 0) & is_crowded[label[graph.anchor]])
    crowd = Crowd()
    for node in np.flatnonzero(is_crowded[label[: graph.size]]).tolist():
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
    label = label.copy()
    behind = int(label.max()) + 1
    for node in np.flatnonzero(is_crowded[label]).tolist():
        label[node] = behind + root.get(node, node)
    return label


def neighbourhoods(graph: Graph, *parts: tuple[Space, Partition]) -> Ints:
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
