"""Who comes with a car."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from services.identity.domain.kinds import Space
from services.identity.domain.relations import ADVISED_BY, DRIVES, OWNS, PAYS_FOR, SERVICED_BY, Relation

# The owner before who drives, who drives before who pays.
HOLDS: Final = (OWNS, DRIVES, PAYS_FOR)


class Holder(NamedTuple):
    """A vehicle, the person who holds it and as what; numbers of dealers. 0 and empty where nothing is known."""

    vehicle_id: int
    person_id: int = 0
    relation: str = ""
    serviced_by: int = 0
    advised_by: int = 0


NOBODY: Final = Holder(0)


def holder(vehicle_id: int, relations: Iterable[Relation]) -> Holder:
    """Of all relations of one vehicle those that hold at present; of equals the surest, then the smaller number."""
    present = [r for r in relations if not r.valid_to_us]
    persons = [r for r in present if r.kind in HOLDS and r.subject[0] is Space.PERSON]
    first = min(persons, key=lambda r: (HOLDS.index(r.kind), -r.confidence, r.subject[1]), default=None)
    person, relation = (first.subject[1], first.kind) if first else (0, "")
    return Holder(vehicle_id, person, relation, surest([r for r in present if r.kind == SERVICED_BY]))


def adviser(relations: Iterable[Relation]) -> int:
    """The dealer that advises a person at present, 0 for none."""
    return surest([r for r in relations if r.kind == ADVISED_BY and not r.valid_to_us])


def surest(found: Sequence[Relation]) -> int:
    """The number of the dealer of the surest of some relations to dealers; 0 without any."""
    return max(found, key=lambda r: (r.confidence, -r.object[1])).object[1] if found else 0
