"""Counts of calls in slices of ten seconds, kept by whoever calls, read over sliding windows by all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol

from chassis.db import Reader, UnitOfWork
from services.touchpoints.domain.deliveries import Accepted, Outcome, Retry
from services.touchpoints.domain.health import (
    BOUNDS_S,
    LEAST_CALLS,
    LEAST_SUCCESS,
    WINDOW_S,
    Condition,
    Health,
    Tally,
    of_channel,
)
from services.touchpoints.endpoints import Endpoint

NOTE = """
    INSERT INTO call_slice AS s (endpoint, slice, calls, accepted, failed, seconds, took)
    SELECT name, to_timestamp(floor(extract(epoch FROM now()) / 10) * 10), calls, accepted, failed, seconds,
        CAST(string_to_array(took, ',') AS int[])
    FROM unnest($1::text[], $2::int[], $3::int[], $4::int[], $5::double precision[], $6::text[])
        AS n(name, calls, accepted, failed, seconds, took) ORDER BY name
    ON CONFLICT (endpoint, slice) DO UPDATE SET calls = s.calls + excluded.calls, accepted = s.accepted + excluded.accepted,
        failed = s.failed + excluded.failed, seconds = s.seconds + excluded.seconds,
        took = ARRAY(SELECT a + b FROM unnest(s.took, excluded.took) AS t(a, b))
"""
READ = """
    SELECT endpoint, calls, accepted, failed, seconds, took FROM call_slice
    WHERE slice > now() - make_interval(secs => $1) AND slice <= now() + interval '1 minute'
"""
STANDING = """
    SELECT endpoint, open_until > now() AS open, paused_until > now() AS paused, pause_reason,
        opened_at IS NOT NULL AND open_until > now() - interval '1 minute' AS lately
    FROM circuit WHERE opened_at IS NOT NULL OR paused_until > now()
"""
# Of the provider's day, which begins in its own zone.
USED = """
    SELECT endpoint, sum(accepted)::bigint AS used FROM call_slice
    WHERE endpoint = ANY($1::text[]) AND slice >= date_trunc('day', now(), 'Asia/Shanghai') GROUP BY 1
"""


class Called(Protocol):
    """One call that has ended, whoever made it."""

    @property
    def endpoint(self) -> Endpoint:
        """Whom it went to."""

    @property
    def outcome(self) -> Outcome:
        """What came of it."""

    @property
    def seconds(self) -> float:
        """How long it took."""


async def note(uow: UnitOfWork, group: Sequence[Called]) -> None:
    """Counts calls that have ended."""
    tallies: defaultdict[str, Tally] = defaultdict(Tally)
    for each in group:
        tally = tallies[each.endpoint.name]
        tally.calls += 1
        tally.accepted += isinstance(each.outcome, Accepted)
        tally.failed += isinstance(each.outcome, Retry) and (each.outcome.faults_endpoint or each.outcome.pauses_endpoint)
        tally.seconds += each.seconds
        tally.took[next((n for n, bound in enumerate(BOUNDS_S) if each.seconds <= bound), len(BOUNDS_S))] += 1
    names = sorted(tallies)
    await uow.fetch(
        NOTE,
        names,
        [tallies[name].calls for name in names],
        [tallies[name].accepted for name in names],
        [tallies[name].failed for name in names],
        [tallies[name].seconds for name in names],
        [",".join(map(str, tallies[name].took)) for name in names],
    )


async def read(
    reader: Reader, endpoints: Sequence[Endpoint], permissions: Mapping[str, int], window_s: float = WINDOW_S
) -> tuple[list[Health], list[Health]]:
    """(of every endpoint, of every channel that has one); `permissions` for single pushes by endpoint."""
    tallies: defaultdict[str, Tally] = defaultdict(Tally)
    for row in await reader.fetch(READ, window_s):
        took = list(row["took"])
        if len(took) == len(BOUNDS_S) + 1:
            tallies[row["endpoint"]].add(Tally(row["calls"], row["accepted"], row["failed"], row["seconds"], took))
    standing = {row["endpoint"]: row for row in await reader.fetch(STANDING)}
    limited = [endpoint for endpoint in endpoints if endpoint.settings.get("daily_quota")]
    used = {row["endpoint"]: row["used"] for row in await reader.fetch(USED, [e.name for e in limited])} if limited else {}
    left = {e.name: max(0, int(e.settings["daily_quota"]) - used.get(e.name, 0)) for e in limited}
    found = []
    for endpoint in endpoints:
        name, tally = endpoint.name, tallies[endpoint.name]
        condition, reason = _condition(endpoint, tally, standing.get(name), left.get(name))
        found.append(Health(name, endpoint.channel, condition, reason, tally, left.get(name), permissions.get(name)))
    return found, [of_channel([each for each in found if each.channel is c]) for c in sorted({e.channel for e in endpoints})]


def _condition(
    endpoint: Endpoint, tally: Tally, circuit: Mapping[str, object] | None, left: int | None
) -> tuple[Condition, str]:
    told = [
        (endpoint.disabled, Condition.DISABLED, "endpoint_disabled"),
        (circuit is not None and circuit["paused"], Condition.PAUSED, str(circuit["pause_reason"]) if circuit else ""),
        (left == 0, Condition.PAUSED, "daily_quota"),
        (circuit is not None and (circuit["open"] or circuit["lately"]), Condition.FAILING, "calls_fail"),
        (tally.success is None, Condition.IDLE, ""),
        (tally.calls >= LEAST_CALLS and (tally.success or 0.0) < LEAST_SUCCESS, Condition.FAILING, "most_calls_fail"),
    ]
    return next(((condition, reason) for holds, condition, reason in told if holds), (Condition.WORKING, ""))
