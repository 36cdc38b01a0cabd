"""Standard Webhooks, the receiver's side: the signed door that takes pushes, the signed batches that answer them."""

import asyncio
import random
import uuid
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Generic, Literal, TypeVar

import aiohttp
import orjson
from aiohttp import web
from pydantic import BaseModel, Field, ValidationError
from standardwebhooks import Webhook

from tests.emulators.ledger import FailurePlan, Ledger, Push
from tests.emulators.receiver import Control, Rates, Receiver, ReceiverConfig, Truth, invalid, refusal, reset

WebhookFailure = Literal["500", "503", "429", "closed"]
"""`closed`: the push is accepted, then the connection is reset, so that the sender cannot know."""

USUAL_FAILURES: dict[WebhookFailure, float] = {"500": 0.03, "503": 0.01, "429": 0.01, "closed": 0.005}

MAX_BATCH = 500
MAX_BACKOFF_SECONDS = 2.0


class WebhookConfig(ReceiverConfig):
    """Configuration of a receiver that speaks Standard Webhooks in both directions."""

    failure_rates: Rates[WebhookFailure] = USUAL_FAILURES
    feedback_interval_ms: int = Field(default=200, ge=0)
    feedback_batch: int = Field(default=MAX_BATCH, ge=1, le=MAX_BATCH)


class WebhookControl(Control):
    """Control of a Standard Webhooks receiver."""

    failure_rates: Rates[WebhookFailure] | None = None


def verified(keys: Sequence[Webhook], body: bytes, headers: Mapping[str, str]) -> bool:
    """Whether any of the keys signed these bytes within the library's tolerance of 300 s."""
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    signed = {name: headers.get(name, "") for name in names}
    for key in keys:
        try:
            key.verify(body, signed, json_parse=False)
            return True
        # On hostile input the library raises ValueError, binascii.Error and UnicodeDecodeError beside its own error.
        except Exception:
            continue
    return False


def backoff(tries: int) -> float:
    """Seconds to wait after the n-th failure in a row: 0.05 s doubling to 2 s, with 20 % jitter."""
    return float(min(MAX_BACKOFF_SECONDS, 0.05 * 2 ** min(tries, 10)) * random.uniform(0.8, 1.2))


