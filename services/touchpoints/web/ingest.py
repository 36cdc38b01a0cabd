"""Doors for events (Segment's protocol) and records."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.datastructures import Headers

from chassis.errors import InvalidArgument, Unauthenticated
from chassis.web import read_body
from services.touchpoints.domain.observed import Source
from services.touchpoints.ingest import MOST_COMPRESSED, MOST_DECOMPRESSED, Ingest, decompress
from services.touchpoints.sources import Sources
from services.touchpoints.web.described import (
    JSON,
    REFUSALS,
    WRITE_KEY,
    Described,
    Example,
    Operation,
    Reply,
    arr,
    obj,
    ref,
    text,
)
from services.touchpoints.web.doors import CORS, Answer, Door
from services.touchpoints.web.keys import basic_key, bearer_key, encoding

# Path → the type of a message that does not say its own; empty for a batch. Browsers use the first letter.
SEGMENT_PATHS = {
    "batch": "",
    "b": "",
    "track": "track",
    "t": "track",
    "identify": "identify",
    "i": "identify",
    "page": "page",
    "p": "page",
    "screen": "screen",
    "s": "screen",
    "group": "group",
    "g": "group",
    "alias": "alias",
    "a": "alias",
}
_SUCCESS = b'{"success":true}'


def add_ingest_doors(app: FastAPI, ingest: Ingest, sources: Sources) -> None:
    """Adds /v1/batch, the single calls and /v1/records."""

    def segment(implied_type: str) -> Answer:
        async def answer(request: Request) -> Response:
            raw = decompress(await read_body(request, MOST_COMPRESSED), encoding(request.headers))
            key = basic_key(request.headers)
            # A key that is shown and unknown is refused before anything is parsed.
            source = await sources.of(key) if key else None
            body = _parse(raw)
            source = source or await _source_in(body, request.headers, sources)
            await ingest.batch(body, source, implied_type)
            # Exactly 200: RudderStack's Python SDK takes any other 2xx for a failure and sends again.
            return Response(_SUCCESS, 200, CORS, "application/json")

        return answer

    async def records(request: Request) -> Response:
        raw = await read_body(request, MOST_DECOMPRESSED)
        source = await sources.of(basic_key(request.headers) or bearer_key(request.headers))
        accepted, rejected = await ingest.records(decompress(raw, encoding(request.headers)), source)
        lines = [{"line": r.line, "field": r.error.field or "line", "reason": r.error.message} for r in rejected]
        return Response(orjson.dumps({"accepted": accepted, "rejected": lines}), media_type="application/json")

    for name, implied_type in SEGMENT_PATHS.items():
        app.router.routes.append(Door(f"/v1/{name}", segment(implied_type)))
    app.router.routes.append(Door("/v1/records", records))


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidArgument("body is not valid JSON", reason="INVALID_REQUEST", field="body") from error
    if not isinstance(body, dict):
        raise InvalidArgument("body must be a JSON object", reason="INVALID_REQUEST", field="body")
    return body


async def _source_in(body: dict[str, Any], headers: Headers, sources: Sources) -> Source:
    key = body.get("writeKey") or bearer_key(headers)
    if not isinstance(key, str) or not key:
        raise Unauthenticated("a write key is required", reason="UNAUTHORIZED", field="authorization")
    return await sources.of(key)


_ID = {"type": ["string", "null"], "maxLength": 255}
_EVENT = obj(
    type={"enum": ["track", "identify", "page", "screen", "group", "alias"]},
    event=text(),
    userId=_ID,
    anonymousId=_ID,
    previousId=text(maxLength=255),
    messageId=text("the same over repeats of one message", maxLength=255),
    timestamp=text(format="date-time"),
    properties=obj(),
    traits=obj(),
    context=obj(),
)
_IDENTIFIERS = obj(
    **{name: text(maxLength=255) for name in ("mobile", "name", "id_card", "email", "unionid")},
    openid=text("needs an appid beside it or that of the source", maxLength=255),
    appid=text(maxLength=255),
    device=text(maxLength=255),
    address=text("postal address in one line", maxLength=255),
    birth_date=text("from 1900 on and not in the future", format="date"),
)
_RECORD = obj(
    ("record_id", "updated_at"),
    record_id={"type": ["string", "integer"], "maxLength": 255},
    updated_at=text(format="date-time"),
    identifiers=_IDENTIFIERS,
    vehicle=obj(
        vin=text(maxLength=255),
        plate=text(maxLength=255),
        relation={"enum": ["owns", "drives", "pays_for"]},
        attributes={"type": "object", "description": "sold_on (date) dates the first owner; the others become tags"},
    ),
    attributes=obj(),
)
_TAKEN = {200: Reply("All of it is durable.", {JSON: ref("Success")}), **REFUSALS}
_MODEL_VIEWED = {
    "type": "track",
    "event": "Model Viewed",
    "userId": "88731",
    "messageId": "m-1",
    "timestamp": "2026-03-01T08:00:00Z",
    "properties": {"model": "X5"},
}
_RECORD_LINE = (
    '{"record_id":"88731","updated_at":"2026-03-01T08:00:00Z","identifiers":{"mobile":"138 0013 8000"},'
    '"vehicle":{"plate":"粤B12345","relation":"owns","attributes":{"model":"X5"}},"attributes":{"city":"Shenzhen"}}'
)


def _single(name: str, implied_type: str) -> Operation:
    said = _MODEL_VIEWED | {"type": implied_type}
    return Operation(
        f"One {implied_type} message; the path names its type.",
        _TAKEN,
        security=WRITE_KEY,
        takes={JSON: ref("Event")},
        examples=(Example(implied_type, said, {"success": True}),) if name == implied_type else (),
        same_as="" if name == "track" else "/v1/track",
    )


_BATCH = Operation(
    "Many messages of Segment's protocol at once. 200 means that all of them are durable.",
    _TAKEN,
    "A bad message is set aside and explained; it never fails its batch.",
    WRITE_KEY,
    takes={JSON: ref("Batch")},
    examples=(
        Example("one event", {"batch": [_MODEL_VIEWED], "sentAt": "2026-03-01T08:00:01Z"}, {"success": True}),
        Example(
            "no batch", {"batch": 7}, {"code": "invalid_request", "message": "batch must be a list", "field": "batch"}, 400
        ),
    ),
)
DESCRIBED = Described(
    {("POST", f"/v1/{name}"): _single(name, implied) for name, implied in SEGMENT_PATHS.items() if implied}
    | {
        ("POST", "/v1/batch"): _BATCH,
        ("POST", "/v1/b"): Operation(_BATCH.summary, _TAKEN, security=WRITE_KEY, takes=_BATCH.takes, same_as="/v1/batch"),
        ("POST", "/v1/records"): Operation(
            "Records of customers and vehicles as JSON lines; bad lines are told apart and set aside.",
            {200: Reply("The accepted lines are durable.", {JSON: ref("Records")}), **REFUSALS},
            "The body is one Record a line. An update tells the whole record again.",
            WRITE_KEY,
            takes={"application/x-ndjson": text()},
            examples=(
                Example("one record", _RECORD_LINE, {"accepted": 1, "rejected": []}, media="application/x-ndjson"),
                Example(
                    "a line without its number",
                    '{"updated_at":"2026-03-01T08:00:00Z"}',
                    {
                        "accepted": 0,
                        "rejected": [{"line": 1, "field": "record_id", "reason": "is required"}],
                    },
                    media="application/x-ndjson",
                ),
            ),
        ),
    },
    {
        "Success": obj(("success",), success={"const": True}),
        "Event": {**_EVENT, "description": "A message of Segment's protocol."},
        "Batch": obj(
            ("batch",), batch=arr(ref("Event"), 2500), sentAt=text(format="date-time"), writeKey=text("instead of a header")
        ),
        "Record": _RECORD,
        "Records": obj(
            ("accepted", "rejected"),
            accepted={"type": "integer", "minimum": 0},
            rejected=arr(obj(("line", "field", "reason"), line={"type": "integer", "minimum": 1}, field=text(), reason=text())),
        ),
    },
)
