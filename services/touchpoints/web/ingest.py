"""Doors for events (Segment's protocol) and records. Plain ASGI: they take thousands of events per second."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.datastructures import Headers
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from chassis.errors import InvalidArgument, Unauthenticated
from chassis.web import read_body, translate
from services.touchpoints.domain.observed import Source
from services.touchpoints.ingest import MOST_COMPRESSED, MOST_DECOMPRESSED, Ingest, decompress
from services.touchpoints.sources import Sources

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
_CORS = {"Access-Control-Allow-Origin": "*"}
_PREFLIGHT = _CORS | {
    "Access-Control-Allow-Headers": "content-type, authorization, content-encoding",
    "Access-Control-Allow-Methods": "POST, OPTIONS",
    "Access-Control-Max-Age": "86400",
}
_SUCCESS = b'{"success":true}'

Answer = Callable[[Request], Awaitable[Response]]


class _Door(Route):
    """A POST route straight to ASGI: no dependency solving, no body model, errors in the shape that SDKs can read."""

    def __init__(self, path: str, answer: Answer) -> None:
        super().__init__(path, self._endpoint, methods=["POST", "OPTIONS"], include_in_schema=False)
        self._answer = answer
        self.app = self._asgi

    async def _endpoint(self, request: Request) -> Response:
        raise NotImplementedError("replaced by _asgi")

    async def _asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = self
        if scope["method"] == "OPTIONS":
            await Response(status_code=204, headers=_PREFLIGHT)(scope, receive, send)
            return
        try:
            response = await self._answer(Request(scope, receive))
        except Exception as error:
            response = translate(error, self.path)
            response.headers.update(_CORS)
        await response(scope, receive, send)


def add_ingest_doors(app: FastAPI, ingest: Ingest, sources: Sources) -> None:
    """Adds /v1/batch, the single calls and /v1/records."""

    def segment(implied_type: str) -> Answer:
        async def answer(request: Request) -> Response:
            raw = decompress(await read_body(request, MOST_COMPRESSED), _encoding(request.headers))
            key = _write_key(request.headers)
            # A key that is shown and unknown is refused before anything is parsed.
            source = await sources.of(key) if key else None
            body = _parse(raw)
            source = source or await _source_in(body, request.headers, sources)
            await ingest.batch(body, source, implied_type)
            # Exactly 200: RudderStack's Python SDK takes any other 2xx for a failure and sends again.
            return Response(_SUCCESS, 200, _CORS, "application/json")

        return answer

    async def records(request: Request) -> Response:
        raw = await read_body(request, MOST_DECOMPRESSED)
        source = await sources.of(_write_key(request.headers) or _bearer(request.headers) or "")
        accepted, rejected = await ingest.records(decompress(raw, _encoding(request.headers)), source)
        lines = [{"line": r.line, "field": r.error.field or "line", "reason": r.error.message} for r in rejected]
        return Response(orjson.dumps({"accepted": accepted, "rejected": lines}), media_type="application/json")

    for name, implied_type in SEGMENT_PATHS.items():
        app.router.routes.append(_Door(f"/v1/{name}", segment(implied_type)))
    app.router.routes.append(_Door("/v1/records", records))


def _encoding(headers: Headers) -> str:
    return headers.get("content-encoding", "").strip().lower()


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidArgument("body is not valid JSON", reason="INVALID_REQUEST", field="body") from error
    if not isinstance(body, dict):
        raise InvalidArgument("body must be a JSON object", reason="INVALID_REQUEST", field="body")
    return body


async def _source_in(body: dict[str, Any], headers: Headers, sources: Sources) -> Source:
    key = body.get("writeKey") or _bearer(headers)
    if not isinstance(key, str) or not key:
        raise Unauthenticated("a write key is required", reason="UNAUTHORIZED", field="authorization")
    return await sources.of(key)


def _write_key(headers: Headers) -> str:
    """The user name of Basic authentication; empty without any."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError) as error:
        raise Unauthenticated("not valid Basic authentication", reason="UNAUTHORIZED", field="authorization") from error


def _bearer(headers: Headers) -> str:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""
