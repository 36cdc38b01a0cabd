"""The door for feedback: Standard Webhooks signed with the endpoint's own secret."""

from __future__ import annotations

import time
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response

from chassis.db import Database
from chassis.errors import InvalidArgument, Unauthenticated
from chassis.web import read_body
from services.touchpoints import handlers, webhooks
from services.touchpoints.domain.feedback import parse
from services.touchpoints.domain.observed import Invalid
from services.touchpoints.endpoints import Endpoints
from services.touchpoints.handlers import Reporter

MOST_BYTES = 1024 * 1024
MOST_EVENTS = 500


def add_feedback_door(app: FastAPI, database: Database, endpoints: Endpoints, app_source: str) -> None:
    """Adds /webhooks/{endpoint}."""

    @app.post("/webhooks/{name}", include_in_schema=False)
    async def webhook(name: str, request: Request) -> Response:
        body = await read_body(request, MOST_BYTES)
        endpoint = await endpoints.named(name.lower())
        if endpoint is None or not endpoint.secret:
            # The same answer as to a wrong signature: strangers learn no names.
            raise Unauthenticated("signature, id or timestamp is not valid", reason="UNAUTHORIZED", field="webhook-signature")
        webhook_id = webhooks.verify(endpoint.secret, request.headers, body)
        received_us = time.time_ns() // 1000
        raws, single = _events(body)
        good, rejected = [], []
        for index, raw in enumerate(raws):
            try:
                good.append((index, parse(raw, "" if single else f"events[{index}].", received_us)))
            except Invalid as error:
                rejected.append({"index": index, "field": error.field, "reason": error.message})
        reporter = Reporter(endpoint.name, handlers.source_of(endpoint.channel, endpoint.scope, app_source))
        async with database.transaction() as uow:
            # Repeats would change nothing, for each event is kept once; the mark tells who saw which webhook when.
            await uow.fresh(f"webhook:{name}", [webhook_id])
            strange = await handlers.take_feedback(uow, reporter, good, received_us) if good else set()
        for index in sorted(strange):
            field = "data.delivery_id" if single else f"events[{index}].data.delivery_id"
            rejected.append({"index": index, "field": field, "reason": "no such delivery was sent to this endpoint"})
        answer = orjson.dumps({"accepted": len(raws) - len(rejected), "rejected": rejected})
        return Response(answer, media_type="application/json")


def _events(body: bytes) -> tuple[list[Any], bool]:
    """(events, whether the body was a single one); raises InvalidArgument."""
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidArgument("body is not valid JSON", reason="INVALID_REQUEST", field="body") from error
    if not isinstance(given, dict):
        raise InvalidArgument("body must be a JSON object", reason="INVALID_REQUEST", field="body")
    if "events" not in given:
        return [given], True
    if not isinstance(given["events"], list) or len(given["events"]) > MOST_EVENTS:
        raise InvalidArgument(f"events must be a list of at most {MOST_EVENTS}", reason="INVALID_REQUEST", field="events")
    return given["events"], False
