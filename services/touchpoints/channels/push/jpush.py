"""JPush v3: one call for all devices of a person, made once by its `cid` (CONVENTIONS 4)."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from services.touchpoints.channels.http import MINUTE_S, PAUSE_S, Answer, Caller
from services.touchpoints.channels.push.providers import Notification, Told
from services.touchpoints.channels.push.tokens import Dead, Token
from services.touchpoints.domain.deliveries import Accepted, Refused, Retry
from services.touchpoints.endpoints import Endpoint

log = logging.getLogger(__name__)

# What may be asked for at once, and when more are asked for.
POOL, LOW = 200, 40
# A number is good for a day after it was made, and lies here for an hour at most.
LIFE_S, REST_S = 86_400.0, 3_600.0
NOBODY = 1011
KEYS = frozenset({1004, 1008})
LONGEST_LIFE_S = 10 * 86_400
# How each maker's phones tell kinds of messages apart, where the endpoint says so.
VENDORS: Mapping[str, str] = {
    "huawei": "category",
    "honor": "importance",
    "xiaomi": "channel_id",
    "oppo": "channel_id",
    "vivo": "category",
    "meizu": "notice_msg_type",
}
MARKETING = "marketing"


class Cids:
    """Numbers for calls, fetched before they are needed: JPush makes them, and takes each call of one number once."""

    def __init__(self) -> None:
        # By endpoint, each with when it was fetched, monotonic; the oldest first.
        self._pools: defaultdict[str, deque[tuple[float, str]]] = defaultdict(deque)

    def take(self, endpoint: Endpoint) -> str:
        """A fresh number; empty when there is none at hand."""
        pool = self._fresh(endpoint)
        return pool.popleft()[1] if pool else ""

    def short(self, endpoint: Endpoint) -> bool:
        """Whether more should be fetched."""
        return len(self._fresh(endpoint)) < LOW

    def add(self, endpoint: Endpoint, cids: Sequence[str]) -> None:
        """Puts fetched ones by."""
        now = time.monotonic()
        self._pools[endpoint.name].extend((now, cid) for cid in cids)

    def _fresh(self, endpoint: Endpoint) -> deque[tuple[float, str]]:
        pool, before = self._pools[endpoint.name], time.monotonic() - REST_S
        while pool and pool[0][0] < before:
            pool.popleft()
        return pool


class JPush:
    """One application of JPush per endpoint; `endpoint.url` says the zone."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.cids = Cids()
        self._fetching: dict[str, asyncio.Task[Retry | None]] = {}

    def serves(self, endpoint: Endpoint) -> bool:
        """See Provider."""
        return bool(endpoint.settings.get("jpush_app_key") and endpoint.secrets.get("jpush_master_secret"))

    async def send(self, endpoint: Endpoint, notification: Notification, tokens: Sequence[Token], call_id: str) -> Told:
        """See Provider."""
        if not call_id:
            # A number must be noted before the call: the next attempt has one.
            return Told(await self._fetch(endpoint) or Retry("no_call_number", sent_perhaps=False))
        if self.cids.short(endpoint) and endpoint.name not in self._fetching:
            await self._fetch(endpoint)
        body = orjson.dumps(request(notification, tokens, call_id, endpoint.settings))
        answer = await self._caller.post(endpoint.url.rstrip("/") + "/v3/push", body, _headers(endpoint))
        return told(answer, tokens) if isinstance(answer, Answer) else Told(answer)

    async def _fetch(self, endpoint: Endpoint) -> Retry | None:
        """Sees to it that there are numbers; why there are none, if so. Whoever comes meanwhile waits for the same answer."""
        if not self.cids.short(endpoint):
            return None
        asking = self._fetching.get(endpoint.name)
        if asking is None:
            asking = self._fetching[endpoint.name] = asyncio.create_task(self._ask(endpoint))
            asking.add_done_callback(lambda _: self._fetching.pop(endpoint.name))
        return await asyncio.shield(asking)

    async def _ask(self, endpoint: Endpoint) -> Retry | None:
        answer = await self._caller.get(f"{endpoint.url.rstrip('/')}/v3/push/cid?count={POOL}", _headers(endpoint))
        if isinstance(answer, Answer):
            found = answer.fields().get("cidlist")
            if answer.status == 200 and isinstance(found, list):
                self.cids.add(endpoint, [cid for cid in found if isinstance(cid, str) and 0 < len(cid) <= 100])
                return None
        failed = told(answer, ()).outcome if isinstance(answer, Answer) else answer
        # Whatever became of this call, it pushed nothing.
        return replace(failed, sent_perhaps=False) if isinstance(failed, Retry) else None


def request(notification: Notification, tokens: Sequence[Token], call_id: str, settings: Mapping[str, str]) -> dict[str, Any]:
    """The body of /v3/push. `classification` and the makers' categories follow from the purpose, never from the text."""
    marketing = notification.purpose == MARKETING
    options: dict[str, Any] = {
        "time_to_live": min(notification.life_s, LONGEST_LIFE_S),
        # Of several devices the latest one's.
        "apns_production": tokens[0].environment == "production",
        "classification": 0 if marketing else 1,
    }
    vendors = {
        vendor: {name: category}
        for vendor, name in VENDORS.items()
        if (category := settings.get(f"{vendor}_{notification.purpose}", ""))
    }
    if vendors:
        options["third_party_channel"] = vendors
    return {
        "platform": ["android", "ios"],
        "audience": {"registration_id": [token.value for token in tokens]},
        "cid": call_id,
        "notification": {
            "alert": notification.body,
            "android": {"title": notification.title, "extras": dict(notification.extras)},
            "ios": {
                "alert": {"title": notification.title, "body": notification.body},
                "sound": "default",
                "badge": "+1",
                "extras": dict(notification.extras),
            },
        },
        "options": options,
    }


def told(answer: Answer, tokens: Sequence[Token]) -> Told:
    """What JPush's answer means; it may be HTML of a gateway (the official client breaks on that)."""
    given = answer.fields()
    error = given.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    if answer.status == 200 and code is None:
        number = str(given.get("msg_id", ""))
        return Told(Accepted(number if number.isdigit() else ""), [token.token_id for token in tokens])
    if code == NOBODY:
        return Told(Refused("no_such_device"), dead=[Dead(token.token_id, f"jpush_{code}") for token in tokens])
    if answer.status in (401, 403) or code in KEYS:
        log.error("JPush refuses the key", extra={"status": answer.status, "code": code})
        return Told(Retry("key_refused", PAUSE_S, sent_perhaps=False, pauses_endpoint=True))
    if answer.status == 429:
        return Told(Retry("rate_limited", answer.after_s or MINUTE_S, sent_perhaps=False, throttles=True))
    if answer.status >= 500:
        return Told(Retry(f"http_{answer.status}", answer.after_s, faults_endpoint=True))
    return Told(Refused(f"jpush_{code}" if isinstance(code, int) else f"http_{answer.status}"))


def _headers(endpoint: Endpoint) -> dict[str, str]:
    key = f"{endpoint.settings['jpush_app_key']}:{endpoint.secrets['jpush_master_secret']}"
    return {"content-type": "application/json", "authorization": "Basic " + base64.b64encode(key.encode()).decode()}
