"""Short messages: signed, with a way out in each advertisement, and advertising only by day (CONVENTIONS 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from prometheus_client import Counter

from chassis.consents import MESSAGES
from chassis.db import Reader
from services.touchpoints.channels import gateway
from services.touchpoints.channels.contract import Lookup, Plan, Push
from services.touchpoints.channels.forms import Field, Form
from services.touchpoints.channels.http import Caller
from services.touchpoints.channels.sms import balances, text
from services.touchpoints.channels.sms.balances import Balances
from services.touchpoints.channels.sms.providers import PROVIDERS, Message
from services.touchpoints.domain.deliveries import Delivery, Outcome, Refused
from services.touchpoints.endpoints import Endpoint

SEGMENTS = Counter("touchpoints_sms_segments_total", "Parts of short messages handed to providers.", ["purpose"])
MARKETING = "marketing"
WINDOW, ZONE, MOST_SEGMENTS = "09:00-21:00", "Asia/Shanghai", 5


def _window(value: str) -> str:
    try:
        text.Window.of(value, "UTC")
    except ValueError as error:
        return str(error)
    return ""


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError):
        return "is no time zone"
    return ""


FORM = Form(
    Field("scope", "marketing or service, which carriers keep apart, or all", pattern="marketing|service|all"),
    settings=(
        Field("signature", "the registered signature, without 【】", pattern="[^【】\\s]{1,20}"),
        Field("provider", "who carries it: " + ", ".join(PROVIDERS), required=False, pattern="|".join(PROVIDERS)),
        Field("ending", f"how advertising ends; without it {text.ENDING}", required=False, pattern=".{2,20}"),
        Field("window", f"hours for advertising; without it {WINDOW}", required=False, check=_window),
        Field("time_zone", f"the clock of these hours; without it {ZONE}", required=False, check=_zone),
        Field("most_segments", f"the longest message in parts; without it {MOST_SEGMENTS}", required=False, pattern="[1-9]|10"),
        Field("words", "replies that mean no, with commas between; they are added to the usual ones", required=False),
    ),
    secrets=(Field("api_key", "the gateway's key"),),
    signed=True,
)


class SmsChannel:
    """An account for each purpose, or one for all."""

    remembers_s = gateway.REMEMBERS_S

    def __init__(self, caller: Caller) -> None:
        self._providers = {name: make(caller) for name, make in PROVIDERS.items()}
        self._balances = Balances()

    @property
    def memory(self) -> Balances:
        """What is left of what was paid for."""
        return self._balances

    async def credits(self, reader: Reader) -> Mapping[str, int]:
        """Parts of messages that are still paid for, by account, where the gateway tells."""
        return await balances.read(reader)

    def forbids(self, delivery: Delivery) -> str:
        """Nothing beyond consent."""
        return "" if delivery.body.strip() else "no_text"

    def plan(self, deliveries: Sequence[Delivery], endpoints: Sequence[Endpoint]) -> Plan:
        """To the account of the purpose, else the one for all; advertising waits for the day."""
        by_scope, plan, now = {e.scope: e for e in endpoints}, Plan(), datetime.now(UTC)
        accounts = {purpose: by_scope.get(purpose) or by_scope.get("all") for purpose in MESSAGES}
        routes = []
        for delivery in deliveries:
            endpoint = accounts.get(delivery.purpose)
            if endpoint is None:
                plan.unroutable[delivery.delivery_id] = "no_endpoint"
            elif delivery.purpose == MARKETING and (wait := window_of(endpoint).wait_s(now)) > 0:
                plan.waits[delivery.delivery_id] = wait
            else:
                routes.append((delivery, endpoint))
        if routes:
            plan.lookups.append(Lookup("mobile", "", tuple(routes)))
        return plan

    async def send(self, push: Push) -> Outcome:
        """One message, whole and signed, or the reason why it can never go."""
        delivery, settings = push.delivery, push.endpoint.settings
        signature = settings["signature"]
        if text.signature_in(delivery.body) not in ("", signature):
            return Refused("signature_not_registered")
        marketing = delivery.purpose == MARKETING
        whole = text.composed(delivery.body, signature, settings.get("ending", text.ENDING), marketing)
        segments = text.length(whole).segments
        if segments > int(settings.get("most_segments", MOST_SEGMENTS)):
            return Refused("text_too_long")
        SEGMENTS.labels(delivery.purpose).inc(segments)
        provider = self._providers[settings.get("provider", "http")]
        message = Message(delivery.delivery_id, push.address, whole, delivery.purpose, segments)
        outcome, left = await provider.send(push.endpoint, message)
        if isinstance(push.grant, balances.Told):
            push.grant.left = left
        return outcome


def window_of(endpoint: Endpoint) -> text.Window:
    """When an account may carry advertising."""
    return text.Window.of(endpoint.settings.get("window", WINDOW), endpoint.settings.get("time_zone", ZONE))


def words_of(endpoint: Endpoint) -> frozenset[str]:
    """Replies to an account that mean no."""
    own = endpoint.settings.get("words", "").split(",")
    return text.NO_WORDS | {word.strip().casefold() for word in own if word.strip()}
