"""Relations: what events and records show of them, kept by anchors, and what that makes of the entities at present.

Evidence is counted per anchor, object, source and month, with a bit for each day: sums, unions and minima only, so that
late and repeated arrivals in any order leave the same. A vehicle's relations are a pure function of the evidence on it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import IntEnum
from functools import lru_cache, reduce
from operator import or_
from typing import NamedTuple

from services.identity.domain.kinds import Space
from services.identity.domain.tenures import OPEN, Start, Tenure, dated_back, tenures

DAY_US = 86_400_000_000
_EPOCH = date(1970, 1, 1).toordinal()
OWNS, DRIVES, PAYS_FOR = "owns", "drives", "pays_for"
MEMBER_OF, SOLD_BY, SERVICED_BY, ADVISED_BY, USES = "member_of", "sold_by", "serviced_by", "advised_by", "uses"


class Evidence(IntEnum):
    """What one event or record is evidence of; the numbers are stored. Up to 9 a person and a vehicle."""

    OWNS = 1
    DRIVES = 2
    PAYS_FOR = 3
    BOUGHT = 4
    SEEN_WITH = 5
    # A vehicle and a dealer.
    SOLD_AT = 10
    SERVICED_AT = 11
    FILED_AT = 12
    # A person and a dealer.
    ADVISED_AT = 20


STATED = {"owns": Evidence.OWNS, "drives": Evidence.DRIVES, "pays_for": Evidence.PAYS_FOR}
_SALE = frozenset({"Vehicle Sold", "Vehicle Delivered"})
_SERVICE = frozenset({"Service Visit", "Service Completed"})
# A test drive says nothing about whose the car is: it is the dealer's.
_ADVICE = frozenset(
    {"Test Drive Booked", "Test Drive Started", "Test Drive Completed", "Showroom Visit", "Quotation Given", "Lead Contacted"}
)


@lru_cache(10_000)
def evidence_of(name: str, relation: str, *, person: bool, vehicle: bool, dealer: bool) -> tuple[Evidence, ...]:
    """What an event shows, by its name, the relation it states, and whom it is about."""
    shows: list[Evidence] = []
    if name in _ADVICE:
        return (Evidence.ADVISED_AT,) if person and dealer else ()
    if person and vehicle:
        if name in _SALE:
            shows.append(Evidence.BOUGHT)
        else:
            shows.append(STATED.get(relation, Evidence.SEEN_WITH))
    if vehicle and dealer:
        shows.append(Evidence.SOLD_AT if name in _SALE else Evidence.SERVICED_AT if name in _SERVICE else Evidence.FILED_AT)
    if person and dealer and not vehicle:
        shows.append(Evidence.ADVISED_AT)
    return tuple(shows)


def month_of(at_us: int) -> tuple[int, int]:
    """(months since 1970, bit of the day within it), UTC."""
    return _month_of_day(at_us // DAY_US)


@lru_cache(10_000)
def _month_of_day(number: int) -> tuple[int, int]:
    day = date.fromordinal(_EPOCH + number)
    return (day.year - 1970) * 12 + day.month - 1, 1 << (day.day - 1)


class Counted(NamedTuple):
    """Evidence of one kind by one source in one month, its anchors replaced by the entities they belong to."""

    kind: Evidence
    subject: int
    object: int
    source: str
    month: int
    days: int
    observations: int
    first_us: int
    last_us: int
    # When the vehicle was first sold, as the record says; 0: not said.
    since_us: int = 0


@dataclass(frozen=True)
class Support:
    """What was counted for a relation. `sightings`: pairs of a source and a day."""

    observations: int
    sightings: int
    days: int
    sources: tuple[str, ...]
    first_us: int
    last_us: int


def support(rows: Sequence[Counted]) -> Support:
    """Counts rows of evidence; days that two sources share count once, sightings twice."""
    by_month: defaultdict[int, int] = defaultdict(int)
    by_source: defaultdict[tuple[str, int], int] = defaultdict(int)
    for row in rows:
        by_month[row.month] |= row.days
        by_source[row.source, row.month] |= row.days
    return Support(
        sum(row.observations for row in rows),
        sum(days.bit_count() for days in by_source.values()),
        sum(days.bit_count() for days in by_month.values()),
        tuple(sorted({row.source for row in rows})),
        min(row.first_us for row in rows),
        max(row.last_us for row in rows),
    )


@dataclass(frozen=True)
class Relation:
    """A relation of two entities at present; `reason` is an UPPER_SNAKE word on how it was found."""

    kind: str
    subject: tuple[Space, int]
    object: tuple[Space, int]
    valid_from_us: int
    valid_to_us: int
    confidence: float
    stated: bool
    reason: str
    support: Support = field(compare=False)


_CONFIDENCE: Mapping[str, float] = {"SOLD": 0.97, "STATED": 0.80, "USED": 0.45, "SEEN": 0.60}
_DOUBT_LEFT = 0.7
_MOST_SIGHTINGS = 20
_CONTESTED = 0.6


def confidence(reason: str, sightings: int) -> float:
    """0 to 1: a first sighting by its kind; each further day or source leaves seven tenths of the doubt."""
    return 1 - (1 - _CONFIDENCE[reason]) * _DOUBT_LEFT ** (min(sightings, _MOST_SIGHTINGS) - 1)


SALE_STRENGTH, STATED_STRENGTH = 3, 2
# More people than this around one car: a rental, a demonstrator, a fleet. Nothing is inferred from its use.
MOST_PEOPLE = 6
# Days on which somebody must have been seen with another's car to pass for its driver; two sources are as good.
LEAST_DAYS = 2


def vehicle_relations(vehicle: int, rows: Iterable[Counted]) -> list[Relation]:
    """A vehicle's relations to persons: owners with dates (one at a time), drivers, who pays."""
    people: defaultdict[int, list[Counted]] = defaultdict(list)
    for row in rows:
        if row.kind <= Evidence.SEEN_WITH:
            people[row.subject].append(row)
    owners = _owners(people)
    found = list(_owning(vehicle, owners, people))
    used = len(people) <= MOST_PEOPLE
    for person, mine in sorted(people.items()):
        driving = [row for row in mine if row.kind is Evidence.DRIVES]
        if driving:
            found.append(_until_sold(DRIVES, (person, vehicle), driving, owners, "STATED"))
        elif used and (seen := _beside_the_owner(person, mine, owners)):
            found.append(_until_sold(DRIVES, (person, vehicle), seen, owners, "USED"))
        if paying := [row for row in mine if row.kind is Evidence.PAYS_FOR]:
            found.append(_until_sold(PAYS_FOR, (person, vehicle), paying, owners, "STATED"))
    return found


