"""Who clicked an advertisement and then reached a goal: the platform is told once, under the click's own number.

Clicks are kept by the anchor they came through, so that merges and parted persons need nothing; goals become deliveries of the
engine, which asks consent at the moment of telling. Only the last click before a goal, within the account's window, counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import blake2b
from typing import Any, Final

import orjson
from google.protobuf.message import DecodeError
from troika.identity.v1.events_pb2 import ResolvedBatch, ResolvedEvent

from chassis.bus import Consumer, Message
from chassis.db import UnitOfWork
from chassis.moments import from_us
from services.touchpoints import events
from services.touchpoints.channels.ads.channel import CONVERSION, WINDOW_DAYS, place, sealed_details
from services.touchpoints.channels.ads.store import PURPOSE
from services.touchpoints.domain.deliveries import Channel, Delivery
from services.touchpoints.endpoints import Endpoint, Endpoints
from services.touchpoints.store import deliveries, erasures
from services.touchpoints.vault import Vault

NAME: Final = "touchpoints-conversions"
CLICKED: Final = "Ad Clicked"
MOST_CLICK_ID: Final = 512
# A platform that does not answer is told later: they take conversions of the last days.
LIFE: Final = timedelta(days=3)
KEEP_DAYS: Final = 90
DAY_US: Final = 86_400_000_000

KEEP = """
    INSERT INTO ad_click (anchor_id, endpoint, clicked_us, person_id, sealed)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bytea[]) ON CONFLICT DO NOTHING
