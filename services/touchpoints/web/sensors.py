"""Doors for Sensors Analytics' SDKs: /sa, /sa.gif and /debug. What was wrong with a request is set aside, never answered.

One answer other than 200 ends the Python SDK's sending thread for good, and phones delete what they sent (CONVENTIONS 1b).
"""

from __future__ import annotations

import base64

from fastapi import FastAPI, Request, Response

from chassis.errors import PermissionDenied, Unauthenticated
from chassis.web import read_body
from services.touchpoints.domain import sensors
from services.touchpoints.domain.observed import Invalid, Source
from services.touchpoints.ingest import MOST_COMPRESSED, Ingest
from services.touchpoints.sources import Sources
from services.touchpoints.web.described import (
    BAD_REQUEST,
    JSON,
    UNAVAILABLE,
    Described,
    Example,
    Operation,
    Reply,
    obj,
    parameter,
    ref,
    text,
)
from services.touchpoints.web.doors import CORS, Door

# What an image request hopes for: one transparent pixel.
_PIXEL = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
# Base64 in a form is longer than what it carries.
_MOST = 3 * MOST_COMPRESSED


def add_sensors_doors(app: FastAPI, ingest: Ingest, sources: Sources) -> None:
    """Adds /sa, /sa.gif and /debug; `token` (or else `project`) in the address is the source's write key."""

    async def take(request: Request, *, keep: bool) -> list[Invalid]:
        body = await read_body(request, _MOST)
        query = request.url.query
        try:
            form = sensors.form(query, body)
        except Invalid:
            # Whose it is stands in the address; the rest is set aside like any unreadable data.
            form = sensors.form(query, b"")
        source = await _source(sources, form.token or form.project)
        return await ingest.sensors(form, body or query.encode(), source, keep=keep)

    async def collect(request: Request) -> Response:
        await take(request, keep=True)
        if request.method == "GET":
            return Response(_PIXEL, 200, CORS, "image/gif")
        return Response(b"", 200, CORS, "text/plain")

    async def debug(request: Request) -> Response:
        wrong = await take(request, keep=request.headers.get("dry-run", "").lower() != "true")
        text = "\n".join(f"{error.field or 'event'}: {error.message}" for error in wrong)
        return Response(text, 400 if wrong else 200, CORS, "text/plain")

    for path, answer, methods in (
        ("/sa", collect, ("POST",)),
        ("/sa.gif", collect, ("GET", "POST")),
        ("/debug", debug, ("POST",)),
    ):
        app.router.routes.append(Door(path, answer, methods))


async def _source(sources: Sources, key: str) -> Source:
    try:
        return await sources.of(key)
    except Unauthenticated as error:
        # Of all refusals phones keep their events for 403 and 404 only.
        raise PermissionDenied(
            "token (or project) in the address must be a write key", reason="UNAUTHORIZED", field="token"
        ) from error


# One track of a phone, in base64.
_DATA = base64.b64encode(
    b'{"type":"track","event":"ModelViewed","distinct_id":"88731","time":1772352000000,"properties":{"model":"X5"}}'
).decode()
_ADDRESS = (
    parameter("token", "query", text(), "The source's write key."),
    parameter("project", "query", text(), "The write key where there is no token."),
)
_FORM = "application/x-www-form-urlencoded"
_FORBIDDEN = Reply("The address shows no write key; phones keep what they wanted to send.")
_DURABLE = Reply("It is durable, whatever it holds; what is wrong with it is set aside.", {"text/plain": text()})
_IN_ADDRESS = tuple(parameter(name, "query", text()) for name in ("token", "data", "ext"))
_COLLECT = Operation(
    "Messages of Sensors Analytics' SDKs.",
    {200: _DURABLE, 400: BAD_REQUEST, 403: _FORBIDDEN, 503: UNAVAILABLE},
    parameters=_ADDRESS,
    takes={_FORM: ref("Form")},
    examples=(Example("one track", {"data": _DATA}, media=_FORM, query={"token": "write-key"}),),
)
DESCRIBED = Described(
    {
        ("POST", "/sa"): _COLLECT,
        ("POST", "/sa.gif"): Operation(
            _COLLECT.summary, _COLLECT.replies, parameters=_ADDRESS, takes=_COLLECT.takes, same_as="/sa"
        ),
        ("GET", "/sa.gif"): Operation(
            "The same as an image; everything stands in the address.",
            {200: Reply(_DURABLE.meaning, {"image/gif": text()}), 400: BAD_REQUEST, 403: _FORBIDDEN, 503: UNAVAILABLE},
            parameters=_IN_ADDRESS,
            examples=(Example("one track", query={"token": "write-key", "data": _DATA}),),
        ),
        ("POST", "/debug"): Operation(
            "As /sa, but says what is wrong; with `Dry-Run: true` nothing is kept.",
            {
                200: Reply("Nothing is wrong.", {"text/plain": text()}),
                400: Reply("What is wrong, a line each.", {"text/plain": text(), JSON: ref("Error")}),
                403: _FORBIDDEN,
                503: UNAVAILABLE,
            },
            parameters=_ADDRESS,
            takes={_FORM: ref("Form")},
            examples=(
                Example("tried out", {"data": _DATA}, media=_FORM, query={"token": "write-key"}, headers={"dry-run": "true"}),
            ),
        ),
    },
    {
        "Form": {
            **obj(data=text(), data_list=text(), gzip=text(), crc=text(), ext=text()),
            "description": "Messages in base64, perhaps compressed; `crc` or `ext` may hold their checksum.",
        }
    },
)
