"""Who of a batch may go now: hours, circuits, rates, turns and caps; in the same transaction the attempts that will be made.

Everything here may be asked again after a crash at any line. Consent is not asked here but after this has committed, as the
last thing before the call (sender.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from chassis.db import Database, UnitOfWork
from chassis.quiet_hours import QuietHours, zone_of
from services.touchpoints import events
from services.touchpoints.channels.contract import Channel, Denied, Push
from services.touchpoints.domain import deliveries as domain
from services.touchpoints.domain.deliveries import Change, Delivery, State
from services.touchpoints.endpoints import Endpoint
from services.touchpoints.engine import circuits, rates, store
from services.touchpoints.engine.circuits import Circuit, Standing
from services.touchpoints.engine.rates import Rate
from services.touchpoints.engine.routing import ENDPOINT_DISABLED, Route, Routed
from services.touchpoints.engine.store import TURN, Attempt, Hold, Wait
from services.touchpoints.events import Update

# Why a push is parked, and why one waits.
ENDPOINT_FAILING = "endpoint_failing"
QUIET_HOURS, FREQUENCY_CAP, ENDPOINT_WAITS, RATE_LIMIT, NO_ADDRESSES = (
    "quiet_hours", "frequency_cap", "endpoint_waits", "rate_limit", "addresses_unavailable",
)  # fmt: skip
ADDRESSES_RETRY_S = 2.0
# Two pushes to one person in one batch: the second one sees what became of the first.
NEXT_S = 1.0
CROWDED_S = 2.0


@dataclass(frozen=True)
class Limits:
    """Settings of the engine. `providers`: pushes a second by channel."""

    lease_s: float
    park_after_s: float
    providers: Mapping[str, float]


@dataclass
class Sorted:
    """A batch on its way through the questions: who still goes, who waits, who is held."""

    going: list[Route]
    waits: list[Wait] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)

    def put_off(self, seconds: Mapping[str, float], reason: str, *, slot: bool = False) -> None:
        """Lets some of those who still go wait."""
        self.waits += [Wait(name, wait, reason, slot) for name, wait in seconds.items()]
        self.going = [route for route in self.going if route.delivery.delivery_id not in seconds]


class Admission:
    """Lets pushes through."""

    def __init__(
        self,
        database: Database,
        channels: Mapping[domain.Channel, Channel],
        limits: Limits,
        crowded: Callable[[str], bool],
    ) -> None:
        """`crowded`: whether this process waits for too many slow calls of an endpoint."""
        self._database, self._channels, self._limits, self._crowded = database, channels, limits, crowded

    async def admit(self, routed: Routed, known: Sequence[Change]) -> list[tuple[Push, int]]:
        """The calls that are to be made, each with its count. `known`: what is known of earlier calls of others."""
        batch = Sorted(routed.routes)
        batch.put_off(_quiet(batch.going), QUIET_HOURS)
        batch.waits += [Wait(name, ADDRESSES_RETRY_S, NO_ADDRESSES) for name in routed.unasked]
        batch.waits += [Wait(name, wait, ENDPOINT_WAITS) for name, wait in routed.waits.items()]
        probes = await self._by_circuit(batch)
        await self._by_rate(batch)
        async with self._database.transaction(traced=False) as uow:
            if probes:
                await self._by_probe(uow, batch, probes)
            # Caps before turns: whoever waits for days must not have the turn meanwhile.
            await _by_cap(uow, batch)
            if any(ordered(route.endpoint) for route in batch.going):
                await _by_turn(uow, batch)
            pushes = await self._by_memory(uow, routed, batch)
            await self._without_a_call(uow, routed, known, batch)
            attempts = [Attempt(name, push.endpoint.name, push.anchor_id) for name, push in pushes.items()]
            begun = await store.begin(uow, attempts, self._limits.lease_s) if attempts else {}
        return [(pushes[name], count) for name, count in begun.items()]

    async def _by_memory(self, uow: UnitOfWork, routed: Routed, batch: Sorted) -> dict[str, Push]:
        """The pushes that are left, with what their channels' memories grant; those denied count as without an address."""
        pushes = {
            r.delivery.delivery_id: Push(r.delivery, r.endpoint, r.address.value, r.address.anchor_id) for r in batch.going
        }
        for number, channel in self._channels.items():
            theirs = [push for push in pushes.values() if push.delivery.channel is number]
            if channel.memory is None or not theirs:
                continue
            for name, grant in (await channel.memory.take(uow, theirs)).items():
                if isinstance(grant, Denied):
                    routed.nowhere[name], routed.ends[name] = grant.reason, grant.state
                    del pushes[name]
                else:
                    pushes[name] = replace(pushes[name], grant=grant)
        return pushes

    async def _by_circuit(self, batch: Sorted) -> dict[str, float]:
        """Sorts by circuits; returns the endpoints that one may be tried at."""
        names = sorted({route.endpoint.name for route in batch.going})
        if crowded := {name for name in names if self._crowded(name)}:
            theirs = (route.delivery.delivery_id for route in batch.going if route.endpoint.name in crowded)
            batch.put_off(dict.fromkeys(theirs, CROWDED_S), ENDPOINT_WAITS)
        known = await circuits.read(self._database, names) if names else {}
        if not known:
            return {}
        going, probes = [], {}
        for route in batch.going:
            name, push = route.endpoint.name, route.delivery.delivery_id
            match known.get(name, Circuit()).standing(self._park_after_s(route)):
                case (Standing.WAIT, wait):
                    batch.waits.append(Wait(push, wait, ENDPOINT_WAITS))
                case (Standing.PARK, _):
                    batch.holds.append(Hold(push, ENDPOINT_FAILING, name))
                case (standing, _):
                    if standing is Standing.PROBE:
                        probes[name] = known[name].opened_s or 0.0
                    going.append(route)
        batch.going = going
        return probes

    def _park_after_s(self, route: Route) -> float:
        """Notices are tried for as long as they live, whatever others are spared."""
        return math.inf if route.delivery.kind in domain.NOTICES else self._limits.park_after_s

    async def _by_rate(self, batch: Sorted) -> None:
        buckets: dict[str, Rate] = {}
        wanted = []
        for route in sorted(batch.going, key=lambda each: each.claimed.arrived):
            if route.claimed.booked:
                continue
            names = []
            if (rate := rate_of(route.endpoint)) is not None:
                names.append(f"endpoint/{route.endpoint.name}")
                buckets[names[-1]] = rate
            if per_s := self._limits.providers.get(route.delivery.channel.label):
                names.append(f"provider/{route.delivery.channel.label}")
                buckets[names[-1]] = Rate(per_s, per_s)
            if names:
                wanted.append((route.delivery.delivery_id, names))
        if wanted:
            batch.put_off(await rates.book(self._database, wanted, buckets), RATE_LIMIT, slot=True)

    async def _by_probe(self, uow: UnitOfWork, batch: Sorted, probes: Mapping[str, float]) -> None:
        """Of each endpoint that may be tried one push goes, at one replica; the others wait or are parked."""
        free = await circuits.probe(uow, list(probes), self._limits.lease_s)
        going = []
        for route in batch.going:
            name, push = route.endpoint.name, route.delivery.delivery_id
            if name not in probes:
                going.append(route)
            elif name in free:
                free.discard(name)
                going.append(route)
            elif probes[name] > self._park_after_s(route):
                batch.holds.append(Hold(push, ENDPOINT_FAILING, name))
            else:
                batch.waits.append(Wait(push, circuits.COOL_S, ENDPOINT_WAITS))
        batch.going = going

    async def _without_a_call(self, uow: UnitOfWork, routed: Routed, known: Sequence[Change], batch: Sorted) -> None:
        by_id = routed.by_id
        changes = [*known, *(_ended(by_id[name], State.SUPPRESSED, why) for name, why in routed.forbidden.items())]
        changes += [
            self._nowhere(by_id[name], why, routed.ends.get(name, State.FAILED)) for name, why in routed.nowhere.items()
        ]
        for name, endpoint in routed.disabled.items():
            change = self._nowhere(by_id[name], ENDPOINT_DISABLED, State.FAILED)
            if change.state is State.QUEUED:
                changes.append(change)
            else:
                batch.holds.append(Hold(name, ENDPOINT_DISABLED, endpoint))
        if batch.waits:
            await store.defer(uow, batch.waits)
        if batch.holds:
            await store.hold(uow, batch.holds)
        if changes:
            await conclude(uow, changes)

    def _nowhere(self, delivery: Delivery, reason: str, ends: State) -> Change:
        if ends is State.SENDING:
            # No second call is made; the channel's time is what is left for word of the first one.
            left = self._channels[delivery.channel].remembers_s - (delivery.unsure_s or 0.0)
            return replace(_ended(delivery, ends, reason), due_in_s=max(left, 1.0))
        return domain.unsent(delivery, reason, delivery.attempts, sure=delivery.unsure_s is None, ends=ends)


