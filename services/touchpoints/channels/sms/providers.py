"""Who carries short messages. Another provider is one class here and one line in PROVIDERS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import orjson

from services.touchpoints.channels.http import MINUTE_S, PAUSE_S, Answer, Caller
from services.touchpoints.domain.deliveries import Accepted, Outcome, Refused, Retry
from services.touchpoints.endpoints import Endpoint


@dataclass(frozen=True)
class Message:
    """One short message; `number` is the same on each retry."""

    number: str
    mobile: str = field(repr=False)
    text: str = field(repr=False)
    purpose: str
    segments: int


class Provider(Protocol):
    """Carries one message."""

    async def send(self, endpoint: Endpoint, message: Message) -> Outcome:
        """Calls the provider once; never raises for what it or the network does."""


class HttpProvider:
    """A gateway of our own design, for any provider that has none we know (docs/howto/channels.md).

    POST with a bearer key and the message's number as `Idempotency-Key`; 2xx {"message_id"} took it, 409 had it already.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def send(self, endpoint: Endpoint, message: Message) -> Outcome:
        """See Provider."""
        body = {
            "number": message.number,
            "mobile": message.mobile,
            "text": message.text,
            "purpose": message.purpose,
            "segments": message.segments,
        }
        headers = {
            "content-type": "application/json",
            "authorization": f"Bearer {endpoint.secrets['api_key']}",
            "idempotency-key": message.number,
        }
        answer = await self._caller.post(endpoint.url, orjson.dumps(body), headers)
        return outcome(answer) if isinstance(answer, Answer) else answer


def outcome(answer: Answer) -> Outcome:
    """What the gateway's answer means."""
    status = answer.status
    if 200 <= status < 300 or status == 409:
        return Accepted(_word(answer, "message_id"))
    if status in (401, 402, 403):
        return Retry(f"http_{status}", PAUSE_S, sent_perhaps=False, pauses_endpoint=True)
    if status == 429:
        return Retry("rate_limited", answer.after_s or MINUTE_S, sent_perhaps=False, throttles=True)
    if status in (400, 404, 413, 422):
        code = _word(answer, "code")
        return Refused(code if code.isascii() and code.replace("_", "").isalnum() and len(code) <= 40 else f"http_{status}")
    return Retry(f"http_{status}", answer.after_s, faults_endpoint=True)


def _word(answer: Answer, name: str) -> str:
    found = answer.fields().get(name)
    return found if isinstance(found, str) and len(found) <= 100 and found.isprintable() else ""


PROVIDERS: Mapping[str, Callable[[Caller], Provider]] = {"http": HttpProvider}
