"""All dealers' systems in one process: each takes `lead.assigned`, fetches the contact, calls, reports the answer."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

import aiohttp
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, model_validator

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
    # What only a theme's push knows.
    rank: int | None = None
    score: Score | None = None
    reasons: list[str] | None = None
    theme: str | None = Field(default=None, min_length=1)
    sla_seconds: int | None = Field(default=None, ge=0)
    customer: Customer
    interest: Interest
    consent: Consent


class LeadAssigned(Envelope):
    """The webhooks that give a lead to somebody at the dealer."""

    type: Literal["lead.assigned", "lead.reassigned"]
    data: LeadData

    @model_validator(mode="after")
    def _whole(self) -> "LeadAssigned":
        of_a_push = (self.data.rank, self.data.score, self.data.reasons, self.data.theme)
        if self.data.lead_id.startswith("leads/") is not all(each is None for each in of_a_push):
            raise ValueError("a push has rank, score, reasons and theme, any other lead none of them")
        return self


class NoticeData(BaseModel):
    """About whom or what; a dealer that holds anything of it acts on it. Contact data of any kind is refused."""

    model_config = ConfigDict(extra="forbid")
    dealer_code: str
    lead_id: str | None = Field(default=None, min_length=1)
    revision: int | None = Field(default=None, ge=1)
    reason_code: str | None = None
    customer_ref: str | None = Field(default=None, pattern="^customers/")
    lead_ids: list[str] | None = Field(default=None, min_length=1)
    consent: dict[str, Any] | None = None


class Notice(Envelope):
    """The companions that take something back."""

    type: Literal["lead.withdrawn", "customer.erased", "consent.changed"]
    data: NoticeData

    @model_validator(mode="after")
    def _whole(self) -> "Notice":
        data = self.data
        named = {"lead.withdrawn": (data.lead_id, data.revision, data.reason_code)}.get(
            self.type, (data.customer_ref, data.lead_ids)
        )
        if any(each is None for each in named) or (self.type == "consent.changed") is (data.consent is None):
            raise ValueError("something is missing")
        return self


class Told(RootModel[Annotated[LeadAssigned | Notice, Field(discriminator="type")]]):
    """Any of them."""


class Contact(BaseModel):
    """What `contact_url` answers."""

    mobile: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A lead that waits for its phone call."""

    dealer: str
    lead_id: str
    revision: int
    contact_url: str

    @property
    def named(self) -> dict[str, int]:
        """What feedback says beside the lead's number, where that stands for several tellings."""
        return {"revision": self.revision} if self.lead_id.startswith("leads/") else {}


class DealerBackend(WebhookReceiver[Told]):
    """Calls everybody it may; a number that nobody has cannot be reached."""

    name = "dealer_backend"
    message_model = Told

    def __init__(self, config: DealerConfig, truth: Truth) -> None:
        super().__init__(config, truth)
        self._revisions: dict[str, int] = {}
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

    def misfit(self, endpoint: str, message: Told) -> str | None:
        told = message.root
        if told.data.dealer_code != endpoint:
            return "data.dealer_code"
        if isinstance(told, Notice):
            return None
        return None if "dealer_contact" in told.data.consent.purposes else "data.consent.purposes"

    def push_of(self, endpoint: str, message: Told) -> Push | None:
        told = message.root
        if isinstance(told, Notice):
            return None
        data = told.data
        # A lead comes once to a dealer; between its advisors it may go on.
        theme = data.theme or f"{data.lead_id}/{data.revision}"
        return Push(endpoint, data.customer.customer_ref, theme, data.lead_id)

    def accepted(self, endpoint: str, message: Told) -> None:
        told = message.root
        if isinstance(told, Notice):
            self.ledger.counts[told.type] += 1
            return
        data = told.data
        if data.revision <= self._revisions.get(data.lead_id, 0):
            self.ledger.counts["stale_revisions"] += 1
            return
        self._revisions[data.lead_id] = data.revision
        self._calls.put(Call(endpoint, data.lead_id, data.revision, data.customer.contact_url))

    async def _call(self, call: Call) -> None:
        contact = await self._contact(call.contact_url)
        if contact is None:
            self.ledger.counts["contacts_refused"] += 1
            return
        outbox = self.outboxes[call.dealer]
        person = self.truth.behind(contact.mobile, contact.name)
        if person is None:
            self.ledger.counts["unknown_people"] += 1
            outbox.put("lead.unreachable", call.lead_id, **call.named)
            return
        outbox.put("lead.contacted", call.lead_id, **call.named)
        if person.answer:
            outbox.put("lead.answered", call.lead_id, answer=person.answer, **call.named)

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