def _ended(delivery: Delivery, state: State, reason: str) -> Change:
    return Change(delivery.delivery_id, state, reason, attempts=delivery.attempts, channel=delivery.channel)


async def conclude(uow: UnitOfWork, changes: Sequence[Change]) -> None:
    """Writes what became of pushes and tells the others."""
    if others := [each for each in changes if each.state is State.QUEUED]:
        await store.fall_back(uow, others)
    if ended := [each for each in changes if each.state is not State.QUEUED]:
        updates = [Update(each.delivery_id, each.state, each.reason, each.at) for each in await store.conclude(uow, ended)]
        for payload in events.update_batches(updates):
            uow.publish(events.UPDATED, payload)


def ordered(endpoint: Endpoint) -> bool:
    """Whether it takes one push at a time."""
    return endpoint.settings.get("order") == "ordered"


def rate_of(endpoint: Endpoint) -> Rate | None:
    """How many pushes a second an endpoint takes; None for any number."""
    given = endpoint.settings.get("rate_per_s", "")
    return Rate(float(given), max(1.0, float(endpoint.settings.get("burst") or given))) if given else None


def _quiet(routes: Sequence[Route]) -> dict[str, float]:
    """Seconds until quiet hours end, of pushes that would come within them; a dealer works off a list in the dealer's hours."""
    found: dict[str, float] = {}
    for route in routes:
        if route.delivery.channel is domain.Channel.DEALER:
            continue
        if route.delivery.quiet_hours and (hours := _hours(route.delivery.quiet_hours, route.delivery.time_zone)):
            at = route.claimed.at
            if (end := hours.earliest(at)) > at:
                found[route.delivery.delivery_id] = (end - at).total_seconds()
    return found


@lru_cache(maxsize=1000)
def _hours(window: str, zone: str) -> QuietHours | None:
    known = zone_of(zone)
    return QuietHours.parse(window, known) if known else None


async def _by_turn(uow: UnitOfWork, batch: Sorted) -> None:
    asked = [(r.endpoint.name, r.delivery.delivery_id, r.claimed.arrived) for r in batch.going if ordered(r.endpoint)]
    theirs = await store.take_turns(uow, asked)
    batch.holds += [Hold(push, TURN, name) for name, push, _ in asked if push not in theirs]
    held = {push for _, push, _ in asked} - theirs
    batch.going = [route for route in batch.going if route.delivery.delivery_id not in held]


async def _by_cap(uow: UnitOfWork, batch: Sorted) -> None:
    going = [route.delivery for route in batch.going if route.delivery.caps and route.delivery.attempts == 0]
    if not going:
        return
    closed = await store.capped(uow, going)
    seen: set[int] = set()
    for delivery in going:
        if delivery.delivery_id not in closed:
            if delivery.person_id in seen:
                closed[delivery.delivery_id] = NEXT_S
            seen.add(delivery.person_id)
    batch.put_off(closed, FREQUENCY_CAP)
