"""Who may live together: persons at one address who also share a thing. An address alone never says so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from math import prod

# More persons than this at an address: an office, a dormitory, a dealer whose clerks type their own address.
MOST_RESIDENTS = 8
# More persons than this around a thing: a rental car, a tablet in a showroom, a front desk's phone.
MOST_SHARERS = 6
# How far a thing that two residents share speaks for one household.
_WEIGHT: Mapping[str, float] = {"vehicle": 0.9, "mobile": 0.85, "device": 0.8}
_CROWD_DISCOUNT = 0.05

Thing = tuple[str, int]


@dataclass(frozen=True)
class Pairing:
    """Two persons, the smaller id first, who may be of one household; `shared`: the things, `residents`: at their address."""

    a: int
    b: int
    confidence: float
    addresses: int
    residents: int
    shared: tuple[Thing, ...]


def suggest(
    residents: Mapping[int, Set[int]], sharers: Mapping[Thing, Set[int]], not_homes: Collection[int] = ()
) -> list[Pairing]:
    """Pairs that share an address and a thing. `residents`: address → persons; `sharers`: thing → persons.

    Both must be complete: who is left out is not counted against a crowd. `not_homes`: addresses of dealers.
    """
    things: defaultdict[tuple[int, int], list[Thing]] = defaultdict(list)
    for thing, persons in sharers.items():
        if len(persons) <= MOST_SHARERS:
            for pair in _pairs(persons):
                things[pair].append(thing)
    homes: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for address, persons in residents.items():
        if address not in not_homes and len(persons) <= MOST_RESIDENTS:
            for pair in _pairs(persons):
                if pair in things:
                    homes[pair].append(len(persons))
    found = []
    for (a, b), crowds in sorted(homes.items()):
        shared = tuple(sorted(things[a, b]))
        found.append(Pairing(a, b, _confidence(shared, min(crowds)), len(crowds), min(crowds), shared))
    return found


def _pairs(persons: Iterable[int]) -> Iterable[tuple[int, int]]:
    return combinations(sorted(persons), 2)


def _confidence(shared: Iterable[Thing], residents: int) -> float:
    doubt = prod(1 - _WEIGHT[kind] for kind in {kind for kind, _ in shared})
    return round((1 - doubt) * (1 - _CROWD_DISCOUNT * (residents - 2)), 4)


class Joining(StrEnum):
    """What accepting a suggestion comes to."""

    CREATED = "CREATED"
    JOINED = "JOINED"
    ALREADY_TOGETHER = "ALREADY_TOGETHER"
    SAME_PERSON = "SAME_PERSON"
    DIFFERENT_HOUSEHOLDS = "DIFFERENT_HOUSEHOLDS"


def join(a: int, b: int, household_of: Mapping[int, int]) -> Joining:
    """Who of two persons has a household already decides; two households never become one unasked."""
    if a == b:
        return Joining.SAME_PERSON
    mine, theirs = household_of.get(a, 0), household_of.get(b, 0)
    if mine and theirs:
        return Joining.ALREADY_TOGETHER if mine == theirs else Joining.DIFFERENT_HOUSEHOLDS
    return Joining.JOINED if mine or theirs else Joining.CREATED
