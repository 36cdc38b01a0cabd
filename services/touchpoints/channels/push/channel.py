"""Notifications on phones, through whichever provider the person's devices have registered with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chassis.db import UnitOfWork
from services.touchpoints.channels.contract import Denied, Lookup, Plan, Push, Settled
from services.touchpoints.channels.forms import CODE, Field, Form
from services.touchpoints.channels.http import Caller
from services.touchpoints.channels.http2 import Http2
from services.touchpoints.channels.push import apns, tokens
from services.touchpoints.channels.push.apns import Apns
from services.touchpoints.channels.push.fcm import URL, Fcm, unsound
from services.touchpoints.channels.push.jpush import LIFE_S, REST_S, VENDORS, JPush
from services.touchpoints.channels.push.providers import Notification, Provider, Told, together
from services.touchpoints.channels.push.tokens import Dead, Token, Tokens
from services.touchpoints.domain.deliveries import Delivery, Outcome
from services.touchpoints.endpoints import Endpoint
from services.touchpoints.vault import Vault

# JPush knows a call's number for a day after it made it; it has lain here for an hour, and was noted an hour before the call.
REMEMBERS_S = LIFE_S - 2 * REST_S
# A person with more devices than this is a test bench.
MOST_DEVICES = 20

FORM = Form(
    Field("scope", "the app's name, as its devices register with it", pattern=CODE),
    settings=(
        Field("source", "the source whose crm_id is the app's user id; without it TROIKA_APP_SOURCE", required=False),
        Field("apns_team", "the team's id at Apple", required=False, pattern="[A-Z0-9]{10}"),
        Field("apns_key_id", "the id of the signing key", required=False, pattern="[A-Z0-9]{10}"),
        Field("apns_topic", "the app's bundle id", required=False, pattern="[A-Za-z0-9.-]{1,155}"),
        Field("apns_url", f"APNs' address; without it {apns.URL}", required=False, pattern="https?://[^ ]{1,200}"),
        Field(
            "apns_sandbox_url",
            f"the same for devices of the sandbox; without it {apns.SANDBOX_URL}",
            required=False,
            pattern="https?://[^ ]{1,200}",
        ),
        Field("fcm_project", "the Firebase project's id", required=False, pattern=CODE),
        Field("fcm_url", f"FCM's address; without it {URL}", required=False, pattern="https?://[^ ]{1,200}"),
        Field("jpush_app_key", "the application's AppKey at JPush", required=False, pattern=CODE),
        *(
            Field(f"{vendor}_{purpose}", f"how {vendor} phones sort {purpose}", required=False, pattern="[A-Za-z0-9_.-]{1,64}")
            for vendor in VENDORS
            for purpose in ("marketing", "service")
        ),
    ),
    secrets=(
        Field("jpush_master_secret", "the application's Master Secret at JPush", required=False),
        Field("apns_key", "the signing key, the text of its .p8 file", required=False, pattern=".{1,2000}", check=apns.unsound),
        Field("fcm_service_account", "the JSON key of the service account", required=False, pattern=".{1,8000}", check=unsound),
    ),
    default_url="https://api.jpush.cn",
)


@dataclass
class Grant:
    """A person's devices for one push, the call's number, and what came of it."""

    devices: Sequence[Token]
    call_id: str
    reached: list[int] = field(default_factory=list)
    dead: list[Dead] = field(default_factory=list)


class Devices:
    """What pushes must remember: tokens that work, and the number of each call."""

    def __init__(self, registry: Tokens, jpush: JPush, providers: Mapping[str, Provider], app_source: str) -> None:
        self._registry, self._jpush, self._providers, self._source = registry, jpush, providers, app_source

    async def take(self, uow: UnitOfWork, pushes: Sequence[Push]) -> Mapping[str, Any]:
        """The devices of each person that a provider of the endpoint serves; nobody's without any."""
        by_endpoint: dict[str, list[Push]] = defaultdict(list)
        for push in pushes:
            by_endpoint[push.endpoint.name].append(push)
        found: dict[str, Any] = {}
        for group in by_endpoint.values():
            endpoint = group[0].endpoint
            owners = {self._owner(push): push.anchor_id for push in group}
            served = {name for name, provider in self._providers.items() if provider.serves(endpoint)}
            known = await self._registry.of(uow, owners, endpoint.scope)
            theirs = {owner: [d for d in devices if d.provider in served][:MOST_DEVICES] for owner, devices in known.items()}
            numbers = await self._numbers(uow, endpoint, [push.delivery for push in group if theirs.get(self._owner(push))])
            for push in group:
                name, devices = push.delivery.delivery_id, theirs.get(self._owner(push))
                found[name] = Grant(devices, numbers.get(name, "")) if devices else Denied("no_device")
        return found

    async def _numbers(self, uow: UnitOfWork, endpoint: Endpoint, pushes: Sequence[Delivery]) -> dict[str, str]:
        """The number under which each push is called, the same for each attempt once one may have been taken."""
        if not self._jpush.serves(endpoint):
            return {}
        rows = await uow.rows(
            "SELECT delivery_id, call_id, made_at < now() - make_interval(secs => :rest) AS old FROM push_call"
            " WHERE delivery_id = ANY(CAST(:ids AS text[]))",
            ids=[push.delivery_id for push in pushes],
            rest=REST_S,
        )
        unsure = {push.delivery_id for push in pushes if push.unsure_s is not None}
        known = {row.delivery_id: row.call_id for row in rows if row.delivery_id in unsure or not row.old}
        wanted = [push.delivery_id for push in pushes if push.delivery_id not in known]
        fresh = {name: cid for name in wanted if (cid := self._jpush.cids.take(endpoint))}
        if fresh:
            await uow.execute(
                "INSERT INTO push_call (delivery_id, call_id, made_at) SELECT id, call, now()"
                " FROM unnest(CAST(:ids AS text[]), CAST(:calls AS text[])) AS f(id, call) ON CONFLICT (delivery_id)"
                " DO UPDATE SET call_id = excluded.call_id, made_at = excluded.made_at",
                ids=list(fresh),
                calls=list(fresh.values()),
            )
        return known | fresh

    async def settle(self, uow: UnitOfWork, settled: Sequence[Settled]) -> None:
        """Which devices were reached, and which are gone."""
        grants = [each.push.grant for each in settled if isinstance(each.push.grant, Grant)]
        reached = [number for grant in grants for number in grant.reached]
        dead = [each for grant in grants for each in grant.dead]
        if reached or dead:
            await tokens.note(uow, reached, dead)

    def _owner(self, push: Push) -> bytes:
        return self._registry.owner(push.endpoint.settings.get("source", self._source), push.address)


