"""Who is in an audience, kept up to date: only those whom a change may concern are asked again."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from pyroaring import BitMap

from services.tags.domain.catalogue import Kind
from services.tags.domain.terms import CountOf, DaysSince, Expression, Related, Since, Term, Through, own_parts, parts_of
from services.tags.index.algebra import audience
from services.tags.index.index import AudienceIndex

Changed = Mapping[Kind, AbstractSet[int]]
# Of more than this part of all, all are asked: that is one scan instead of many steps.
_PART = 8
# How often time is looked at where time alone changes membership.
TICK_S = 0.5


class Moved(NamedTuple):
    """Who entered and who left."""

    entered: BitMap
    left: BitMap

    def __bool__(self) -> bool:
        return bool(self.entered or self.left)


class Membership:
    """The members of one predicate. `as_of`: the moment (seconds) at which ages were last counted for all."""

    def __init__(self, index: AudienceIndex, kind: Kind, term: Term, now: float) -> None:
        self.kind, self.term = kind, term
        self._clocked, self.stale = is_clocked(term), False
        self.members, self.as_of = audience(index, kind, term, now), now

    def refresh(self, index: AudienceIndex, changed: Changed, now: float) -> Moved:
        """Takes changes in that the index has applied; what time alone changed, too, twice a second."""
        if self.stale or (self._clocked and now - self.as_of >= TICK_S):
            return self._renewed(audience(index, self.kind, self.term, now), now)
        if not any(changed.values()):
            return Moved(BitMap(), BitMap())
        asked = concerned(index, self.kind, self.term, changed)
        if len(asked) * _PART > len(index.present[self.kind]):
            return self._renewed(audience(index, self.kind, self.term, now), now)
        before, after = self.members & asked, audience(index, self.kind, self.term, now, within=asked)
        moved = Moved(after - before, before - after)
        self.members -= moved.left
        self.members |= moved.entered
        return moved

    def _renewed(self, members: BitMap, now: float) -> Moved:
        moved = Moved(members - self.members, self.members - members)
        self.members, self.as_of, self.stale = members, now, False
        return moved


def concerned(index: AudienceIndex, kind: Kind, expression: Expression, changed: Changed) -> BitMap:
    """Entities of a kind for which an expression may have changed: those that did, and whoever asks those that did.

    Both ends of a relation that came or went are among those that changed; so nobody is missed whom it once connected.
    """
    found = BitMap(changed.get(kind, ()))
    for part in own_parts(expression):
        if isinstance(part, (Related, CountOf, Through)) and (inner := concerned(index, part.kind, part.term, changed)):
            found |= index.relations.reached(kind, part.kind, inner)
    return found


def is_clocked(expression: Expression) -> bool:
    """Whether time alone may change it, here or at related entities."""
    return isinstance(expression, (Since, DaysSince)) or any(is_clocked(part) for part in parts_of(expression))
