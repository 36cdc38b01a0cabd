"""Changing the graph: solve the neighbourhood of what is new, write the view, say what moved."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from chassis.db import UnitOfWork
from services.identity import events, graph_store, relations
from services.identity.domain.clusters import Partition, neighbourhoods, partition
from services.identity.domain.entities import Assignment, Before, assign
from services.identity.domain.graphs import Flags, Graph, Ints
from services.identity.domain.kinds import COUNTED, NUMBERS, Space
from services.identity.domain.reasons import View, told
from services.identity.events import Move
from services.identity.graph_store import LinkSeen
from services.identity.store import Owner, Store

SPACES = (Space.PERSON, Space.VEHICLE)
# (Anchor, value, name, source) of a link.
LinkKey = tuple[int, int, int, int]
_COUNTED = [NUMBERS[reason] for reason in COUNTED]


class Fresh(NamedTuple):
    """New rows of `identifier` in columns, without what solving gives them; `nodes` are their places in a neighbourhood."""

    nodes: range
    scope_id: Sequence[int]
    token: Sequence[bytes]
    next_token: Sequence[bytes | None]
    sealed: Sequence[bytes]
    subject_key_id: Sequence[int]
    first_seen_us: Sequence[int]


@dataclass
class Neighbourhood:
    """All that a change may touch: identifiers as the tables hold them, their links, and what is new among both.

    Columns run in parallel; `node` finds the number of an id. `mine` is false for shared values that belong elsewhere.
    """

    ids: list[int] = field(default_factory=list)
    kind: list[int] = field(default_factory=list)
    anchor: list[bool] = field(default_factory=list)
    entity: list[int] = field(default_factory=list)
    born: list[int] = field(default_factory=list)
    component: list[int] = field(default_factory=list)
    version: list[int] = field(default_factory=list)
    person_guard: list[int] = field(default_factory=list)
    vehicle_guard: list[int] = field(default_factory=list)
    cleared: list[bool] = field(default_factory=list)
    last_seen_us: list[int] = field(default_factory=list)
    mine: list[bool] = field(default_factory=list)
    apart: dict[int, tuple[int, ...]] = field(default_factory=dict)
    node: dict[int, int] = field(default_factory=dict)
    # (Anchor, value, name, source) → strength; those of `whole` anchors are all there.
    links: dict[LinkKey, int] = field(default_factory=dict)
    whole: set[int] = field(default_factory=set)
    fresh: Fresh | None = None
    new_links: list[LinkSeen] = field(default_factory=list)
    # Links that were there with another strength: taken back, or stated again.
    changed_links: list[LinkSeen] = field(default_factory=list)
    seen_again: list[LinkSeen] = field(default_factory=list)
    # Guards that somebody decided on just now, by node.
    set_aside: dict[int, int] = field(default_factory=dict)
    # Entities that go on when they become one with others.
    preferred: frozenset[int] = frozenset()
    # Nodes of which something changed that solving does not know of.
    touched: set[int] = field(default_factory=set)

    def take(self, rows: Sequence[Any], mine: bool = True) -> None:
        """Adds rows of the tables that are not there yet."""
        rows = list({row[0]: row for row in rows if row[0] not in self.node}.values())
        if not rows:
            return
        ids, _, kind, anchor, entity, born, component, version, person, vehicle, cleared, apart, seen = zip(*rows, strict=True)
        first = len(self.ids)
        self.node.update(zip(ids, range(first, first + len(ids)), strict=True))
        self.apart |= {at: tuple(marks) for at, marks in enumerate(apart, first) if marks}
        self.ids += ids
        self.kind += kind
        self.anchor += anchor
        self.entity += entity
        self.born += born
        self.component += component
        self.version += version
        self.person_guard += person
        self.vehicle_guard += vehicle
        self.cleared += cleared
        self.last_seen_us += seen
        self.mine += [mine] * len(ids)

    def add(
        self,
        *,
        ids: Sequence[int],
        kind: Sequence[int],
        anchor: Sequence[bool],
        last_seen_us: Sequence[int],
        first_seen_us: Sequence[int],
        scope_id: Sequence[int],
        token: Sequence[bytes],
        next_token: Sequence[bytes | None],
        sealed: Sequence[bytes],
        subject_key_id: Sequence[int],
    ) -> None:
        """Adds identifiers that the tables do not have; once."""
        nodes = range(len(self.ids), len(self.ids) + len(ids))
        self.node.update(zip(ids, nodes, strict=True))
        none = [0] * len(ids)
        self.ids += ids
        self.kind += kind
        self.anchor += anchor
        self.last_seen_us += last_seen_us
        self.mine += [True] * len(ids)
        self.cleared += [False] * len(ids)
        for column in (self.entity, self.born, self.component, self.version, self.person_guard, self.vehicle_guard):
            column.extend(none)
        self.fresh = Fresh(nodes, scope_id, token, next_token, sealed, subject_key_id, first_seen_us)
        self.whole.update(ids)

    def link(self, seen: LinkSeen) -> None:
        """Adds a link, or notes that one was seen again."""
        key = seen[:4]
        before = self.links.get(key)
        if before == seen.strength:
            self.seen_again.append(seen)
            return
        self.links[key] = seen.strength
        (self.new_links if before is None else self.changed_links).append(seen)

    def observed(self, links: Mapping[LinkKey, int]) -> None:
        """Adds what was observed: link → seen at."""
        known, new = self.links, self.new_links
        for key, at in links.items():
            if key in known:
                self.link(LinkSeen(*key, 0, at))
            else:
                new.append(LinkSeen(*key, 0, at))
        known.update(dict.fromkeys(links, 0))

    def graph(self, trust: Ints) -> Graph:
        """As arrays."""
        anchor, value, name, source = zip(*self.links, strict=True) if self.links else ((), (), (), ())
        node = self.node.__getitem__
        person_guard, vehicle_guard = (np.array(guard, np.int16) for guard in (self.person_guard, self.vehicle_guard))
        for at, guard in self.set_aside.items():
            person_guard[at] = vehicle_guard[at] = guard
        return Graph(
            kind=np.array(self.kind, np.int16),
            person_guard=person_guard,
            vehicle_guard=vehicle_guard,
            cleared=np.array(self.cleared, bool),
            anchor=np.fromiter(map(node, anchor), np.int64, len(anchor)),
            value=np.fromiter(map(node, value), np.int64, len(value)),
            name=np.array(name, np.int64),
            source=np.array(source, np.int64),
            strength=np.fromiter(self.links.values(), np.int16, len(self.links)),
            trust=trust,
            apart=self.apart,
        )


async def near(uow: UnitOfWork, rows: Sequence[Any]) -> Neighbourhood:
    """The neighbourhood around rows of whole components: their links, and the shared values at the links' far ends."""
    found = Neighbourhood()
    found.take(rows)
    # The links of an anchor that is shared itself lead nowhere, and may be many.
    anchors = [
        found.ids[at]
        for at, anchor in enumerate(found.anchor)
        if anchor and (found.component[at] or not found.person_guard[at])
    ]
    found.whole.update(anchors)
    links = await graph_store.links_of(uow, anchors)
    if links:
        *key, strength = zip(*links, strict=True)
        found.links = dict(zip(zip(*key, strict=True), strength, strict=True))
        outside = set(key[1]) - found.node.keys()
    else:
        outside = set()
    if outside:
        found.take(await graph_store.by_ids(uow, outside), mine=False)
    return found


