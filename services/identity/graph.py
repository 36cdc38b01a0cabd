"""Changing the graph: solve the neighbourhood of what is new, write the view, say what moved."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
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
from services.identity.neighbourhoods import Fresh, Neighbourhood, near
from services.identity.store import Owner, Store

SPACES = (Space.PERSON, Space.VEHICLE)
_COUNTED = [NUMBERS[reason] for reason in COUNTED]


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
    new_entity, born = entity.copy(), born.copy()
    for space, base in zip(SPACES, first, strict=False):
        if space in given:
            at, assignment = given[space]
            new_entity[at] = _numbered(assignment.entity, base)
            # Who gets a new number where no old one was free is born again: the next time it is this one that comes back.
            again = anchor[at] & ((assignment.entity < 0) | (born[at] == 0))
            born[at[again]] = new_entity[at[again]]
    component = _numbered(component, first[2])
    await _write(uow, found, solved, (new_entity, born, component), version)
    entries = []
    news = _news(found) if any(assignment.changes for _, assignment in given.values()) else np.zeros(0, bool)
    for space, base in zip(SPACES, first, strict=False):
        if space in given and given[space][1].changes:
            at, assignment = given[space]
            was = np.array(found.person_guard if space is Space.PERSON else found.vehicle_guard, np.int16)
            view = View(space, graph, parts[space], was, news, found.ids)
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
    found = await near(uow, await graph_store.near_ids(uow, touched), reopen)
    for id_ in reopen:
        if (at := found.node.get(id_)) is not None:
            found.person_guard[at] = found.vehicle_guard[at] = 0
            found.mine[at] = True
    await settle(uow, store, found, cause, why)
    await graph_store.unlist_shared(uow, reopen)


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
    solved: Solved,
    view: tuple[Ints, Ints, Ints],
    version: int,
) -> None:
    """Writes what changed. `view`: per node its entity, the one it was born with, its component."""
    entity, born, component = view
    person, vehicle = solved.parts[Space.PERSON].guard, solved.parts[Space.VEHICLE].guard
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
    await graph_store.mark_outside(uow, _outside(found, solved))
    await _keep_degrees(uow, found, person, vehicle)


def _outside(found: Neighbourhood, solved: Solved) -> list[int]:
    """Values that anchors out of use came with and that are not marked so."""
    graph = solved.graph
    by_shared = np.zeros(len(graph.anchor), bool)
    for space, part in solved.parts.items():
        by_shared |= (graph.link_space == space) & (part.guard[graph.anchor] != 0)
    values = np.unique(graph.value[by_shared])
    return [found.ids[at] for at in values.tolist() if not found.outside[at]]


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
