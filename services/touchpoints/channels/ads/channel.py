"""Advertising platforms: lists of hashes are kept up beside the engine (uploading.py), conversions go through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson

from services.touchpoints.channels import gateway
from services.touchpoints.channels.ads import platforms
from services.touchpoints.channels.ads.platforms import PLATFORMS, Conversion
from services.touchpoints.channels.contract import Memory, Plan, Push
from services.touchpoints.channels.forms import CODE, Field, Form
from services.touchpoints.channels.http import Caller
from services.touchpoints.domain.deliveries import Delivery, Outcome, Refused
from services.touchpoints.endpoints import Endpoint
from services.touchpoints.vault import Vault

# The kind of a delivery that tells a platform of a goal.
CONVERSION = "ads.conversion"
KINDS, WINDOW_DAYS, CHUNK = "mobile,device", 30, 2000
_EVENTS = r"[^,\x00-\x1f\x7f]{1,100}(,[^,\x00-\x1f\x7f]{1,100}){0,19}"

FORM = Form(
    Field("scope", "the advertiser's account, one endpoint each", pattern=CODE),
    settings=(
        Field("platform", "whose contract it is: " + ", ".join(PLATFORMS), required=False, pattern="|".join(PLATFORMS)),
        Field("digest", "how identifiers are hashed: sha256 or md5; without it sha256", required=False, pattern="sha256|md5"),
        Field(
            "mobile_form",
            "how a mobile number is written before: e164, digits or national; without it national",
            required=False,
            pattern="e164|digits|national",
        ),
        Field(
            "kinds",
            f"what is hashed: mobile, email, device, with commas between; without it {KINDS}",
            required=False,
            pattern="(mobile|email|device)(,(mobile|email|device)){0,2}",
        ),
        Field("device_case", "lower or upper, before hashing; without it lower", required=False, pattern="lower|upper"),
        Field("chunk", f"hashes in one call; without it {CHUNK}", required=False, pattern="[1-9][0-9]{0,4}"),
        Field("media", "the `media` of clicks that are this account's; without it its scope", required=False),
        Field(
            "conversions", "events that it is told of when they follow a click, with commas", required=False, pattern=_EVENTS
        ),
        Field(
            "window_days",
            f"how many days after the click; without it {WINDOW_DAYS}",
            required=False,
            pattern="[1-9]|[1-8][0-9]|90",
        ),
    ),
    secrets=(Field("api_key", "the account's key at the platform"),),
)


class AdsChannel:
    """Tells platforms of conversions. People are reached through lists, never by a push of their own."""

    remembers_s = gateway.REMEMBERS_S
    memory: Memory | None = None

    def __init__(self, caller: Caller, vault: Vault) -> None:
        self._platforms, self._vault = platforms.platforms(caller), vault

    def forbids(self, delivery: Delivery) -> str:
        """Nothing beyond consent."""
        return ""

    def plan(self, deliveries: Sequence[Delivery], endpoints: Sequence[Endpoint]) -> Plan:
        """A conversion goes to the account whose advertisement was clicked."""
        by_name, plan = {endpoint.name: endpoint for endpoint in endpoints}, Plan()
        for delivery in deliveries:
            if delivery.kind != CONVERSION:
                plan.unroutable[delivery.delivery_id] = "ads_take_lists"
            elif endpoint := by_name.get(_details(delivery).get("endpoint", "")):
                plan.direct.append((delivery, endpoint))
            else:
                plan.unroutable[delivery.delivery_id] = "no_endpoint"
        return plan

    async def send(self, push: Push) -> Outcome:
        """One conversion under the click's number."""
        delivery, details = push.delivery, _details(push.delivery)
        click_id = unsealed(self._vault, details)
        if not click_id:
            return Refused("no_click")
        conversion = Conversion(delivery.delivery_id, click_id, details["event"], delivery.decided_at)
        return await platforms.named(self._platforms, push.endpoint).convert(push.endpoint, conversion)


def sealed_details(endpoint: str, event: str, sealed_click: bytes) -> str:
    """What a conversion's delivery carries; the click's number stays sealed."""
    return orjson.dumps({"endpoint": endpoint, "event": event, "click": sealed_click.hex()}).decode()


def unsealed(vault: Vault, details: Mapping[str, str]) -> str:
    """The click's number; empty for none."""
    return vault.show(bytes.fromhex(details.get("click", "")), place(details.get("endpoint", "")))


def place(endpoint: str) -> str:
    """Where clicks of an account are sealed for."""
    return f"ads/{endpoint}/click"


def _details(delivery: Delivery) -> dict[str, str]:
    return orjson.loads(delivery.details or "{}")  # type: ignore[no-any-return]
