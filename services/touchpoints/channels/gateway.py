"""Our own contract with gateways, for any provider that has none we know (docs/howto/channels.md).

POST with a bearer key and an `Idempotency-Key`; 2xx took it, 409 had it already; a refusal says why in `code`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from services.touchpoints.channels.http import MINUTE_S, PAUSE_S, Answer, Caller
from services.touchpoints.domain.deliveries import Accepted, Outcome, Refused, Retry

MOST_BALANCE = 10**15
# Gateways forget keys after a day.
REMEMBERS_S = 86_400.0


async def post(caller: Caller, url: str, api_key: str, number: str, body: Mapping[str, Any]) -> tuple[Outcome, int | None]:
    """Calls a gateway once; `number` is the same on each retry. With what came of it, if told, what is still paid for."""
    headers = {
        "content-type": "application/json",
        "authorization": f"Bearer {api_key}",
        "idempotency-key": number,
    }
    answer = await caller.post(url, orjson.dumps(body), headers)
    if not isinstance(answer, Answer):
        return answer, None
    left = answer.fields().get("balance")
    return outcome(answer), left if type(left) is int and 0 <= left <= MOST_BALANCE else None


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