@dataclass(frozen=True)
class Solved:
    """What the rules make of a neighbourhood, before anything is written."""

    graph: Graph
    parts: Mapping[Space, Partition]


def solve(found: Neighbourhood, trust: Ints) -> Solved:
    """Applies the rules."""
    graph = found.graph(trust)
    return Solved(graph, {space: partition(graph, space) for space in SPACES})


async def settle(uow: UnitOfWork, store: Store, found: Neighbourhood, cause: int = 0, why: str = "") -> Callable[[int], Owner]:
    """Solves a neighbourhood, writes rows, links, view and ledger, and returns who owns each of its ids.

    The caller holds the graph's lock. `cause`: the operation that asked for it; `why` its reason code.
    """
    trust = await store.trust(uow)
    solved = solve(found, trust)
    graph, parts = solved.graph, solved.parts
    ids, anchor, mine = np.array(found.ids, np.int64), np.array(found.anchor, bool), np.array(found.mine, bool)
    entity, born = np.array(found.entity, np.int64), np.array(found.born, np.int64)
    given: dict[Space, tuple[Ints, Assignment]] = {}
    for space in SPACES:
        at = np.flatnonzero(mine & (graph.space == space))
        if len(at):
            before = Before(ids[at], anchor[at], entity[at], born[at])
            given[space] = at, await _assign(uow, space, parts[space].label[at], before, found.preferred)
    component, new_components = _components(found, solved, mine, ids)
    new_persons, new_vehicles = (given[space][1].newcomers if space in given else 0 for space in SPACES)
    version, *first = await graph_store.draw_entities(uow, new_persons, new_vehicles, new_components)
    new_entity = entity.copy()
    for space, base in zip(SPACES, first, strict=False):
        if space in given:
            at, assignment = given[space]
            new_entity[at] = _numbered(assignment.entity, base)
    component = _numbered(component, first[2])
    await _write(uow, found, parts, anchor, new_entity, component, version)
    entries = []
    for space, base in zip(SPACES, first, strict=False):
        if space in given and given[space][1].changes:
            at, assignment = given[space]
            was = np.array(found.person_guard if space is Space.PERSON else found.vehicle_guard, np.int16)
            view = View(space, graph, parts[space], was, _news(found), found.ids)
            stories = told(view, assignment.changes, at, base, why)
            entries += await graph_store.write_ledger(uow, space, stories, version, cause)
    moved = np.flatnonzero((entity != new_entity) & anchor & (entity > 0))
    moves = [Move(Space(int(graph.space[at])), Owner(int(ids[at]), int(new_entity[at]), version)) for at in moved.tolist()]
    events.publish_changed(uow, moves, entries)
    await relations.queue(uow, [(int(ids[at]), int(entity[at])) for at in moved.tolist()])
    owners, since = new_entity.tolist(), np.where(entity != new_entity, version, np.array(found.version, np.int64)).tolist()

    def owner(id_: int) -> Owner:
        at = found.node[id_]
        return Owner(id_, owners[at], since[at])

    return owner


