"""The backend of the car maker's app: takes `message.push`, shows it on a phone, reports what the person did."""

from collections.abc import Coroutine
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, Field, field_validator

from tests.emulators.ledger import Push, draw
from tests.emulators.receiver import Truth, main
from tests.emulators.webhooks import Envelope, WebhookConfig, WebhookReceiver

ENDPOINT = "app"


class AppConfig(WebhookConfig):
    """Configuration of the app backend: `secrets` holds the one endpoint `app`."""

    open_rate: float = Field(default=0.7, ge=0, le=1)

    @field_validator("secrets")
    @classmethod
    def _one_endpoint(cls, secrets: dict[str, list[str]]) -> dict[str, list[str]]:
        if set(secrets) != {ENDPOINT}:
            raise ValueError(f"the app backend has the one endpoint {ENDPOINT!r}")
        return secrets


class PushData(BaseModel):
    """What the app needs to show one message to one user."""

    delivery_id: str = Field(min_length=1)
    app_user_id: str = Field(min_length=1)
    theme: str = Field(min_length=1)
    offer: str
    title: str
    body: str
    purpose: Literal["marketing", "service"]


class MessagePush(Envelope):
    """The webhook `message.push`."""

    type: Literal["message.push"]
    data: PushData


class AppBackend(WebhookReceiver[MessagePush]):
    """Shows the message at once, to `open_rate` of the people; everybody in the truth answers."""

    name = "app_backend"
    message_model = MessagePush

    def __init__(self, config: AppConfig, truth: Truth) -> None:
        super().__init__(config, truth)
        self._open_rate = config.open_rate

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/push", self._push)]

    def background(self) -> list[Coroutine[Any, Any, None]]:
        return [self.outboxes[ENDPOINT].run()]

    def pending(self) -> int:
        return self.outboxes[ENDPOINT].pending

    async def _push(self, request: web.Request) -> web.Response:
        return await self.receive(request, ENDPOINT)

    def push_of(self, endpoint: str, message: MessagePush) -> Push:
        data = message.data
        return Push(endpoint, data.app_user_id, data.theme, data.delivery_id)

    def accepted(self, endpoint: str, message: MessagePush) -> None:
        outbox, data = self.outboxes[endpoint], message.data
        if data.app_user_id not in self.truth.app_users:
            self.ledger.counts["unknown_people"] += 1
            return
        outbox.put("message.delivered", data.delivery_id)
        if draw(self.plan.seed, "opened", data.delivery_id) < self._open_rate:
            outbox.put("message.opened", data.delivery_id)
        if answer := self.truth.app_users[data.app_user_id]:
            outbox.put("message.answered", data.delivery_id, answer=answer)


if __name__ == "__main__":
    main(AppBackend, AppConfig)