class PushChannel:
    """One endpoint per app; several apps are tried in the order of their names."""

    remembers_s = REMEMBERS_S

    def __init__(self, caller: Caller, http2: Http2, vault: Vault, app_source: str) -> None:
        self._source = app_source
        jpush = JPush(caller)
        self._providers: Mapping[str, Provider] = {tokens.JPUSH: jpush, tokens.FCM: Fcm(caller), tokens.APNS: Apns(http2)}
        self._devices = Devices(Tokens(vault), jpush, self._providers, app_source)

    @property
    def memory(self) -> Devices:
        """Tokens and numbers of calls."""
        return self._devices

    def forbids(self, delivery: Delivery) -> str:
        """A notification without words cannot be shown."""
        return "" if delivery.body.strip() else "no_text"

    def plan(self, deliveries: Sequence[Delivery], endpoints: Sequence[Endpoint]) -> Plan:
        """By the app's own customer number, whose devices have registered under it."""
        if not endpoints:
            return Plan(unroutable={d.delivery_id: "no_endpoint" for d in deliveries})
        ordered = sorted(endpoints, key=lambda e: e.name)
        return Plan(
            [
                Lookup("crm_id", endpoint.settings.get("source", self._source), tuple((d, endpoint) for d in deliveries))
                for endpoint in ordered
            ]
        )

    async def send(self, push: Push) -> Outcome:
        """One call to each provider that has a device of the person."""
        grant, notification = push.grant, Notification.of(push.delivery)
        groups: dict[str, list[Token]] = defaultdict(list)
        for token in grant.devices:
            groups[token.provider].append(token)
        told: list[Told] = []
        for name, devices in groups.items():
            told.append(await self._providers[name].send(push.endpoint, notification, devices, grant.call_id))
        for each in told:
            grant.reached += each.reached
            grant.dead += each.dead
        return together(told)
