"""Who stands around an entity, as the database has it: what expressions that cross relations are asked of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from chassis.db import UnitOfWork
from chassis.errors import FailedPrecondition
from services.tags import store
from services.tags.domain.catalogue import Kind
from services.tags.domain.evaluation import Seen
from services.tags.domain.terms import CountOf, Expression, Related, Through, own_parts

# A dealer has tens of thousands of customers; their documents are read for one answer.
MOST_RELATED = 20_000


@dataclass
class Reach:
    """Which related entities expressions ask, and what those ask in turn."""

    of: dict[Kind, Reach] = field(default_factory=dict)

    @classmethod
    def of_all(cls, expressions: Iterable[Expression]) -> Reach:
        """What all of these need together."""
        reach = cls()
        for expression in expressions:
            reach.add(expression)
        return reach

    def add(self, expression: Expression) -> None:
        """Adds what one more expression needs."""
        for part in own_parts(expression):
            if isinstance(part, (Related, CountOf, Through)):
                self.of.setdefault(part.kind, Reach()).add(part.term)


@dataclass
class Standing:
    """One entity with those around it, of whom only the present count; it answers as `Around`."""

    kind: Kind
    entity_id: int
    tags: Mapping[str, Any]
    now: float
    around: dict[Kind, list[tuple[str, Standing]]] = field(default_factory=dict)

    @property
    def seen(self) -> Seen:
        """What an expression is asked of."""
        return Seen(self.tags, self.now, self)

    def standing(self, kind: Kind) -> list[Standing]:
        """The related entities of a kind by id, each once."""
        unique = {other.entity_id: other for _, other in self.around.get(kind, ())}
        return [unique[entity_id] for entity_id in sorted(unique)]

    def one(self, kind: Kind, relation: str) -> Standing | None:
        """The one in a relation, the lowest id of several."""
        found = [other for name, other in self.around.get(kind, ()) if name == relation]
        return min(found, key=lambda other: other.entity_id, default=None)

    def related(self, kind: Kind) -> Sequence[Seen]:
        """Those of a kind, each once however often related."""
        return [other.seen for other in self.standing(kind)]

    def single(self, kind: Kind, relation: str) -> Seen | None:
        """The one in a relation."""
        other = self.one(kind, relation)
        return None if other is None else other.seen


async def stand(uow: UnitOfWork, kind: Kind, entity_id: int, now: float, reach: Reach) -> Standing | None:
    """An entity and as much of its surroundings as is asked for; None when it does not exist.

    Raises FailedPrecondition when there is too much of them.
    """
    found = await _entities(uow, kind, [entity_id], now)
    if entity_id not in found:
        return None
    await _surround(uow, kind, found, now, reach)
    return found[entity_id]


async def _surround(uow: UnitOfWork, kind: Kind, standing: Mapping[int, Standing], now: float, reach: Reach) -> None:
    if not reach.of or not standing:
        return
    edges: dict[Kind, list[tuple[int, str, int]]] = defaultdict(list)
    for pair in await store.related(uow, kind, standing):
        if pair.subject_kind == kind and pair.subject_id in standing:
            edges[Kind(pair.object_kind)].append((pair.subject_id, pair.kind, pair.object_id))
        elif pair.object_kind == kind:
            edges[Kind(pair.subject_kind)].append((pair.object_id, pair.kind, pair.subject_id))
    for other, deeper in reach.of.items():
        wanted = {target for _, _, target in edges[other]}
        if len(wanted) > MOST_RELATED:
            raise FailedPrecondition(
                f"more than {MOST_RELATED} related entities decide this; ask the index", reason="TOO_MANY_RELATED"
            )
        others = await _entities(uow, other, wanted, now)
        await _surround(uow, other, others, now, deeper)
        for source, relation, target in edges[other]:
            if target in others:
                standing[source].around.setdefault(other, []).append((relation, others[target]))


async def _entities(uow: UnitOfWork, kind: Kind, entity_ids: Iterable[int], now: float) -> dict[int, Standing]:
    rows = await uow.fetch(
        "SELECT entity_id, CAST(tags AS text) AS tags FROM entity"
        " WHERE entity_kind = $1 AND entity_id = ANY($2::bigint[]) AND present",
        int(kind),
        sorted(entity_ids),
    )
    return {row["entity_id"]: Standing(kind, row["entity_id"], orjson.loads(row["tags"]), now) for row in rows}
