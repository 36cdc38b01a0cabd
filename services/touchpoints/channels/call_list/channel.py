"""Calls by a call centre: pushes wait on a list that it fetches (lists.py); nothing is sent."""

from __future__ import annotations

from collections.abc import Sequence

from services.touchpoints.channels.contract import Lookup, Memory, Plan, Push
from services.touchpoints.channels.forms import CODE, Field, Form
from services.touchpoints.domain.deliveries import Accepted, Delivery, Outcome
from services.touchpoints.endpoints import Endpoint

FORM = Form(
    Field("scope", "the list's name at the call centre", pattern=CODE),
    settings=(
        Field("source", "the source whose write key opens the list, for example call_center", pattern="[A-Za-z0-9_:-]{1,96}"),
    ),
    # Never called: the call centre calls us.
    default_url="https://call-list.invalid",
    signed=True,
)


class CallListChannel:
    """One list per endpoint; of several the first by name takes everybody."""

    # Putting somebody on the list twice is the same as once.
    remembers_s = float("inf")
    memory: Memory | None = None

    def forbids(self, delivery: Delivery) -> str:
        """Nothing beyond consent, which is asked again when the list is fetched."""
        return ""

    def plan(self, deliveries: Sequence[Delivery], endpoints: Sequence[Endpoint]) -> Plan:
        """Only people with a number: the number itself stays in identity until somebody calls it."""
        if not endpoints:
            return Plan(unroutable={d.delivery_id: "no_endpoint" for d in deliveries})
        first = min(endpoints, key=lambda e: e.name)
        return Plan([Lookup("mobile", "", tuple((d, first) for d in deliveries))])

    async def send(self, push: Push) -> Outcome:
        """On the list."""
        return Accepted()
