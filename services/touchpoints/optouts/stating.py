"""What somebody wants from now on: it counts here in the transaction that takes it, and goes to identity on the stream."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from chassis.consents import ALL_CHANNELS, OPT_OUT, PERSONALISATION, SEPARATE, regime
from chassis.db import UnitOfWork
from services.touchpoints import events
from services.touchpoints.domain.consents import Statement
from services.touchpoints.events import AnchorEvent
from services.touchpoints.store import consents, erasures
from services.touchpoints.store.consents import STANDING
from services.touchpoints.store.deliveries import LOCK

# The source under which these statements reach identity.
SOURCE = "preferences"
GIVEN, WITHDRAWN = "Consent Given", "Consent Withdrawn"


class Use(NamedTuple):
    """A purpose on a channel, in identity's words."""

    purpose: str
    channel: str


@dataclass(frozen=True)
class Subject:
    """Whose push it was, and through which anchor they speak."""

    delivery_id: str
    person_id: int
    anchor_id: int


@dataclass(frozen=True)
class Wish:
    """A use that somebody allows or forbids, with the words they saw."""

    use: Use
    given: bool
    screen: str
    language: str = ""
    text_version: str = ""
    shown: str = ""


async def subject(uow: UnitOfWork, delivery_id: str) -> Subject | None:
    """Whose a push is; None when nothing is known of anybody any more."""
    rows = await uow.rows("SELECT delivery_id, person_id, anchor_id FROM delivery WHERE delivery_id = :id", id=delivery_id)
    return Subject(*rows[0]) if rows and rows[0].person_id and rows[0].anchor_id else None


async def speaker(uow: UnitOfWork, delivery_id: str) -> Subject | None:
    """The same for somebody who is about to state something: no erasure and no second statement until the transaction ends."""
    await erasures.hold_off(uow)
    await uow.rows(LOCK, ids=[delivery_id])
    return await subject(uow, delivery_id)


async def allowed(uow: UnitOfWork, who: Subject, uses: Sequence[Use], regimes: Mapping[str, str]) -> dict[Use, bool]:
    """Whether the person allows each use now; where nothing was said, whether the regime takes silence for a yes."""
    needs = [_needed(use, regimes) for use in uses]
    rows = await uow.rows(
        STANDING,
        numbers=list(range(len(uses))),
        persons=[who.person_id] * len(uses),
        anchors=[who.anchor_id] * len(uses),
        purposes=[use.purpose for use in uses],
        channels=[use.channel for use in uses],
        separate=[needed == SEPARATE for needed in needs],
    )
    said = {row.number: (row.withdrawn, row.given) for row in rows}
    found = {}
    for number, (use, needed) in enumerate(zip(uses, needs, strict=True)):
        withdrawn, given = said.get(number, (False, False))
        found[use] = not withdrawn and (given or needed == OPT_OUT)
    return found


def _needed(use: Use, regimes: Mapping[str, str]) -> str:
    # Being told apart is allowed until it is switched off; only a yes to it must have been asked for by itself (PIPL 24).
    return OPT_OUT if use.purpose == PERSONALISATION else regime(regimes, use.purpose, use.channel)


async def state(uow: UnitOfWork, who: Subject, wishes: Sequence[Wish], now_us: int) -> int:
    """Keeps wishes and tells identity; returns how many were news. `who` must be this transaction's `speaker`."""
    gone = await _withdrawn(uow, who.anchor_id, [wish.use for wish in wishes if not wish.given])
    news = [wish for wish in wishes if wish.given or wish.use not in gone]
    if not news:
        return 0
    await consents.save_consents(
        uow,
        [
            Statement(who.anchor_id, who.person_id, *wish.use, wish.given and _separate(wish.use), wish.given, now_us)
            for wish in news
        ],
    )
    observed = [_event(who, wish, now_us) for wish in news]
    for payload in events.anchor_batches(observed, now_us):
        uow.publish(events.OBSERVED, payload)
    return len(news)


async def _withdrawn(uow: UnitOfWork, anchor_id: int, uses: Sequence[Use]) -> set[Use]:
    """Uses that this very anchor took back already. Another's no is not enough: it may be lifted through that other."""
    rows = await uow.rows(
        "SELECT u.purpose, u.channel FROM unnest(CAST(:purposes AS text[]), CAST(:channels AS text[])) AS u(purpose, channel)"
        " JOIN consent c ON c.anchor_id = :anchor AND c.purpose = u.purpose AND c.channel IN (:all, u.channel)"
        " GROUP BY u.purpose, u.channel HAVING max(c.withdrawn_us) >= max(c.given_us)",
        anchor=anchor_id,
        purposes=[use.purpose for use in uses],
        channels=[use.channel for use in uses],
        all=ALL_CHANNELS,
    )
    return {Use(row.purpose, row.channel) for row in rows}


def _separate(use: Use) -> bool:
    """Whether identity counts only what was asked for by itself, as the page asks for it."""
    return use.purpose == PERSONALISATION


def _event(who: Subject, wish: Wish, now_us: int) -> AnchorEvent:
    properties: dict[str, str] = {"purpose": wish.use.purpose, "channel": wish.use.channel, "screen": wish.screen}
    if wish.given:
        properties["kind"] = "separate" if _separate(wish.use) else "general"
        properties["text_version"] = wish.text_version
        properties["text_sha256"] = hashlib.sha256(wish.shown.encode()).hexdigest()
    if wish.language:
        properties["language"] = wish.language
    named = f"{SOURCE}\0{who.delivery_id}\0{wish.use.purpose}\0{wish.use.channel}\0{wish.given}\0{now_us}"
    event_id = hashlib.sha256(named.encode()).digest()[:16]
    name = GIVEN if wish.given else WITHDRAWN
    return AnchorEvent(event_id, SOURCE, name, now_us, who.anchor_id, orjson.dumps(properties))
