"""All dealers' systems in one process: each takes `lead.assigned`, fetches the contact, calls, reports the answer."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import aiohttp
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tests.emulators.ledger import Push
from tests.emulators.receiver import Truth, WorkQueue, main, refusal
from tests.emulators.webhooks import Envelope, WebhookConfig, WebhookReceiver, backoff

FINAL_REFUSALS = (401, 403, 404, 410)
"""Answers of `contact_url` that a real dealer system takes as final: the token expired or the contact is gone."""


class DealerConfig(WebhookConfig):
    """Configuration of the dealers: `secrets` by dealer code; `{code}` in `feedback_url` is replaced by it."""

    contact_concurrency: int = Field(default=16, ge=1)


class Customer(BaseModel):
    """Whom to call: a reference and a door to the phone number. Any other key is refused: no contact data in a lead."""

    model_config = ConfigDict(extra="forbid")
    customer_ref: str = Field(min_length=1)
    contact_url: str = Field(pattern="^https?://")
    contact_token_expires: datetime
    display_name: str | None = None


class Interest(BaseModel):
    """What the lead is about."""

    kind: str


class Score(BaseModel):
    """How promising the lead is: 0-1000 and its band."""

    value: int = Field(ge=0, le=1000)
    band: str


class Consent(BaseModel):
    """A dealer may only call people who allowed it and have not withdrawn."""

    purposes: list[str]
    withdrawn: Literal[False]


class LeadData(BaseModel):
    """One lead for one dealer."""

    lead_id: str = Field(min_length=1)
    revision: int = Field(ge=1)
    dealer_code: str
    rank: int
    sla_seconds: int = Field(gt=0)
    customer: Customer
    interest: Interest
    score: Score
    reasons: list[str]
    theme: str = Field(min_length=1)
    consent: Consent


class LeadAssigned(Envelope):
    """The webhook `lead.assigned`."""

    type: Literal["lead.assigned"]
    data: LeadData


class Contact(BaseModel):
    """What `contact_url` answers."""

    mobile: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A lead that waits for its phone call."""

    dealer: str
    lead_id: str
    contact_url: str


class DealerBackend(WebhookReceiver[LeadAssigned]):
    """Calls everybody it may; a number that nobody has cannot be reached."""

    name = "dealer_backend"
    message_model = LeadAssigned

    def __init__(self, config: DealerConfig, truth: Truth) -> None:
        super().__init__(config, truth)
        self._calls = WorkQueue(self._call, config.contact_concurrency, self.ledger.counts)

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/dealers/{code}/leads", self._leads)]

    def background(self) -> list[Coroutine[Any, Any, None]]:
        return [self._calls.run(), *(outbox.run() for outbox in self.outboxes.values())]

    def pending(self) -> int:
        return self._calls.pending + sum(outbox.pending for outbox in self.outboxes.values())

    async def _leads(self, request: web.Request) -> web.Response:
        code = request.match_info["code"]
        if code not in self.keys:
            return refusal(404, "not_found", "no such dealer")
        return await self.receive(request, code)

    def misfit(self, endpoint: str, message: LeadAssigned) -> str | None:
        if message.data.dealer_code != endpoint:
            return "data.dealer_code"
        return None if "dealer_contact" in message.data.consent.purposes else "data.consent.purposes"

    def push_of(self, endpoint: str, message: LeadAssigned) -> Push:
        data = message.data
        return Push(endpoint, data.customer.customer_ref, data.theme, data.lead_id)

    def accepted(self, endpoint: str, message: LeadAssigned) -> None:
        self._calls.put(Call(endpoint, message.data.lead_id, message.data.customer.contact_url))

    async def _call(self, call: Call) -> None:
        contact = await self._contact(call.contact_url)
        if contact is None:
            self.ledger.counts["contacts_refused"] += 1
            return
        outbox = self.outboxes[call.dealer]
        person = self.truth.behind(contact.mobile, contact.name)
        if person is None:
            self.ledger.counts["unknown_people"] += 1
            outbox.put("lead.unreachable", call.lead_id)
            return
        outbox.put("lead.contacted", call.lead_id)
        if person.answer:
            outbox.put("lead.answered", call.lead_id, answer=person.answer)

    async def _contact(self, url: str) -> Contact | None:
        """The contact behind the door, asked for until it answers; None when the door is shut for good."""
        tries = 0
        while True:
            try:
                async with self.session.get(url, allow_redirects=False) as response:
                    if response.status == 200:
                        return Contact.model_validate_json(await response.read())
                    if response.status in FINAL_REFUSALS:
                        return None
            except ValidationError:
                self.ledger.counts["contacts_malformed"] += 1
                return None
            except (aiohttp.ClientError, TimeoutError):
                pass
            self.ledger.counts["contact_retries"] += 1
            await asyncio.sleep(backoff(tries))
            tries += 1


if __name__ == "__main__":
    main(DealerBackend, DealerConfig)
