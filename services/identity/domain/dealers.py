"""Which dealer sold a car, and which one really serves it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from math import isclose

from services.identity.domain.kinds import Space
from services.identity.domain.relations import (
    SERVICED_BY,
    SOLD_BY,
    Counted,
    Evidence,
    Relation,
    all_days,
    confidence,
    support,
)
from services.identity.domain.tenures import OPEN, Start, tenures

# What a day at a dealer weighs half a visit less after this long. All weights shrink alike as time goes by, so that the
# order of dealers changes by evidence only, never by the clock.
HALF_LIFE_DAYS = 365.0
# A file that a dealer keeps on a car says little about who serves it; many visits elsewhere outweigh it.
_WEIGHT: Mapping[Evidence, float] = {Evidence.SERVICED_AT: 1.0, Evidence.FILED_AT: 0.2}


def dealer_relations(vehicle: int, rows: Iterable[Counted]) -> list[Relation]:
    """A vehicle's relations to dealers: who sold it when, who serves it (the one with an open end) and who did before."""
    rows = [row for row in rows if Evidence.SOLD_AT <= row.kind <= Evidence.FILED_AT]
    return [*_sold(vehicle, [row for row in rows if row.kind is Evidence.SOLD_AT]), *_serviced(vehicle, rows)]


def _sold(vehicle: int, sales: Sequence[Counted]) -> list[Relation]:
    found = []
    for tenure in tenures(Start(row.first_us, 1, row.object) for row in sales):
        counted = support([row for row in sales if row.object == tenure.holder])
        found.append(
            Relation(
                SOLD_BY,
                (Space.VEHICLE, vehicle),
                (Space.DEALER, tenure.holder),
                tenure.from_us,
                tenure.to_us,
                round(confidence("SOLD", counted.sightings), 4),
                stated=True,
                reason="SOLD",
                support=counted,
            )
        )
    return found


def _serviced(vehicle: int, rows: Sequence[Counted]) -> list[Relation]:
    visits: defaultdict[int, list[Counted]] = defaultdict(list)
    for row in rows:
        if row.kind in _WEIGHT:
            visits[row.object].append(row)
    if not visits:
        return []
    weights = {dealer: _weight(mine, rows) for dealer, mine in visits.items()}
    serving, reason = _serving(weights, visits)
    total = sum(weights.values())
    found = []
    for dealer, mine in sorted(visits.items()):
        services = [row for row in mine if row.kind is Evidence.SERVICED_AT]
        counted = support(services or mine)
        sure = weights[dealer] / total * (confidence("SEEN", counted.sightings) if services else confidence("USED", 1))
        found.append(
            Relation(
                SERVICED_BY,
                (Space.VEHICLE, vehicle),
                (Space.DEALER, dealer),
                counted.first_us,
                # A dealer whose last visit is the end of its time: half-open intervals end just behind it.
                OPEN if dealer == serving else counted.last_us + 1,
                round(sure, 4),
                stated=False,
                reason=reason if dealer == serving else "TIED" if reason == "TIED" else "OUTWEIGHED",
                support=counted,
            )
        )
    return found


def _serving(weights: Mapping[int, float], visits: Mapping[int, Sequence[Counted]]) -> tuple[int, str]:
    """The dealer that serves, and how that was decided; 0 where visits leave two dealers equal in every respect."""
    best = max(weights.values())
    equal = [dealer for dealer, weight in weights.items() if isclose(weight, best, rel_tol=1e-9)]
    only_files = all(row.kind is Evidence.FILED_AT for dealer in equal for row in visits[dealer])
    if len(equal) == 1:
        return equal[0], "ONLY_FILES" if only_files else "MOST_VISITS"
    latest = {dealer: max(row.last_us for row in visits[dealer]) for dealer in equal}
    last = [dealer for dealer in equal if latest[dealer] == max(latest.values())]
    return (last[0], "LATEST_VISIT") if len(last) == 1 else (0, "TIED")


def _weight(mine: Sequence[Counted], rows: Sequence[Counted]) -> float:
    newest = max(day for row in rows for day in _days(row.month, row.days))
    total = 0.0
    for kind, weight in _WEIGHT.items():
        for month, bits in all_days(row for row in mine if row.kind is kind).items():
            total += weight * sum(0.5 ** ((newest - day) / HALF_LIFE_DAYS) for day in _days(month, bits))
    return total


def _days(month: int, bits: int) -> list[int]:
    first = date(1970 + month // 12, month % 12 + 1, 1).toordinal()
    return [first + place for place in range(31) if bits >> place & 1]
