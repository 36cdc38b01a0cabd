"""A personal call by a dealer: Standard Webhook `lead.assigned` (CONVENTIONS 5.3), without a phone number in it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from services.touchpoints import webhooks
from services.touchpoints.channels.contract import Lookup, Plan, Push
from services.touchpoints.channels.forms import CODE, Field, Form
from services.touchpoints.channels.http import REMEMBERS_S, Caller
from services.touchpoints.domain.deliveries import Delivery, Outcome
from services.touchpoints.endpoints import Endpoint
from services.touchpoints.vault import Vault

FORM = Form(Field("scope", "the dealer's code", pattern=CODE), signed=True)
SLA_S = 900
# Lower bounds of the score bands, the same as the tag score_band.
_BANDS = ((800, "A"), (600, "B"), (400, "C"))


class DealerChannel:
    """Each dealer has an endpoint whose scope is the dealer's code."""

    memory = None
    remembers_s = REMEMBERS_S

    def __init__(self, caller: Caller, vault: Vault, public_url: str, contact_hours: float, default_endpoint: str) -> None:
        self._caller, self._vault = caller, vault
        self._contacts = public_url.rstrip("/") + "/contacts/"
        self._contact_life = timedelta(hours=contact_hours)
        self._default = default_endpoint

    def forbids(self, delivery: Delivery) -> str:
        """Nothing beyond consent."""
        return ""

    def plan(self, deliveries: Sequence[Delivery], endpoints: Sequence[Endpoint]) -> Plan:
        """To the dealer who serves the person, else to the default; the address is a mobile number."""
        by_code = {e.scope: e for e in endpoints}
        default = next((e for e in endpoints if e.name == self._default), None)
        routes = {d.delivery_id: by_code.get(d.dealer_code) or default for d in deliveries}
        routed = tuple((d, endpoint) for d in deliveries if (endpoint := routes[d.delivery_id]))
        plan = Plan(unroutable={name: "no_dealer" for name, endpoint in routes.items() if endpoint is None})
        if routed:
            plan.lookups.append(Lookup("mobile", "", routed))
        return plan

    async def send(self, push: Push) -> Outcome:
        """One webhook; the number itself stays here until the dealer fetches it."""
        delivery, dealer, now = push.delivery, push.endpoint.scope, datetime.now(UTC)
        # From the decision on, so that each retry carries the same deadline.
        expires = delivery.decided_at + self._contact_life
        token = self._vault.token(delivery.delivery_id, int(expires.timestamp()))
        score = round(delivery.score)
        body = {
            "lead_id": delivery.delivery_id,
            "revision": 1,
            "dealer_code": dealer,
            "rank": delivery.rank,
            "sla_seconds": SLA_S,
            "customer": {
                "customer_ref": self._vault.reference(f"dealer:{dealer}", delivery.person_id),
                "contact_url": self._contacts + token,
                "contact_token_expires": expires.isoformat(timespec="seconds").replace("+00:00", "Z"),
            },
            "interest": {"kind": "test_drive"},
            "score": {"value": score, "band": next((band for floor, band in _BANDS if score >= floor), "D")},
            "reasons": list(delivery.reasons),
            "theme": delivery.theme,
            "consent": {"purposes": ["dealer_contact"], "withdrawn": False},
        }
        payload = webhooks.envelope("lead.assigned", body, now)
        return await self._caller.webhook(push.endpoint.url, push.endpoint.secret, f"msg_{delivery.delivery_id}", payload)