async def recompute(
    uow: UnitOfWork, store: Store, touched: Collection[int], cause: int = 0, why: str = "", reopen: Collection[int] = ()
) -> None:
    """Brings the view of everything near `touched` up to date after something but new observations changed.

    The caller holds the graph's lock. `reopen`: values whose guards are to be judged anew from their links.
    """
    if not touched:
        return
    found = await near(uow, await graph_store.near_ids(uow, touched))
    for id_ in reopen:
        if (at := found.node.get(id_)) is not None:
            found.person_guard[at] = found.vehicle_guard[at] = 0
            found.mine[at] = True
    await settle(uow, store, found, cause, why)


def _numbered(numbers: Ints, first: int) -> Ints:
    """New ids, which stand as -1, -2 …, by their numbers from `first`."""
    return np.where(numbers < 0, first - 1 - numbers, numbers)


def _news(found: Neighbourhood) -> Flags:
    """Which links are new."""
    news = {link[:4] for link in (*found.new_links, *found.changed_links)}
    return np.fromiter((key in news for key in found.links), bool, len(found.links))


async def _assign(uow: UnitOfWork, space: Space, label: Ints, before: Before, preferred: frozenset[int]) -> Assignment:
    label = np.unique(label, return_inverse=True)[1]
    wanted: set[int] = set()

    def ask(entities: Collection[int]) -> Collection[int]:
        wanted.update(entities)
        return ()

    assignment = assign(label, before, ask, preferred)
    if wanted:
        free = await graph_store.unowned(uow, space, wanted)
        assignment = assign(label, before, lambda _: free, preferred)
    return assignment


