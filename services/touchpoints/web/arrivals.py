"""The doors for cameras and terminals: a secret path, whatever dialect the device speaks, and its own kind of success."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from fastapi import FastAPI, Request, Response

from chassis.errors import InvalidArgument, NotFound, PayloadTooLarge, TooSlow
from services.touchpoints.arrivals import dahua
from services.touchpoints.arrivals.delivering import Cards
from services.touchpoints.arrivals.doors import Doors
from services.touchpoints.arrivals.reading import MOST_BYTES, read
from services.touchpoints.arrivals.sightings import Heartbeat, Seen, Unreadable
from services.touchpoints.arrivals.taking import Arrivals
from services.touchpoints.web.described import (
    BAD_REQUEST,
    JSON,
    NOT_FOUND,
    UNAVAILABLE,
    Described,
    Example,
    Operation,
    Reply,
    obj,
    parameter,
    text,
)
from services.touchpoints.web.doors import Door

# Hikvision looks at the status alone; Dahua sends again until it reads this.
_SUCCESS = dahua.ANSWER
# A device that needs longer for its pictures has lost its connection.
READ_TIMEOUT_S = 20.0


class ArrivalDoor:
    """Takes posts of all devices."""

    def __init__(self, doors: Doors, arrivals: Arrivals, cards: Cards) -> None:
        self._doors, self._arrivals, self._cards = doors, arrivals, cards

    async def answer(self, request: Request) -> Response:
        """One post."""
        started, received = time.monotonic(), datetime.now(UTC)
        peer = request.client.host if request.client else ""
        forwarded = ",".join(request.headers.getlist("x-forwarded-for"))
        door = await self._doors.of(request.path_params["token"], peer, forwarded)
        path = request.path_params.get("rest", "")
        seen = await self._read(request, path)
        taken = await self._arrivals.take(door, seen, received)
        if taken is not None:
            self._cards.begin(taken, started)
        return Response(_SUCCESS, media_type="application/json")

    async def _read(self, request: Request, path: str) -> Seen:
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                chunks = _limited(request)
                if path.rpartition("/")[2].lower() in dahua.ALIVE:
                    async for _ in chunks:
                        pass
                    return Heartbeat()
                query = bytes(request.scope.get("query_string") or b"")
                return await read(chunks, request.headers.get("content-type", ""), query)
        except Unreadable as error:
            raise InvalidArgument(f"{error.field} {error.message}", reason="INVALID_REQUEST", field=error.field) from None
        except TimeoutError:
            raise TooSlow("the post did not end in time", field="body") from None


async def _limited(request: Request) -> AsyncIterator[bytes]:
    """The body's chunks; raises PayloadTooLarge as soon as they are too many."""
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > MOST_BYTES:
        raise PayloadTooLarge(f"body is larger than {MOST_BYTES} bytes", field="body")
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MOST_BYTES:
            raise PayloadTooLarge(f"body is larger than {MOST_BYTES} bytes", field="body")
        yield chunk


async def _no_browser(request: Request) -> Response:
    raise NotFound("no such door", reason="DOOR_NOT_FOUND")


def add_arrival_doors(app: FastAPI, door: ArrivalDoor) -> None:
    """Adds /arrivals/{token}, and below it the paths that firmware appends."""
    for path in ("/arrivals/{token}", "/arrivals/{token}/{rest:path}"):
        app.router.routes.append(Door(path, door.answer, ("GET", "POST"), _no_browser))


_TOKEN = parameter("token", "path", text(minLength=1, maxLength=200), "The door's secret, from its address.")
_REST = parameter("rest", "path", text(), "What the firmware appends.")
_STRANGE = {"token": "no-such-door", "rest": "NotificationInfo/KeepAlive"}


def _post(path: str) -> Operation:
    return Operation(
        "What a plate camera or visitor terminal saw (Hikvision's multipart XML, Dahua's JSON); pictures are not kept.",
        {
            200: Reply("Taken, or nothing to take.", {JSON: obj()}),
            400: BAD_REQUEST,
            404: NOT_FOUND,
            503: UNAVAILABLE,
        },
        parameters=(_TOKEN, _REST) if "rest" in path else (_TOKEN,),
        takes={"multipart/form-data": {}, JSON: obj()},
        examples=(Example("no such door", {}, status=404, path=_STRANGE),),
    )


def _get(path: str) -> Operation:
    return Operation(
        "The same from firmware that puts everything in the address.",
        _post(path).replies,
        parameters=_post(path).parameters,
        examples=(Example("no such door", status=404, path=_STRANGE),),
    )


DESCRIBED = Described(
    {("POST", path): _post(path) for path in ("/arrivals/{token}", "/arrivals/{token}/{rest}")}
    | {("GET", path): _get(path) for path in ("/arrivals/{token}", "/arrivals/{token}/{rest}")}
)
