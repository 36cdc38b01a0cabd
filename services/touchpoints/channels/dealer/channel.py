"""Dealers: Standard Webhooks `lead.assigned` and its companions (CONVENTIONS 5.3), without a phone number in them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import orjson

from services.touchpoints import webhooks
from services.touchpoints.channels.contract import Lookup, Memory, Plan, Push
from services.touchpoints.channels.dealer import bodies
from services.touchpoints.channels.dealer.bodies import Customer
from services.touchpoints.channels.forms import CODE, Field, Form
from services.touchpoints.channels.http import REMEMBERS_S, Caller
from services.touchpoints.domain import dealers, deliveries
from services.touchpoints.domain.deliveries import NOTICES, Delivery, Outcome
from services.touchpoints.endpoints import Endpoint
from services.touchpoints.vault import Vault

FORM = Form(Field("scope", "the dealer's code", pattern=CODE), signed=True)


class DealerChannel:
    """Each dealer has an endpoint whose scope is the dealer's code."""

    remembers_s = REMEMBERS_S
    memory: Memory | None = None

    def __init__(self, caller: Caller, vault: Vault, public_url: str, contact_hours: float, default_endpoint: str) -> None:
        self._caller, self._vault = caller, vault
        self._contacts = public_url.rstrip("/") + "/contacts/"
        self._contact_life = timedelta(hours=contact_hours)
        self._default = default_endpoint

    def forbids(self, delivery: Delivery) -> str:
        """Nothing beyond consent."""
        return ""

    def plan(self, wanted: Sequence[Delivery], endpoints: Sequence[Endpoint]) -> Plan:
        """To the dealer who serves the person, else to the default; the address is a mobile number."""
        by_code = {e.scope: e for e in endpoints}
        default = next((e for e in endpoints if e.name == self._default), None)
        routes = {d.delivery_id: by_code.get(d.dealer_code) or default for d in wanted}
        routed = [(d, endpoint) for d in wanted if (endpoint := routes[d.delivery_id])]
        plan = Plan(unroutable={name: "no_dealer" for name, endpoint in routes.items() if endpoint is None})
        unwanted = [d.delivery_id for d, endpoint in routed if not endpoint.wants(d.kind or deliveries.ASSIGNED)]
        plan.unroutable |= dict.fromkeys(unwanted, "event_type_off")
        routed = [(d, endpoint) for d, endpoint in routed if d.delivery_id not in plan.unroutable]
        plan.direct = [(d, endpoint) for d, endpoint in routed if d.kind in NOTICES]
        if people := tuple((d, endpoint) for d, endpoint in routed if d.kind not in NOTICES):
            plan.lookups.append(Lookup("mobile", "", people))
        return plan

    async def send(self, push: Push) -> Outcome:
        """One webhook; the number itself stays here until the dealer fetches it."""
        delivery, dealer = push.delivery, push.endpoint.scope
        details = orjson.loads(delivery.details or "{}")
        match delivery.kind:
            case deliveries.WITHDRAWN:
                data = bodies.withdrawn_lead(details, dealer)
            case deliveries.ERASED:
                data = bodies.erased_customer(details, dealer)
            case deliveries.CONSENT:
                data = bodies.changed_consent(details, self._reference(dealer, delivery), dealer)
            case deliveries.ASSIGNED | deliveries.REASSIGNED:
                data = bodies.given_lead(details, dealer, self._customer(dealer, delivery))
            case _:
                customer = self._customer(dealer, delivery)
                data = bodies.pushed_lead(
                    delivery.delivery_id, dealer, customer, delivery.theme, delivery.score, delivery.rank, delivery.reasons
                )
        payload = webhooks.envelope(delivery.kind or deliveries.ASSIGNED, data, datetime.now(UTC))
        return await self._caller.webhook(push.endpoint.url, push.endpoint.secret, f"msg_{delivery.delivery_id}", payload)

    def _customer(self, dealer: str, delivery: Delivery) -> Customer:
        # From the decision on, so that each retry carries the same deadline.
        expires = delivery.decided_at + self._contact_life
        token = self._vault.token(delivery.delivery_id, int(expires.timestamp()))
        return Customer(self._reference(dealer, delivery), self._contacts + token, expires)

    def _reference(self, dealer: str, delivery: Delivery) -> str:
        return self._vault.reference(dealers.name_of(dealer), delivery.person_id)
