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