class FeedbackOutbox:
    """Events on their way back to one endpoint: sent in order, in batches, each until it is acknowledged."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, keys: Sequence[Webhook], config: WebhookConfig, ledger: Ledger
    ) -> None:
        self._session = session
        self._url = url
        self._keys = keys
        self._linger = config.feedback_interval_ms / 1000
        self._batch = config.feedback_batch
        self._counts = ledger.counts
        self._sent = ledger.events
        self._events: deque[dict[str, Any]] = deque()
        self._filled = asyncio.Event()

    @property
    def pending(self) -> int:
        return len(self._events)

    def put(self, kind: str, delivery_id: str, **data: str | int) -> None:
        key = "lead_id" if delivery_id.startswith("leads/") else "delivery_id"
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._events.append({"type": kind, "timestamp": now, "data": {key: delivery_id, **data}})
        self._filled.set()

    async def run(self) -> None:
        while True:
            await self._filled.wait()
            if len(self._events) < self._batch:
                await asyncio.sleep(self._linger)
            batch = list(islice(self._events, self._batch))
            await self._deliver(batch)
            for event in batch:
                self._events.popleft()
                answer = event["data"].get("answer")
                self._sent[f"{event['type']}:{answer}" if answer else event["type"]] += 1
            if not self._events:
                self._filled.clear()

    async def _deliver(self, batch: list[dict[str, Any]]) -> None:
        webhook_id = f"fb_{uuid.uuid4().hex}"
        body = orjson.dumps({"events": batch})
        tries = 0
        while not await self._post(webhook_id, body):
            self._counts["feedback_retries"] += 1
            await asyncio.sleep(backoff(tries))
            tries += 1

    async def _post(self, webhook_id: str, body: bytes) -> bool:
        now = datetime.now(UTC)
        headers = {
            "content-type": "application/json",
            "webhook-id": webhook_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(key.sign(webhook_id, now, body.decode()) for key in self._keys),
        }
        try:
            async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError):
            return False
        if not 200 <= response.status < 300:
            return False
        self._counts["feedback_rejected"] += _rejected(answer)
        return True


def _rejected(answer: bytes) -> int:
    try:
        return len(orjson.loads(answer)["rejected"])
    except (ValueError, KeyError, TypeError):
        return 0


class Envelope(BaseModel):
    """The body of a Standard Webhook, up to its data."""

    type: str
    timestamp: datetime


Message = TypeVar("Message", bound=BaseModel)


class WebhookReceiver(Receiver, Generic[Message]):
    """Takes signed messages of one model; an id that was accepted before is acknowledged and not processed again."""

    control_model = WebhookControl
    message_model: type[Message]

    def __init__(self, config: WebhookConfig, truth: Truth) -> None:
        super().__init__(config, truth)
        self.config = config
        self.plan = FailurePlan[WebhookFailure](config.seed, config.failure_rates)
        self.keys = {endpoint: [Webhook(secret) for secret in secrets] for endpoint, secrets in config.secrets.items()}
        self.outboxes = {
            endpoint: FeedbackOutbox(
                self.session, config.feedback_url.format(code=endpoint, lower=endpoint.lower()), keys, config, self.ledger
            )
            for endpoint, keys in self.keys.items()
        }

    def misfit(self, endpoint: str, message: Message) -> str | None:
        """The field that makes a well-formed message wrong for this endpoint, if any does."""
        return None

    @abstractmethod
    def push_of(self, endpoint: str, message: Message) -> Push | None: ...

    @abstractmethod
    def accepted(self, endpoint: str, message: Message) -> None:
        """What this receiver does with a message that it sees for the first time."""

    async def receive(self, request: web.Request, endpoint: str) -> web.Response:
        body = await request.read()
        if self.outage:
            self.ledger.failures["outage"] += 1
            return refusal(503, "unavailable", "the receiver is down")
        if not verified(self.keys[endpoint], body, request.headers):
            self.ledger.counts["bad_signatures"] += 1
            return refusal(401, "unauthorized", "the signature does not match")
        webhook_id = request.headers["webhook-id"]
        if self.ledger.seen(webhook_id):
            self.ledger.counts["repeats"] += 1
            return web.json_response({"accepted": True, "repeat": True})
        message = self._read(body, endpoint)
        if isinstance(message, web.Response):
            self.ledger.counts["malformed"] += 1
            return message
        failure = self.plan.failure(webhook_id, self.ledger.attempt(webhook_id))
        if failure is not None:
            self.ledger.failures[failure] += 1
        if failure is not None and failure != "closed":
            return refusal(int(failure), "injected_failure", "this attempt was planned to fail")
        self.ledger.accept(webhook_id, self.push_of(endpoint, message))
        self.accepted(endpoint, message)
        if failure == "closed":
            reset(request)
        return web.json_response({"accepted": True})

    def _read(self, body: bytes, endpoint: str) -> Message | web.Response:
        try:
            message = self.message_model.model_validate_json(body)
        except ValidationError as error:
            return invalid(error)
        if field := self.misfit(endpoint, message):
            return refusal(400, "invalid_request", "the message is not for this endpoint", field)
        return message

    def change(self, control: WebhookControl) -> web.Response | None:
        if control.failure_rates is not None:
            self.plan = FailurePlan[WebhookFailure](self.plan.seed, control.failure_rates)
        if control.unsubscribe is None:
            return None
        push = self.ledger.latest(control.unsubscribe)
        if push is None:
            return refusal(404, "not_found", "nothing was pushed to this person", "unsubscribe")
        self.outboxes[push.endpoint].put("message.unsubscribed", push.delivery_id)
        return None
