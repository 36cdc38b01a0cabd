"""Changing the graph: solve the neighbourhood of what is new, write the view, say what moved."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chassis.db import UnitOfWork
from services.identity import events, graph_store, relations
from services.identity.domain.clusters import Partition, neighbourhoods, partition
from services.identity.domain.entities import Assignment, Before, assign
from services.identity.domain.graphs import Flags, Graph, Ints
from services.identity.domain.kinds import COUNTED, NUMBERS, Space
from services.identity.domain.reasons import View, told
from services.identity.events import Move
from services.identity.graph_store import LinkSeen, Moved, NewIdentifier
from services.identity.store import Owner, Store

SPACES = (Space.PERSON, Space.VEHICLE)
_COUNTED = [NUMBERS[reason] for reason in COUNTED]


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
    by_token: dict[bytes, int] = field(default_factory=dict)
    links: dict[tuple[int, int, int, int], int] = field(default_factory=dict)
    # Rows that are not in the tables yet, without what solving gives them; links likewise.
    fresh: dict[int, NewIdentifier] = field(default_factory=dict)
    new_links: list[LinkSeen] = field(default_factory=list)
    seen_again: list[LinkSeen] = field(default_factory=list)
    # Guards that somebody decided on just now, by node.
    set_aside: dict[int, int] = field(default_factory=dict)
    # Entities that go on when they become one with others.
    preferred: frozenset[int] = frozenset()
    # Nodes of which something changed that solving does not know of.
    touched: set[int] = field(default_factory=set)

    def take(self, rows: Iterable[Any], mine: bool = True) -> None:
        """Adds rows of the tables that are not there yet."""
        node, ids = self.node, self.ids
        for row in rows:
            id_, token, kind, anchor, entity, born, component, version, person, vehicle, cleared, apart, last_seen = row
            if id_ in node:
                continue
            node[id_] = len(ids)
            if apart:
                self.apart[len(ids)] = tuple(apart)
            ids.append(id_)
            self.by_token[token] = id_
            self.kind.append(kind)
            self.anchor.append(anchor)
            self.entity.append(entity)
            self.born.append(born)
            self.component.append(component)
            self.version.append(version)
            self.person_guard.append(person)
            self.vehicle_guard.append(vehicle)
            self.cleared.append(cleared)
            self.last_seen_us.append(last_seen)
            self.mine.append(mine)

    def add(self, row: NewIdentifier) -> None:
        """Adds an identifier that the tables do not have."""
        self.take(
            [(row.id, row.token, row.kind, row.anchor, 0, 0, 0, 0, 0, 0, False, None, row.last_seen_us)],
        )
        self.fresh[row.id] = row
        self.touched.add(self.node[row.id])

    def link(self, seen: LinkSeen) -> bool:
        """Adds a link, or notes that one was seen again; False in the latter case."""
        key = seen[:4]
        if self.links.get(key) == seen.strength:
            self.seen_again.append(seen)
            return False
        self.links[key] = seen.strength
        self.new_links.append(seen)
        return True

    def graph(self, trust: Ints) -> Graph:
        """As arrays."""
        links = np.array(list(self.links), np.int64).reshape(-1, 4)
        node = self.node
        person_guard, vehicle_guard = (np.array(guard, np.int16) for guard in (self.person_guard, self.vehicle_guard))
        for at, guard in self.set_aside.items():
            person_guard[at] = vehicle_guard[at] = guard
        return Graph(
            kind=np.array(self.kind, np.int16),
            person_guard=person_guard,
            vehicle_guard=vehicle_guard,
            cleared=np.array(self.cleared, bool),
            anchor=np.array([node[at] for at in links[:, 0].tolist()], np.int64),
            value=np.array([node[at] for at in links[:, 1].tolist()], np.int64),
            name=links[:, 2],
            source=links[:, 3],
            strength=np.array(list(self.links.values()), np.int16),
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
    links = await graph_store.links_of(uow, anchors)
    found.links = {(anchor, value, name, source): strength for anchor, value, name, source, strength in links}
    outside = {value for _, value, _, _ in found.links} - found.node.keys()
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


async def settle(uow: UnitOfWork, store: Store, found: Neighbourhood, cause: int = 0, why: str = "") -> dict[int, Owner]:
    """Solves a neighbourhood, writes rows, links, view and ledger, and returns the owners of its anchors.

    The caller holds the graph's lock. `cause`: the operation that asked for it; `why` its reason code.
    """
    if not found.ids:
        return {}
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
    changed = (entity != new_entity).tolist()
    return {
        id_: Owner(id_, owner, version if changed[at] else found.version[at])
        for at, (id_, owner, is_anchor) in enumerate(zip(found.ids, new_entity.tolist(), found.anchor, strict=True))
        if is_anchor
    }


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
    news = {link[:4] for link in found.new_links}
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
    columns = zip(
        *(column.tolist() for column in (np.flatnonzero(changed), entity[changed], born[changed], component[changed])),
        *(column.tolist() for column in (person[changed], vehicle[changed])),
        strict=True,
    )
    new, updates = [], []
    for at, owner, first_owner, part_of, no_person, no_vehicle in columns:
        id_ = found.ids[at]
        since = version if owner != found.entity[at] else found.version[at]
        if (row := found.fresh.get(id_)) is not None:
            new.append((*row[:11], owner, first_owner, part_of, since, no_person, no_vehicle))
        else:
            updates.append(
                Moved(
                    id_,
                    found.anchor[at],
                    owner,
                    first_owner,
                    part_of,
                    since,
                    no_person,
                    no_vehicle,
                    found.last_seen_us[at],
                )
            )
    await graph_store.insert_identifiers(uow, new)
    await graph_store.update_identifiers(uow, updates)
    await graph_store.store_links(uow, [*found.new_links, *found.seen_again])
    await _keep_degrees(uow, found, person, vehicle)


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
