"""A neighbourhood of the graph: what the tables hold of it, and what a change adds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from chassis.db import UnitOfWork
from services.identity import graph_store
from services.identity.domain.graphs import Graph, Ints
from services.identity.graph_store import LinkSeen

# (Anchor, value, name, source) of a link.
LinkKey = tuple[int, int, int, int]


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
    outside: list[bool] = field(default_factory=list)
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
        ids, _, kind, anchor, entity, born, component, version, person, vehicle, *more = zip(*rows, strict=True)
        cleared, outside, apart, seen = more
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
        self.outside += outside
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
        self.outside += [False] * len(ids)
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


async def near(uow: UnitOfWork, rows: Sequence[Any], reopen: Collection[int] = ()) -> Neighbourhood:
    """The neighbourhood around rows of whole components: their links, and the shared values at the links' far ends.

    `reopen`: identifiers to be read as if they were in use.
    """
    found = Neighbourhood()
    found.take(rows)
    # The links of an anchor that is shared itself lead nowhere, and may be many.
    open_to = set(reopen)
    in_use = [
        bool(component or not guard or id_ in open_to)
        for id_, component, guard in zip(found.ids, found.component, found.person_guard, strict=True)
    ]
    anchors = [id_ for id_, anchor, used in zip(found.ids, found.anchor, in_use, strict=True) if anchor and used]
    found.whole.update(anchors)
    links = await graph_store.links_of(uow, anchors)
    if links:
        *key, strength = zip(*links, strict=True)
        found.links = dict(zip(zip(*key, strict=True), strength, strict=True))
        outside = set(key[1]) - found.node.keys()
    else:
        outside = set()
    if any(found.outside):
        # Anchors that are out of use link nobody, but what they came with counts for the guards of it.
        values = [id_ for id_, marked, used in zip(found.ids, found.outside, in_use, strict=True) if marked and used]
        for anchor, value, name, source, strength in await graph_store.links_to(uow, values):
            found.links[anchor, value, name, source] = strength
            if anchor not in found.node:
                outside.add(anchor)
    if outside:
        found.take(await graph_store.by_ids(uow, outside), mine=False)
    return found
