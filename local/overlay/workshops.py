"""Sales and service visits as dealers report them, and which dealer really serves each car; a random stream of its own."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from local.overlay.identifiers import Ints, message_id
from local.overlay.plan import FIRST_DEALER
from local.overlay.times import DAY, RECORDS_END, RECORDS_START, stamps
from local.overlay.world import World
from local.overlay.writing import Writer

VEHICLE_SOLD: Final = "Vehicle Sold"
SERVICE_COMPLETED: Final = "Service Completed"
_STREAM: Final = 6  # the world, behaviour and homes take the streams before
_DAYS_BETWEEN_VISITS: Final = 240


@dataclass(frozen=True)
class Workshops:
    """`seller` and `serving` per car: dealers, -1 for none. The other columns run over events, ordered by dealer, time."""

    seller: Ints
    serving: Ints
    vehicle: Ints
    dealer: Ints
    record: Ints  # row of the plan: the owner's file at that dealer
    sale: npt.NDArray[np.bool_]
    at: Ints


def draw_workshops(world: World) -> Workshops:
    """A car is sold where its owner's file is; with files at two dealers it went over to the second at some time."""
    rng = np.random.default_rng(np.random.SeedSequence(world.seed, spawn_key=(_STREAM,)))
    people, cars, rates = world.people, world.vehicles, world.rates
    files = _files(world)
    seller, serving = np.full(len(cars), -1, dtype=np.int64), np.full(len(cars), -1, dtype=np.int64)
    rows: list[tuple[int, int, int, bool, int]] = []
    step = people.cities if people.dealers > people.cities else 1
    for car in sorted(files):
        first, *rest = sorted(files[car])
        # The second dealer is the next one of the city, or of the network where the city has but one.
        if rest and (rest[0] + step) % people.dealers == first:
            first, rest = rest[0], [first]
        seller[car] = first
        sold = int(cars.sold[car]) * DAY
        if sold >= RECORDS_START:
            rows.append((car, first, files[car][first], True, sold + int(rng.integers(0, DAY))))
        begin = max(sold + DAY, RECORDS_START)
        turn = int(rng.integers(begin, RECORDS_END)) if rest else RECORDS_END
        stays = True
        at = begin + int(rng.exponential(_DAYS_BETWEEN_VISITS) * DAY)
        while at < RECORDS_END:
            here = first if at < turn else rest[0]
            stray = bool(rest) and rng.random() < rates.visit_elsewhere
            where = (rest[0] if here == first else first) if stray else here
            rows.append((car, where, files[car][where], False, at))
            # A car is served where it last went of its own will.
            if not stray:
                serving[car], stays = here, False
            at += DAY + int(rng.exponential(_DAYS_BETWEEN_VISITS) * DAY)
        if stays:
            serving[car] = -1
    columns = np.array(rows, dtype=np.int64).reshape(-1, 5).T
    order = np.lexsort((columns[0], columns[4], columns[1]))
    vehicle, dealer, record, sale, at_s = columns[:, order]
    return Workshops(seller, serving, vehicle, dealer, record, sale.astype(np.bool_), at_s)


def _files(world: World) -> dict[int, dict[int, int]]:
    """Car → dealer → the first row of its owner's files there."""
    plan, cars = world.plan, world.vehicles
    mine = np.flatnonzero(plan.at_dealer & (plan.vehicle >= 0) & (plan.person == cars.owner_of(plan.vehicle)))
    files: defaultdict[int, dict[int, int]] = defaultdict(dict)
    for row, car, source in zip(mine.tolist(), plan.vehicle[mine].tolist(), plan.source[mine].tolist(), strict=True):
        files[car].setdefault(source - FIRST_DEALER, row)
    return dict(files)


def workshop_events(source: int, workshops: Workshops, world: World, writer: Writer) -> Iterator[dict[str, Any]]:
    """What one dealer reports of sales and visits, Segment track calls in order of time."""
    plan, cars = world.plan, world.vehicles
    first, last = np.searchsorted(workshops.dealer, [source - FIRST_DEALER, source - FIRST_DEALER + 1]).tolist()
    times = stamps(workshops.at[first:last])
    for stamp, at in zip(times, range(first, last), strict=True):
        row = int(workshops.record[at])
        yield {
            "type": "track",
            "messageId": message_id(world.seed, "workshop", at),
            "userId": writer.record_id(source, int(plan.person[row]), int(plan.number[row])),
            "event": VEHICLE_SOLD if workshops.sale[at] else SERVICE_COMPLETED,
            "timestamp": stamp,
            "properties": {"vin": cars.vin[workshops.vehicle[at]].decode()},
        }