def _components(found: Neighbourhood, solved: Solved, mine: Flags, ids: Ints) -> tuple[Ints, int]:
    """The component of each node, -k for the k-th new one, 0 for what is out of use; and how many are new."""
    graph, parts = solved.graph, solved.parts
    person, vehicle = parts[Space.PERSON].guard, parts[Space.VEHICLE].guard
    old = np.array(found.component, np.int64)
    in_use = mine & (person == 0) | (mine & (graph.space == Space.VEHICLE) & (vehicle == 0))
    at = np.flatnonzero(in_use)
    component = np.where(mine, 0, old)
    if not len(at):
        return component, 0
    label = np.unique(neighbourhoods(graph, *parts.items())[at], return_inverse=True)[1]
    size = int(label.max()) + 1
    far = np.iinfo(np.int64).max
    kept, first = np.full(size, far), np.full(size, far)
    known = old[at] > 0
    np.minimum.at(kept, label[known], old[at][known])
    np.minimum.at(first, label, ids[at])
    # Of groups that one component came apart into, the one with the smallest id keeps its number.
    order = np.lexsort((first, kept))
    new = kept[order] == far
    new[1:] |= kept[order][1:] == kept[order][:-1]
    kept[order[new]] = -1 - np.arange(int(new.sum()))
    component[at] = kept[label]
    return component, int(new.sum())


async def _write(
    uow: UnitOfWork,
    found: Neighbourhood,
    parts: Mapping[Space, Partition],
    anchor: Flags,
    entity: Ints,
    component: Ints,
    version: int,
) -> None:
    person, vehicle = parts[Space.PERSON].guard, parts[Space.VEHICLE].guard
    born = np.where(anchor & (np.array(found.born, np.int64) == 0), entity, np.array(found.born, np.int64))
    changed = (
        (entity != np.array(found.entity))
        | (born != np.array(found.born))
        | (component != np.array(found.component))
        | (person != np.array(found.person_guard))
        | (vehicle != np.array(found.vehicle_guard))
    )
    changed[list(found.touched)] = True
    if found.fresh:
        changed[found.fresh.nodes.start : found.fresh.nodes.stop] = False
        await _insert(uow, found, found.fresh, (entity, born, component, person, vehicle), version)
    at = np.flatnonzero(changed)
    since = np.where(entity != np.array(found.entity), version, np.array(found.version, np.int64))
    updates = zip(
        *([column[i] for i in at.tolist()] for column in (found.ids, found.anchor)),
        *(column[at].tolist() for column in (entity, born, component, since, person, vehicle)),
        [found.last_seen_us[i] for i in at.tolist()],
        strict=True,
    )
    await graph_store.update_identifiers(uow, list(updates))
    whole = found.whole
    new = [link for link in found.new_links if link.anchor_id in whole]
    await graph_store.insert_links(uow, new)
    rest = [*found.seen_again, *found.changed_links]
    if len(new) < len(found.new_links):
        rest += [link for link in found.new_links if link.anchor_id not in whole]
    await graph_store.store_links(uow, rest)
    await _keep_degrees(uow, found, person, vehicle)


async def _insert(uow: UnitOfWork, found: Neighbourhood, fresh: Fresh, view: Sequence[Any], version: int) -> None:
    """New rows with their owners at once."""
    part = slice(fresh.nodes.start, fresh.nodes.stop)
    entity, born, component, person, vehicle = (column[part].tolist() for column in view)
    size = len(fresh.nodes)
    rows = zip(
        *(found.ids[part], found.kind[part], fresh.scope_id, fresh.token, fresh.next_token, fresh.sealed),
        *(fresh.subject_key_id, found.anchor[part], fresh.first_seen_us, found.last_seen_us[part]),
        *([False] * size, entity, born, component, [version if owner else 0 for owner in entity], person, vehicle),
        strict=True,
    )
    await graph_store.insert_identifiers(uow, list(rows))


async def _keep_degrees(uow: UnitOfWork, found: Neighbourhood, person: Any, vehicle: Any) -> None:
    """Lists values that became shared just now, with their degree, and counts new links to those that were."""
    was = (np.array(found.person_guard) > 0) | (np.array(found.vehicle_guard) > 0)
    now = np.where(person > 0, person, vehicle)
    fresh = set(np.flatnonzero((now > 0) & ~was & np.isin(now, _COUNTED)).tolist())
    more: defaultdict[int, int] = defaultdict(int)
    if fresh:
        degree: defaultdict[int, int] = defaultdict(int)
        for _, value, _, _ in found.links:
            degree[value] += 1
        values = {found.ids[at]: (int(now[at]), degree[found.ids[at]]) for at in sorted(fresh)}
        await graph_store.write_shared(uow, values)
    if was.any():
        for link in found.new_links:
            at = found.node[link.value_id]
            if was[at]:
                more[link.value_id] += 1
        await graph_store.count_shared(uow, more)
