"""What callbacks make of us: windows and permissions, consent at once, the person's history, the fate of pushes.

Everything one callback does is one transaction, marked with the callback's signature and with its own name: seen again, by
whichever replica, it does nothing and is answered the same.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from chassis.consents import MESSAGES
from chassis.db import UnitOfWork
from chassis.errors import Unavailable
from chassis.sealing import DataKey
from services.touchpoints import events, handlers
from services.touchpoints.domain.deliveries import Channel
from services.touchpoints.domain.feedback import UNSUBSCRIBED, Feedback
from services.touchpoints.domain.observed import Observed, event_id
from services.touchpoints.endpoints import Endpoint
from services.touchpoints.handlers import Reporter
from services.touchpoints.vault import Vault
from services.touchpoints.wechat import crypto, store
from services.touchpoints.wechat.callbacks import (
    Answered,
    Callback,
    ContactAdded,
    ContactLost,
    Finished,
    Ignored,
    Inbound,
    OptedOut,
    Permissions,
    Told,
    Unfollowed,
)
from services.touchpoints.wechat.choice import CREDIT, FOR_EVER, GONE, OUT, WINDOW, WINDOWS
from services.touchpoints.wechat.contacts import place
from services.touchpoints.wechat.memory import follower_of
from services.touchpoints.wechat.store import Follower, Opening
from services.touchpoints.wechat.templates import templates
from services.touchpoints.wechat.tokens import account

CONSUMER = "wechat-callback"
GIVEN = "Consent Given"
# An opt-out holds here by itself until identity has stated it; without identity nothing is sent anyway.
OUT_US = 24 * 3600 * 1_000_000


@dataclass(frozen=True)
class Hearing:
    """One callback of one account."""

    endpoint: Endpoint
    told: Told
    # The signature it came under.
    signature: str
    received_us: int
    key: DataKey
    vault: Vault

    @property
    def account(self) -> str:
        """The account, and the source that its events come under."""
        return account(self.endpoint)

    @property
    def occurred_us(self) -> int:
        """When it happened; a clock ahead of ours makes nothing newer than it is."""
        return min(self.told.occurred_s * 1_000_000, self.received_us)

    def follower(self, openid: str) -> Follower:
        """Somebody at this account."""
        return follower_of(self.vault, self.account, openid)


async def hear(uow: UnitOfWork, hearing: Hearing) -> bool:
    """Applies a callback; False when it was heard before. Raises Unavailable for what WeChat should tell again."""
    told = f"{hearing.account}\0{hearing.told.identity}"
    marks = {f"signature {hearing.signature}", f"event {hashlib.sha256(told.encode()).hexdigest()}"}
    if await uow.fresh(CONSUMER, sorted(marks)) != marks:
        return False
    match event := _of_customer(hearing):
        case Answered(openid, delivery_id, answer):
            await _open(uow, hearing, openid, "click")
            given = Feedback("message.answered", delivery_id, answer, hearing.occurred_us)
            await _take(uow, hearing, [given])
        case Finished():
            await _finish(uow, hearing, event)
        case Unfollowed(openid):
            await store.open_allowances(uow, [Opening(hearing.follower(openid), GONE, 0, hearing.occurred_us, FOR_EVER)])
            _observe(uow, hearing, openid, {"WeChat Unfollowed": {}, UNSUBSCRIBED: _channel(hearing)})
        case OptedOut(openid):
            await _open(uow, hearing, openid, "message", out=True)
            _observe(uow, hearing, openid, {"WeChat Message Received": {"kind": "text"}, UNSUBSCRIBED: _channel(hearing)})
        case Inbound(openid, window, name, properties):
            await _open(uow, hearing, openid, window)
            _observe(uow, hearing, openid, {name: properties})
        case Permissions():
            await _permit(uow, hearing, event)
        case ContactAdded() | ContactLost():
            await _contact(uow, hearing, event)
        case Ignored():
            pass
    return True


def _of_customer(hearing: Hearing) -> Callback:
    """What a customer did. Who writes to an app of WeCom, or clicks in it, is an employee."""
    event = hearing.told.event
    if hearing.endpoint.channel is Channel.WECOM and not isinstance(event, ContactAdded | ContactLost):
        return Ignored()
    return event


async def _open(uow: UnitOfWork, hearing: Hearing, openid: str, window: str, *, out: bool = False) -> None:
    """Opens the window that something the person did opens; following an account again makes them reachable again."""
    who, now_us = hearing.follower(openid), hearing.occurred_us
    openings = []
    if window:
        seconds, messages = WINDOWS[window]
        if window == "message":
            messages = int(hearing.endpoint.settings.get("window_messages", messages))
        openings.append(Opening(who, WINDOW + window, messages, now_us, now_us + seconds * 1_000_000))
    if window == "follow":
        openings.append(Opening(who, GONE, 0, now_us, 0))
    if out:
        openings.append(Opening(who, OUT, 0, now_us, now_us + OUT_US))
    if openings:
        await store.open_allowances(uow, openings)


async def _permit(uow: UnitOfWork, hearing: Hearing, event: Permissions) -> None:
    """Each yes in a popup is good for one message; a no takes back what there was, and consent with it."""
    who, now_us = hearing.follower(event.openid), hearing.occurred_us
    yes = [template for template, allowed in event.given if allowed]
    no = [template for template, allowed in event.given if not allowed]
    if event.popup and yes:
        await store.add_credits(uow, who, {CREDIT + t: yes.count(t) for t in set(yes)}, FOR_EVER)
    if no:
        await store.spend_all(uow, [(who, CREDIT + template) for template in no])
    allowed = {purpose for template in yes for purpose in _purposes(hearing.endpoint, template, known_only=True)}
    refused = {purpose for template in no for purpose in _purposes(hearing.endpoint, template)} - allowed
    if refused:
        # Until identity says the same: what waits must not slip through.
        await store.open_allowances(uow, [Opening(who, f"{OUT}:{purpose}", 0, now_us, now_us + OUT_US) for purpose in refused])
    if event.popup and allowed:
        await store.open_allowances(uow, [Opening(who, f"{OUT}:{purpose}", 0, now_us, 0) for purpose in allowed])
    for purpose in sorted(refused):
        _observe(uow, hearing, event.openid, {UNSUBSCRIBED: _channel(hearing) | {"purpose": purpose}}, purpose)
    if event.popup:
        for purpose in sorted(allowed):
            _observe(uow, hearing, event.openid, {GIVEN: _channel(hearing) | {"purpose": purpose}}, purpose)


def _purposes(endpoint: Endpoint, template: str, *, known_only: bool = False) -> Sequence[str]:
    """What a template serves; an unknown one is read the strict way, as all messages."""
    known = templates(endpoint.settings.get("templates", ""), endpoint.settings.get("template_id", ""))
    found = sorted({t.purpose for t in known if t.id == template})
    return found or ([] if known_only else MESSAGES)


async def _contact(uow: UnitOfWork, hearing: Hearing, event: ContactAdded | ContactLost) -> None:
    advisor = {"advisor": event.employee}
    if isinstance(event, ContactAdded):
        digest = hearing.vault.fingerprint(event.contact, f"{hearing.account}/contact")
        sealed = hearing.vault.hide(event.contact, place(hearing.account, digest))
        await store.ask_contact(uow, hearing.endpoint.name, digest, sealed)
        named: dict[str, Mapping[str, str]] = {"WeCom Contact Added": advisor | ({"state": event.state} if event.state else {})}
    else:
        named = {"WeCom Contact Lost": advisor}
        if event.by_customer:
            # Who removes the advisor wants to hear no more this way.
            named[UNSUBSCRIBED] = _channel(hearing)
    _observe(uow, hearing, event.contact, named)


async def _finish(uow: UnitOfWork, hearing: Hearing, event: Finished) -> None:
    known = await store.pushes_by_number(uow, hearing.endpoint.name, [number for number, _, _ in event.messages])
    lost = {number: template for number, _, template in event.messages if template and number not in known}
    if lost:
        known |= await store.find_lost(uow, hearing.follower(event.openid), lost)
    if len(known) < len(event.messages) and time.time() - hearing.told.occurred_s < crypto.TOLERANCE_S:
        # Faster than our own note of the number that WeChat gave: it will call again.
        raise Unavailable("message not known yet, try again", reason="MESSAGE_UNKNOWN")
    given = [
        Feedback("message.failed" if failure else "message.delivered", known[number], "", hearing.occurred_us)
        for number, failure, _ in event.messages
        if number in known
    ]
    if given:
        await _take(uow, hearing, given)


async def _take(uow: UnitOfWork, hearing: Hearing, given: Sequence[Feedback]) -> None:
    await handlers.take_feedback(
        uow, Reporter(hearing.endpoint.name, hearing.account), list(enumerate(given)), hearing.received_us
    )


def _channel(hearing: Hearing) -> dict[str, str]:
    return {"channel": hearing.endpoint.channel.consent_channel}


def _observe(uow: UnitOfWork, hearing: Hearing, openid: str, named: Mapping[str, Mapping[str, str]], part: str = "") -> None:
    """Events by name with their properties. Who it was only identity can say: the openid travels sealed.

    Of a customer in WeCom the number there is the source's own, as a record's is.
    """
    scope = hearing.endpoint.scope
    who = ("crm_id", hearing.account, openid) if hearing.endpoint.channel is Channel.WECOM else ("openid", scope, openid)
    observed = [
        Observed(
            event_id(hearing.account, f"{name}\0{part}\0{hearing.told.identity}"),
            hearing.account,
            name,
            hearing.occurred_us,
            [who],
            "",
            0,
            orjson.dumps(dict(properties)),
            b"",
        )
        for name, properties in named.items()
    ]
    key = hearing.key
    uow.publish(events.OBSERVED, events.key_prefix(key) + events.sealed_batch(observed, key, hearing.received_us))
