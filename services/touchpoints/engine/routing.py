"""Where each push of a batch would go, or why it goes nowhere: channels plan, identity knows addresses."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import grpc

from services.touchpoints.addresses import Address, Addresses
from services.touchpoints.channels.contract import Channel, Plan
from services.touchpoints.domain import deliveries as domain
from services.touchpoints.domain.deliveries import Delivery, State
from services.touchpoints.endpoints import Endpoint, Endpoints
from services.touchpoints.engine.store import Claimed

log = logging.getLogger(__name__)

NO_ADDRESS, OUTCOME_UNKNOWN, ENDPOINT_DISABLED = "no_address", "outcome_unknown", "endpoint_disabled"


@dataclass(frozen=True)
class Route:
    """A push with where it would go."""

    claimed: Claimed
    address: Address

    @property
    def delivery(self) -> Delivery:
        """The push."""
        return self.claimed.delivery

    @property
    def endpoint(self) -> Endpoint:
        """Where it would go."""
        return self.address.endpoint


@dataclass
class Routed:
    """A batch, sorted by what may become of it; every push is in one of these."""

    routes: list[Route] = field(default_factory=list)
    # Push → why its channel forbids it.
    forbidden: dict[str, str] = field(default_factory=dict)
    # Push → why there is nowhere to send it.
    nowhere: dict[str, str] = field(default_factory=dict)
    # Push → as what it ends there; those that are in none failed.
    ends: dict[str, State] = field(default_factory=dict)
    # Push → the endpoint it would go to, were that not disabled.
    disabled: dict[str, str] = field(default_factory=dict)
    # A call came to an end that nobody knows, and another one could be once too often.
    unknown: list[Claimed] = field(default_factory=list)
    # Push → seconds to wait, as its channel says.
    waits: dict[str, float] = field(default_factory=dict)
    # Nobody could be asked for addresses now.
    unasked: list[str] = field(default_factory=list)
    by_id: dict[str, Delivery] = field(default_factory=dict)

    def add(self, other: Routed) -> None:
        """Takes in another channel's part."""
        self.routes += other.routes
        self.forbidden |= other.forbidden
        self.nowhere |= other.nowhere
        self.disabled |= other.disabled
        self.unknown += other.unknown
        self.waits |= other.waits
        self.unasked += other.unasked


class Router:
    """Asks channels and identity."""

    def __init__(self, endpoints: Endpoints, addresses: Addresses, channels: Mapping[domain.Channel, Channel]) -> None:
        self._endpoints, self._addresses, self._channels = endpoints, addresses, channels

    async def route(self, claimed: Sequence[Claimed]) -> Routed:
        """Sorts a batch; no database session is open meanwhile."""
        by_channel: dict[domain.Channel, list[Claimed]] = defaultdict(list)
        for each in claimed:
            by_channel[each.delivery.channel].append(each)
        endpoints = await self._endpoints.all()
        routed = Routed(by_id={each.delivery.delivery_id: each.delivery for each in claimed})
        for part in await asyncio.gather(*(self._of_channel(n, batch, endpoints) for n, batch in by_channel.items())):
            routed.add(part)
        return routed

    async def _of_channel(self, number: domain.Channel, batch: Sequence[Claimed], endpoints: Sequence[Endpoint]) -> Routed:
        channel, routed = self._channels[number], Routed()
        wanted: dict[str, Claimed] = {}
        for each in batch:
            delivery = each.delivery
            if why := channel.forbids(delivery):
                routed.forbidden[delivery.delivery_id] = why
            elif delivery.unsure_s is not None and delivery.unsure_s >= channel.remembers_s:
                routed.unknown.append(each)
            else:
                wanted[delivery.delivery_id] = each
        if not wanted:
            return routed
        theirs = [endpoint for endpoint in endpoints if endpoint.channel is number]
        plan = channel.plan([each.delivery for each in wanted.values()], [e for e in theirs if not e.disabled])
        routed.waits = dict(plan.waits)
        try:
            found = await self._addresses.find(plan)
        except grpc.aio.AioRpcError as error:
            # Nothing was sent: no need to let the lease run out.
            log.warning("no addresses now", extra={"code": error.code().name, "pushes": len(wanted)})
            routed.unasked += [name for name in wanted if name not in plan.waits]
            return routed
        routed.routes += [Route(wanted[name], address) for name, address in found.items() if name not in plan.waits]
        lost = {n: plan.unroutable.get(n, NO_ADDRESS) for n in wanted if n not in found and n not in plan.waits}
        routed.disabled = _disabled(channel, [wanted[name].delivery for name in lost if name in plan.unroutable], theirs)
        routed.nowhere = {name: why for name, why in lost.items() if name not in routed.disabled}
        return routed


def _disabled(channel: Channel, deliveries: Sequence[Delivery], endpoints: Sequence[Endpoint]) -> dict[str, str]:
    """Where pushes that nobody takes would go, were nothing disabled."""
    if not deliveries or not any(endpoint.disabled for endpoint in endpoints):
        return {}
    plan: Plan = channel.plan(deliveries, endpoints)
    found: dict[str, str] = {}
    for routes in (plan.direct, *(lookup.routes for lookup in plan.lookups)):
        for delivery, endpoint in routes:
            found.setdefault(delivery.delivery_id, endpoint.name)
    return found
