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
from services.touchpoints.domain.feedback import DATA, MEANINGS, MOST_ID, Datum, parse
from services.touchpoints.domain.observed import Invalid
from services.touchpoints.endpoints import Endpoints
from services.touchpoints.handlers import Reporter
from services.touchpoints.web.described import (
    JSON,
    REFUSALS,
    SIGNATURE,
    Described,
    Example,
    Operation,
    Reply,
    Schema,
    arr,
    obj,
    parameter,
    ref,
    text,
)

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


def _schema(datum: Datum) -> Schema:
    match datum.kind:
        case "choice":
            kind: Schema = {"enum": list(datum.choices)}
        case "code":
            kind = {"type": "string", "pattern": "^[a-z_]{0,40}$"}
        case "number" | "integer":
            kind = {"type": datum.kind, "minimum": datum.least, "maximum": datum.most}
        case "instant":
            kind = {"type": "string", "format": "date-time"}
        case _:
            kind = {"type": "string", "minLength": 1, "maxLength": 100}
    return {**kind, "description": datum.meaning}


def _takes() -> str:
    told = [f"`{kind}` ({', '.join(meaning.takes)})" if meaning.takes else f"`{kind}`" for kind, meaning in MEANINGS.items()]
    return "Types, with what their `data` may carry beside `delivery_id` (or `lead_id`): " + ", ".join(told) + "."


_DELIVERED = {"type": "message.delivered", "timestamp": "2026-03-01T08:00:00Z", "data": {"delivery_id": "delivery-1"}}
_ORDERED = {
    "type": "lead.ordered",
    "timestamp": "2026-03-09T10:00:00Z",
    "data": {
        "lead_id": "delivery-1", "revision": 1, "event_id": "order-4711", "model": "X5", "amount": 512000, "payment": "loan",
    },
}  # fmt: skip
DESCRIBED = Described(
    {
        ("POST", "/webhooks/{name}"): Operation(
            "Feedback on pushes, one event or up to 500, signed by Standard Webhooks with the endpoint's secret.",
            {200: Reply("What was accepted is durable; the others say why not.", {JSON: ref("FeedbackTaken")}), **REFUSALS},
            "In any order, and again: what is known changes nothing. " + _takes(),
            SIGNATURE,
            parameters=(
                parameter("name", "path", text(minLength=1, maxLength=63, pattern="^[a-z0-9-]+$")),
                *(parameter(f"webhook-{name}", "header", text(), required=True) for name in ("id", "timestamp", "signature")),
            ),
            takes={JSON: {"oneOf": [ref("Feedback"), ref("FeedbackBatch")]}},
            examples=(
                Example("one event", _DELIVERED, {"accepted": 1, "rejected": []}, path={"name": "app"}),
                Example(
                    "several",
                    {"events": [_DELIVERED, {**_ORDERED, "data": {"lead_id": "delivery-0"}}]},
                    {
                        "accepted": 1,
                        "rejected": [
                            {
                                "index": 1,
                                "field": "events[1].data.delivery_id",
                                "reason": "no such delivery was sent to this endpoint",
                            }
                        ],
                    },
                    path={"name": "app"},
                ),
                Example("what became of a lead", _ORDERED, {"accepted": 1, "rejected": []}, path={"name": "app"}),
            ),
        )
    },
    {
        "Feedback": obj(
            ("type", "timestamp", "data"),
            type={"enum": list(MEANINGS)},
            timestamp=text("when it happened", format="date-time"),
            data={
                **obj(
                    delivery_id=text("the push", minLength=1, maxLength=MOST_ID),
                    lead_id=text("the same, as leads name it", minLength=1, maxLength=MOST_ID),
                    **{name: _schema(datum) for name, datum in DATA.items()},
                ),
                "anyOf": [{"required": ["delivery_id"]}, {"required": ["lead_id"]}],
            },
        ),
        "FeedbackBatch": obj(("events",), events=arr(ref("Feedback"), MOST_EVENTS)),
        "FeedbackTaken": obj(
            ("accepted", "rejected"),
            accepted={"type": "integer", "minimum": 0},
            rejected=arr(
                obj(("index", "field", "reason"), index={"type": "integer", "minimum": 0}, field=text(), reason=text())
            ),
        ),
    },
)
