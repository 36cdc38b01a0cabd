"""Token buckets over all replicas: one statement books times for a whole batch, whatever endpoints and providers it goes to.

A bucket is one moment: until when its tokens are given away. Who asks for more than there are now is booked at the time when
their token will be there, and comes back then: a queue of 100,000 at ten a second is looked at twice, not over and over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chassis.db import Database

BOOK = """
    INSERT INTO bucket AS b (name, booked_until, burst_s)
    SELECT name, statement_timestamp() + make_interval(secs => wanted / rate - burst / rate), burst / rate
    FROM unnest($1::text[], $2::int[], $3::double precision[], $4::double precision[]) AS a(name, wanted, rate, burst)
    ORDER BY name
    ON CONFLICT (name) DO UPDATE SET burst_s = excluded.burst_s,
        booked_until = GREATEST(b.booked_until, statement_timestamp() - make_interval(secs => excluded.burst_s))
            + (excluded.booked_until - statement_timestamp()) + make_interval(secs => excluded.burst_s)
    RETURNING name, CAST(extract(epoch FROM booked_until - statement_timestamp()) AS double precision) AS until_s
"""


@dataclass(frozen=True)
class Rate:
    """So many a second in the long run, and so many at once."""

    per_s: float
    burst: float


async def book(database: Database, wanted: Sequence[tuple[str, Sequence[str]]], rates: Mapping[str, Rate]) -> dict[str, float]:
    """Of (push, its buckets) the seconds until each push may go; those that may at once, or have no bucket, are left out.

    In the order given. A booking that is not used is lost: a rate is never exceeded, whoever dies.
    """
    queues: dict[str, list[str]] = defaultdict(list)
    for push, names in wanted:
        for name in names:
            queues[name].append(push)
    if not queues:
        return {}
    names = sorted(queues)
    rows = await database.fetch(
        BOOK,
        names,
        [len(queues[name]) for name in names],
        [rates[name].per_s for name in names],
        [rates[name].burst for name in names],
    )
    waits: dict[str, float] = {}
    for row in rows:
        pushes, per_s = queues[row["name"]], rates[row["name"]].per_s
        for place, push in enumerate(pushes, 1):
            # The last one's token is there when the booking ends.
            wait = row["until_s"] - (len(pushes) - place) / per_s
            if wait > 0:
                waits[push] = max(wait, waits.get(push, 0.0))
    return waits
