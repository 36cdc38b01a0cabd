"""Circuits of endpoints, shared by all replicas through table `circuit`: who fails again and again is left alone for a while.

Closed: everything goes. Open: nothing goes until a moment; then one push tries (half open), and its outcome closes the circuit
or opens it for twice as long. Who is open for too long gets nothing more put in front of it: pushes are parked. A pause is what
a receiver asks for itself.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from chassis.db import Reader, UnitOfWork

# How long the first opening lasts; each further one lasts twice as long as the one before, up to the longest.
COOL_S: Final = 5.0
LONGEST_S: Final = 300.0

READ = """
    SELECT endpoint, CAST(extract(epoch FROM now() - opened_at) AS double precision) AS opened_s,
        CAST(extract(epoch FROM open_until - now()) AS double precision) AS open_s,
        CAST(extract(epoch FROM probe_until - now()) AS double precision) AS probe_s,
        CAST(extract(epoch FROM paused_until - now()) AS double precision) AS paused_s
    FROM circuit WHERE endpoint = ANY($1::text[])
"""
PROBE = """
    UPDATE circuit SET probe_until = now() + make_interval(secs => $2)
    WHERE endpoint IN (SELECT endpoint FROM circuit WHERE endpoint = ANY($1::text[]) AND open_until <= now()
        AND (probe_until IS NULL OR probe_until <= now()) ORDER BY endpoint FOR UPDATE)
        AND (probe_until IS NULL OR probe_until <= now())
    RETURNING endpoint
"""
CLOSE = """
    UPDATE circuit SET failures = 0, trips = 0, opened_at = NULL, open_until = NULL, probe_until = NULL
    WHERE endpoint = ANY($1::text[]) AND (failures > 0 OR opened_at IS NOT NULL)
"""
KNOW = """
    INSERT INTO circuit (endpoint) SELECT name FROM unnest($1::text[]) AS n(name) ORDER BY name ON CONFLICT DO NOTHING
"""
# What was called before it opened fails afterwards without opening it once more.
FAIL = """
    UPDATE circuit c SET failures = c.failures + n.failures,
        trips = CASE WHEN n.trips THEN c.trips + 1 ELSE c.trips END,
        opened_at = CASE WHEN n.trips THEN COALESCE(c.opened_at, now()) ELSE c.opened_at END,
        open_until = CASE WHEN n.trips THEN now() + make_interval(secs => LEAST($3 * power(2, LEAST(c.trips, 20)), $4) * $5)
            ELSE c.open_until END,
        probe_until = CASE WHEN n.trips THEN NULL ELSE c.probe_until END
    FROM (
        SELECT o.endpoint, f.failures,
            o.failures + f.failures >= $6 AND (o.open_until IS NULL OR o.open_until <= now()) AS trips
        FROM unnest($1::text[], $2::int[]) AS f(name, failures) JOIN circuit o ON o.endpoint = f.name
        ORDER BY o.endpoint FOR UPDATE OF o) AS n
    WHERE c.endpoint = n.endpoint RETURNING c.endpoint, n.trips
"""
PAUSE = """
    UPDATE circuit c SET paused_until = GREATEST(c.paused_until, now() + make_interval(secs => p.seconds)),
        pause_reason = p.reason
    FROM unnest($1::text[], $2::double precision[], $3::text[]) AS p(name, seconds, reason) WHERE c.endpoint = p.name
"""


class Standing(Enum):
    """What may be done with a push to an endpoint."""

    GO = auto()
    WAIT = auto()
    # One may try.
    PROBE = auto()
    PARK = auto()


@dataclass(frozen=True)
class Circuit:
    """Seconds since it opened first, until it may be tried, until who tries must know, until a pause ends; None for never."""

    opened_s: float | None = None
    open_s: float | None = None
    probe_s: float | None = None
    paused_s: float | None = None

    def standing(self, park_after_s: float) -> tuple[Standing, float]:
        """(what may be done, seconds to wait where one has to)."""
        if self.paused_s is not None and self.paused_s > 0:
            return Standing.WAIT, self.paused_s
        if self.opened_s is None:
            return Standing.GO, 0.0
        if (self.open_s is None or self.open_s <= 0) and (self.probe_s is None or self.probe_s <= 0):
            return Standing.PROBE, 0.0
        if self.opened_s > park_after_s:
            return Standing.PARK, 0.0
        return Standing.WAIT, max(self.open_s or 0.0, self.probe_s or 0.0)


@dataclass
class Heard:
    """What some calls to one endpoint came to."""

    accepted: int = 0
    failures: int = 0
    throttled: int = 0
    # Whether the receiver asked for the pause of the whole endpoint.
    paused: bool = False
    pause_s: float = 0.0
    pause_reason: str = ""


async def read(uow: Reader, endpoints: Sequence[str]) -> dict[str, Circuit]:
    """The circuits of endpoints; who never failed has none."""
    rows = await uow.fetch(READ, list(endpoints))
    return {row["endpoint"]: Circuit(row["opened_s"], row["open_s"], row["probe_s"], row["paused_s"]) for row in rows}


async def probe(uow: UnitOfWork, endpoints: Sequence[str], lease_s: float) -> set[str]:
    """Those of some endpoints that this transaction may try one push at."""
    return {row["endpoint"] for row in await uow.fetch(PROBE, sorted(endpoints), lease_s)}


async def note(uow: UnitOfWork, heard: Mapping[str, Heard], failures: int) -> list[str]:
    """Opens and closes circuits after calls; so many `failures` in a row open one. Returns whose opened now.

    Somebody who takes one push of a group takes pushes: only a group without any counts as failures.
    """
    if taken := sorted(name for name, each in heard.items() if each.accepted):
        await uow.fetch(CLOSE, taken)
    failing = sorted(name for name, each in heard.items() if each.failures and not each.accepted)
    pauses = sorted(name for name, each in heard.items() if each.pause_s > 0)
    if not failing and not pauses:
        return []
    await uow.fetch(KNOW, sorted({*failing, *pauses}))
    opened: list[str] = []
    if failing:
        counts = [heard[name].failures for name in failing]
        rows = await uow.fetch(FAIL, failing, counts, COOL_S, LONGEST_S, 1 + 0.2 * random.random(), failures)
        opened = [row["endpoint"] for row in rows if row["trips"]]
    if pauses:
        await uow.fetch(PAUSE, pauses, [heard[n].pause_s for n in pauses], [heard[n].pause_reason for n in pauses])
    return opened
