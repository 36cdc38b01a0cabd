"""The door for WeChat's callbacks (CONVENTIONS 3.4): it wants `success` within five seconds."""

from __future__ import annotations

import time

from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse

from chassis.db import Database
from chassis.errors import InvalidArgument, Unauthenticated, Unavailable
from chassis.web import read_body
from services.touchpoints import handlers
from services.touchpoints.domain.deliveries import Channel
from services.touchpoints.domain.feedback import Feedback
from services.touchpoints.domain.observed import Source
from services.touchpoints.endpoints import Endpoint, Endpoints
from services.touchpoints.handlers import Reporter
from services.touchpoints.sealer import Sealer
from services.touchpoints.store import feedback as store
from services.touchpoints.wechat import callbacks
from services.touchpoints.wechat.callbacks import Answered, Finished, Ignored, Unfollowed


class WechatDoor:
    """Takes the events of all accounts that have an endpoint."""

    def __init__(self, database: Database, endpoints: Endpoints, sealer: Sealer) -> None:
        self._database, self._endpoints, self._sealer = database, endpoints, sealer

    async def check(self, appid: str, request: Request) -> Response:
        """WeChat's check of the address: it wants its echo back."""
        await self._account(appid, request)
        return PlainTextResponse(request.query_params.get("echostr", ""))

    async def call(self, appid: str, request: Request) -> Response:
        """One event."""
        endpoint = await self._account(appid, request)
        body, received_us = await read_body(request, callbacks.MOST_BYTES), time.time_ns() // 1000
        try:
            event = callbacks.parse(body)
        except ValueError as error:
            raise InvalidArgument(f"body is {error}", reason="INVALID_REQUEST", field="body") from error
        match event:
            case Answered(delivery_id, answer, occurred_s):
                given = Feedback("message.answered", delivery_id, answer, min(occurred_s * 1_000_000, received_us))
                await self._take(endpoint, given, received_us)
            case Finished():
                await self._finish(endpoint, event, received_us)
            case Unfollowed(openid, occurred_s):
                source = Source(f"wechat:{endpoint.scope}", "openid", endpoint.scope)
                key = self._sealer.key()
                async with self._database.transaction() as uow:
                    handlers.unfollow(uow, source, openid, min(occurred_s * 1_000_000, received_us), key)
            case Ignored():
                pass
        return PlainTextResponse("success")

    async def _account(self, appid: str, request: Request) -> Endpoint:
        endpoint, query = await self._endpoints.of(Channel.WECHAT, appid), request.query_params
        token = endpoint.secrets.get("callback_token", "") if endpoint else ""
        given = (query.get("signature", ""), query.get("timestamp", ""), query.get("nonce", ""))
        if endpoint is None or not callbacks.genuine(token, *given, time.time()):
            raise Unauthenticated("signature or timestamp is not valid", reason="UNAUTHORIZED", field="signature")
        return endpoint

    async def _take(self, endpoint: Endpoint, given: Feedback, received_us: int) -> None:
        async with self._database.transaction() as uow:
            await handlers.take_feedback(uow, Reporter(endpoint.name, f"wechat:{endpoint.scope}"), [(0, given)], received_us)

    async def _finish(self, endpoint: Endpoint, event: Finished, received_us: int) -> None:
        async with self._database.read() as uow:
            delivery_id = await store.by_provider_id(uow, event.message_id, endpoint.name)
        if delivery_id is None:
            if time.time() - event.occurred_s < callbacks.TOLERANCE_S:
                # Faster than our own note of the number that WeChat gave: it will call again.
                raise Unavailable("message not known yet, try again", reason="MESSAGE_UNKNOWN")
            return
        kind = "message.failed" if event.failure else "message.delivered"
        given = Feedback(kind, delivery_id, "", min(event.occurred_s * 1_000_000, received_us))
        await self._take(endpoint, given, received_us)


def add_wechat_door(app: FastAPI, door: WechatDoor) -> None:
    """Adds /wechat/callback/{appid}."""
    path = "/wechat/callback/{appid}"
    app.add_api_route(path, door.check, methods=["GET"], include_in_schema=False)
    app.add_api_route(path, door.call, methods=["POST"], include_in_schema=False)
