"""A touchpoints that lives until it is killed, forked from a process with everything imported; a provider without keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import uvloop

from services.touchpoints.__main__ import serve
from services.touchpoints.channels.contract import Lookup, Plan, Push
from services.touchpoints.channels.forms import Form
from services.touchpoints.channels.http import Answer, Caller
from services.touchpoints.channels.table import TABLE, Row
from services.touchpoints.domain.deliveries import Accepted, Channel, Delivery, Outcome, Refused, Retry
from services.touchpoints.endpoints import Endpoint
from services.touchpoints.settings import Settings

KEYLESS = Channel.ADS


@dataclass
class Keyless:
    """A provider that takes whatever comes as often as it comes."""

    caller: Caller
    remembers_s: float = 0.0
    memory: None = None

    def forbids(self, delivery: Delivery) -> str:
        return ""

    def plan(self, deliveries: Sequence[Delivery], endpoints: Sequence[Endpoint]) -> Plan:
        return Plan([Lookup("crm_id", "app", tuple((d, endpoints[0]) for d in deliveries))])

    async def send(self, push: Push) -> Outcome:
        answer = await self.caller.post(push.endpoint.url, orjson.dumps({"id": push.delivery.delivery_id}), {})
        if isinstance(answer, Refused):
            return answer
        if not isinstance(answer, Answer):
            return Retry("timeout", faults_endpoint=True)
        # What it answers, it knows.
        return Accepted() if answer.status == 200 else Retry(f"http_{answer.status}", answer.after_s, sent_perhaps=False)


def live(values: dict[str, Any]) -> None:
    """Serves until killed."""
    table: Any = TABLE
    table[KEYLESS] = Row(Form(), lambda parts: Keyless(parts.caller))
    uvloop.run(serve(Settings(**values)))