def _owners(people: Mapping[int, Sequence[Counted]]) -> list[Tenure]:
    starts = []
    for person, rows in people.items():
        starts += [Start(row.first_us, SALE_STRENGTH, person) for row in rows if row.kind is Evidence.BOUGHT]
        # Repeating that somebody owns a car does not make it theirs again: files of former owners are refreshed, too.
        if said := [row.first_us for row in rows if row.kind is Evidence.OWNS]:
            starts.append(Start(min(said), STATED_STRENGTH, person))
    # One day of first sale is all there is: sources that contradict each other are settled by the earliest.
    since = min((row.since_us for rows in people.values() for row in rows if row.since_us), default=0)
    return dated_back(tenures(starts), since)


def _owning(vehicle: int, owners: Sequence[Tenure], people: Mapping[int, Sequence[Counted]]) -> Iterator[Relation]:
    for tenure in owners:
        mine = [row for row in people[tenure.holder] if row.kind in (Evidence.OWNS, Evidence.BOUGHT)]
        reason = "SOLD" if tenure.strength == SALE_STRENGTH else "STATED"
        sure = confidence(reason, support(mine).sightings)
        if contested_by(tenure, people):
            sure *= _CONTESTED
        yield Relation(
            OWNS,
            (Space.PERSON, tenure.holder),
            (Space.VEHICLE, vehicle),
            tenure.from_us,
            tenure.to_us,
            round(sure, 4),
            stated=True,
            reason=reason,
            support=support(mine),
        )


def contested_by(tenure: Tenure, people: Mapping[int, Sequence[Counted]]) -> list[int]:
    """Others of whom somebody says within the tenure that they own the vehicle."""
    return sorted(
        person
        for person, rows in people.items()
        if person != tenure.holder
        and any(row.kind is Evidence.OWNS and (tenure.holds_at(row.last_us) or tenure.holds_at(row.first_us)) for row in rows)
    )


def _beside_the_owner(person: int, rows: Sequence[Counted], owners: Sequence[Tenure]) -> list[Counted]:
    """Evidence on somebody with a car while it was another's; empty when too little to call them its driver."""
    theirs = [tenure for tenure in owners if tenure.holder != person]
    seen = [
        row
        for row in rows
        if row.kind in (Evidence.SEEN_WITH, Evidence.OWNS)
        and any(tenure.holds_at(row.first_us) or tenure.holds_at(row.last_us) for tenure in theirs)
    ]
    if not seen:
        return []
    counted = support(seen)
    return seen if counted.days >= LEAST_DAYS or len(counted.sources) > 1 else []


def _until_sold(kind: str, ends: tuple[int, int], rows: Sequence[Counted], owners: Sequence[Tenure], reason: str) -> Relation:
    """Driving and paying end when the car goes to another owner after the last that was seen of them."""
    counted = support(rows)
    to = next((tenure.to_us for tenure in owners if tenure.holds_at(counted.last_us)), OPEN)
    return Relation(
        kind,
        (Space.PERSON, ends[0]),
        (Space.VEHICLE, ends[1]),
        counted.first_us,
        to,
        round(confidence(reason, counted.sightings), 4),
        stated=reason == "STATED",
        reason=reason,
        support=counted,
    )


def advice_relations(person: int, rows: Iterable[Counted]) -> list[Relation]:
    """Dealers that a person dealt with without a car of their own."""
    by_dealer: defaultdict[int, list[Counted]] = defaultdict(list)
    for row in rows:
        if row.kind is Evidence.ADVISED_AT:
            by_dealer[row.object].append(row)
    found = []
    for dealer, mine in sorted(by_dealer.items()):
        counted = support(mine)
        found.append(
            Relation(
                ADVISED_BY,
                (Space.PERSON, person),
                (Space.DEALER, dealer),
                counted.first_us,
                OPEN,
                round(confidence("SEEN", counted.sightings), 4),
                stated=True,
                reason="SEEN",
                support=counted,
            )
        )
    return found


def all_days(rows: Iterable[Counted]) -> Mapping[int, int]:
    """Month → bits of its days, over all rows."""
    months: defaultdict[int, list[int]] = defaultdict(list)
    for row in rows:
        months[row.month].append(row.days)
    return {month: reduce(or_, bits) for month, bits in months.items()}
