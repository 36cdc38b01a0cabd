"""Push through the app's own backend: Standard Webhook `message.push`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from services.touchpoints import webhooks
from services.touchpoints.channels.contract import Lookup, Plan, Push
from services.touchpoints.channels.forms import Form
from services.touchpoints.channels.http import REMEMBERS_S, Caller
from services.touchpoints.domain.deliveries import Delivery, Outcome
from services.touchpoints.endpoints import Endpoint
from services.touchpoints.optouts.links import Links

FORM = Form(signed=True)


class AppChannel:
    """One app, one backend."""

    memory = None
    remembers_s = REMEMBERS_S

    def __init__(self, caller: Caller, app_source: str, links: Links) -> None:
        self._caller, self._source, self._links = caller, app_source, links

    def forbids(self, delivery: Delivery) -> str:
        """The app is the maker's own: nothing beyond consent."""
        return ""

    def plan(self, deliveries: Sequence[Delivery], endpoints: Sequence[Endpoint]) -> Plan:
        """All go to the one backend, addressed by the app's own customer number."""
        if not endpoints:
            return Plan(unroutable={d.delivery_id: "no_endpoint" for d in deliveries})
        return Plan([Lookup("crm_id", self._source, tuple((d, endpoints[0]) for d in deliveries))])

    async def send(self, push: Push) -> Outcome:
        """One webhook; the backend shows each webhook-id once."""
        delivery = push.delivery
        body = {
            "delivery_id": delivery.delivery_id,
            "app_user_id": push.address,
            "theme": delivery.theme,
            "offer": delivery.offer,
            "title": delivery.title,
            "body": delivery.body,
            "purpose": delivery.purpose,
            # The law wants a way out with every message, without login.
            "unsubscribe_url": self._links.unsubscribe(delivery),
            "preferences_url": self._links.preferences(delivery),
        }
        payload = webhooks.envelope("message.push", body, datetime.now(UTC))
        return await self._caller.webhook(push.endpoint.url, push.endpoint.secret, f"msg_{delivery.delivery_id}", payload)