"""
# The last click before each goal (number, account, person, anchor, when, earliest), through any anchor that is the person's
# now: an anchor's owner is the newest move's, without any move whoever it was when it clicked.
LAST = """
    SELECT g.number, c.sealed FROM unnest($1::int[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
        AS g(number, endpoint, person, anchor, at_us, from_us)
    JOIN LATERAL (
        SELECT sealed FROM (
            SELECT c.clicked_us, c.sealed FROM ad_click c WHERE c.endpoint = g.endpoint AND c.anchor_id = g.anchor
                AND c.clicked_us BETWEEN g.from_us AND g.at_us
            UNION ALL SELECT c.clicked_us, c.sealed FROM ad_click c WHERE c.endpoint = g.endpoint AND c.person_id = g.person
                AND c.clicked_us BETWEEN g.from_us AND g.at_us
                AND NOT EXISTS (SELECT FROM anchor_owner o WHERE o.anchor_id = c.anchor_id)
            UNION ALL SELECT c.clicked_us, c.sealed FROM anchor_owner o CROSS JOIN LATERAL (
                    SELECT c.* FROM ad_click c WHERE c.anchor_id = o.anchor_id AND c.endpoint = g.endpoint OFFSET 0
                ) AS c WHERE o.person_id = g.person AND c.clicked_us BETWEEN g.from_us AND g.at_us
        ) AS theirs ORDER BY clicked_us DESC LIMIT 1
    ) AS c ON true
"""


@dataclass(frozen=True)
class Account:
    """What an endpoint says of clicks and goals."""

    endpoint: str
    media: str
    goals: frozenset[str]
    window_us: int

    @classmethod
    def of(cls, endpoint: Endpoint) -> Account:
        """From its settings."""
        settings = endpoint.settings
        goals = frozenset(name for name in settings.get("conversions", "").split(",") if name)
        window_us = int(settings.get("window_days", WINDOW_DAYS)) * DAY_US
        return cls(endpoint.name, settings.get("media", endpoint.scope), goals, window_us)


class Conversions:
    """Hears of events that belong to somebody."""

    def __init__(self, endpoints: Endpoints, vault: Vault) -> None:
        self._endpoints, self._vault = endpoints, vault

    def consumer(self) -> Consumer:
        """On resolved events; nearly all of them are passed over unread."""

        async def handle(uow: UnitOfWork, messages: Sequence[Message], /) -> None:
            await self.hear(uow, [message.data for message in messages])

        return Consumer(NAME, events.RESOLVED, handle, batch=64)

    async def hear(self, uow: UnitOfWork, payloads: Sequence[bytes]) -> None:
        """Keeps clicks and queues conversions; what cannot be read goes to the dead letters alone."""
        accounts = [Account.of(e) for e in await self._endpoints.all() if e.channel is Channel.ADS and not e.disabled]
        wanted = {CLICKED}.union(*(account.goals for account in accounts))
        if not any(account.goals for account in accounts):
            return
        marks = [name.encode() for name in wanted]
        found: list[ResolvedEvent] = []
        for payload in payloads:
            if any(mark in payload for mark in marks):
                try:
                    batch = ResolvedBatch.FromString(payload)
                except DecodeError:
                    uow.dead_letter(NAME, events.RESOLVED, payload, "INVALID_EVENT")
                    continue
                found += (event for event in batch.events if event.name in wanted and event.person.anchor_id)
        if not found:
            return
        await erasures.hold_off(uow)
        buried = await erasures.buried(uow, (event.person.anchor_id for event in found))
        living = [event for event in found if (event.person.anchor_id, event.person.entity_id) not in buried]
        await self._keep(uow, accounts, [event for event in living if event.name == CLICKED])
        await self._queue(uow, accounts, living)

    async def _keep(self, uow: UnitOfWork, accounts: Iterable[Account], clicks: Sequence[ResolvedEvent]) -> None:
        by_media = {account.media: account.endpoint for account in accounts if account.goals}
        rows: dict[tuple[int, str, int], tuple[int, bytes]] = {}
        for click in clicks:
            media, click_id = _click(click.properties_json)
            if click_id and (endpoint := by_media.get(media)):
                sealed = self._vault.hide(click_id, place(endpoint))
                rows[click.person.anchor_id, endpoint, click.occurred_at_us] = click.person.entity_id, sealed
        if rows:
            keys = sorted(rows)
            columns = [list(column) for column in zip(*((*key, *rows[key]) for key in keys), strict=True)]
            await uow.fetch(KEEP, *columns)

    async def _queue(self, uow: UnitOfWork, accounts: Iterable[Account], found: Sequence[ResolvedEvent]) -> None:
        goals = [(account, event) for account in accounts for event in found if event.name in account.goals]
        if not goals:
            return
        rows = await uow.fetch(
            LAST,
            list(range(len(goals))),
            [account.endpoint for account, _ in goals],
            [event.person.entity_id for _, event in goals],
            [event.person.anchor_id for _, event in goals],
            [event.occurred_at_us for _, event in goals],
            [event.occurred_at_us - account.window_us for account, event in goals],
        )
        told = [(*goals[row["number"]], bytes(row["sealed"])) for row in rows]
        if told:
            await deliveries.add(uow, [_delivery(account, event, sealed) for account, event, sealed in told])


def _click(properties: bytes) -> tuple[str, str]:
    """(media, click's number) of a click; the number is empty where there is none that could be told."""
    try:
        given: Any = orjson.loads(properties or b"{}")
    except orjson.JSONDecodeError:
        return "", ""
    found: Mapping[str, Any] = given if isinstance(given, dict) else {}
    media, click_id = found.get("media"), found.get("click_id")
    if not isinstance(media, str) or not isinstance(click_id, str) or not 0 < len(click_id) <= MOST_CLICK_ID:
        return "", ""
    return media, click_id if click_id.isprintable() else ""


def _delivery(account: Account, event: ResolvedEvent, sealed: bytes) -> Delivery:
    number = blake2b(event.event_id + account.endpoint.encode(), digest_size=16).hexdigest()
    at = from_us(event.occurred_at_us)
    return Delivery(
        f"conversion-{number}",
        "",
        event.person.entity_id,
        Channel.ADS,
        (),
        offer="",
        title="",
        body="",
        purpose=PURPOSE,
        score=0.0,
        rank=0,
        reasons=(),
        dealer_code="",
        decided_at=at,
        expires_at=max(at, from_us(event.received_at_us or event.occurred_at_us)) + LIFE,
        due_at=at,
        kind=CONVERSION,
        details=sealed_details(account.endpoint, event.name, sealed),
    )


async def prune(uow: UnitOfWork) -> None:
    """Deletes clicks that nothing can follow any more."""
    await uow.fetch(
        "DELETE FROM ad_click WHERE clicked_us"
        " < CAST(extract(epoch FROM now() - make_interval(days => $1)) * 1000000 AS bigint)",
        KEEP_DAYS,
    )
