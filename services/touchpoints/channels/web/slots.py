"""Slots of pages and apps: GET /v1/slots/{slot} says what to show, POST /v1/slots/beacons what was seen and clicked.

A slot is never worth a page that waits: whatever is late or away, the answer comes in time and is then empty.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import grpc
import orjson
from fastapi import FastAPI, Request, Response
from prometheus_client import Counter
from starlette.datastructures import QueryParams
from troika.identity.v1.identity_service_pb2 import IdentifierRef, ResolveIdentifiersRequest
from troika.orchestrator.v1 import decide_service_pb2 as decide

from chassis.errors import InvalidArgument, Unauthenticated
from chassis.web import read_body
from services.touchpoints.domain.observed import Source
from services.touchpoints.ingest import Ingest
from services.touchpoints.sources import Sources
from services.touchpoints.web.doors import CORS, Door
from services.touchpoints.web.keys import basic_key, bearer_key, only_server_side

if TYPE_CHECKING:
    from troika.identity.v1.identity_service_pb2_grpc import IdentityServiceAsyncStub
    from troika.orchestrator.v1.decide_service_pb2_grpc import DecisionServiceAsyncStub

log = logging.getLogger(__name__)

SHOWN = Counter("touchpoints_slots_total", "Slots asked for, by why something was shown, or what kept it empty.", ["why"])
MOST_BYTES = 16 * 1024
# What a beacon says, as the person's history keeps it.
BEACONS: Mapping[str, str] = {"impression": "Offer Shown", "open": "Offer Opened", "click": "Offer Clicked"}
CHANNELS = ("web", "app", "wechat", "car")
# Parameter, field of the contract, what it may be.
WORDS = (
    ("place", "place", ("", "home", "work", "dealer", "charging", "road", "online")),
    ("vehicleState", "vehicle_state", ("", "parked", "driving", "charging", "service_due")),
    ("weather", "weather", ("", "clear", "rain", "snow", "fog", "hot", "cold")),
)
_SLOT = re.compile("[a-z][a-z0-9_]{0,62}")
_LANGUAGE = re.compile("[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}")
_DECISION = re.compile("decisions/[0-9a-f]{32}")
_NOTHING = {"decision": None, "offer": None, "title": "", "body": "", "why": ""}
# What somebody sees may change with the next step they take.
_HEADERS = {**CORS, "Cache-Control": "no-store"}


class Slots:
    """Asks identity who looks, and orchestrator what that person should see."""

    def __init__(
        self,
        identity: IdentityServiceAsyncStub,
        orchestrator: DecisionServiceAsyncStub,
        sources: Sources,
        ingest: Ingest,
        timeout_s: float,
    ) -> None:
        self._identity, self._orchestrator = identity, orchestrator
        self._sources, self._ingest, self._timeout_s = sources, ingest, timeout_s

    async def show(self, request: Request) -> Response:
        """What to show, at once; nothing where nothing may be, or nobody answers in time."""
        query = request.query_params
        source = await self._source(request, query.get("writeKey", ""))
        if query.get("userId", ""):
            # Numbers of customers can be guessed; what a browser was given as anonymousId cannot.
            only_server_side(source, "a slot asked by userId instead of anonymousId", "userId")
        asked = _asked(request.path_params["slot"], query)
        try:
            async with asyncio.timeout(self._timeout_s):
                asked.person_id = await self._person(source, query)
                answer = await self._orchestrator.Decide(asked)
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            why = error.code().name.lower() if isinstance(error, grpc.aio.AioRpcError) else "late"
            SHOWN.labels(why).inc()
            log.warning("slot left empty", extra={"why": why, "slot": asked.slot})
            return Response(orjson.dumps(_NOTHING), headers=_HEADERS, media_type="application/json")
        SHOWN.labels(answer.why).inc()
        shown = {
            "decision": answer.decision,
            "offer": answer.offer or None,
            "title": answer.title,
            "body": answer.body,
            "why": answer.why,
        }
        return Response(orjson.dumps(shown), headers=_HEADERS, media_type="application/json")

    async def beacon(self, request: Request) -> Response:
        """What became of it on the screen. `sendBeacon` sends text and no header: the key may stand in the body."""
        body = _object(await read_body(request, MOST_BYTES))
        key = body.get("writeKey", "")
        source = await self._source(request, key if isinstance(key, str) else "")
        decision, seen = body.get("decision"), body.get("event")
        if not isinstance(decision, str) or not _DECISION.fullmatch(decision):
            raise InvalidArgument("is not a decision", reason="INVALID_REQUEST", field="decision")
        if not isinstance(seen, str) or seen not in BEACONS:
            raise InvalidArgument(f"must be one of {', '.join(BEACONS)}", reason="INVALID_REQUEST", field="event")
        # The same moment, reported twice by a browser that was not sure, is one.
        message: dict[str, Any] = {
            "messageId": f"{decision}/{seen}",
            "event": BEACONS[seen],
            "properties": {"decision": decision},
            **{name: body[name] for name in ("userId", "anonymousId", "timestamp", "sentAt") if name in body},
        }
        await self._ingest.batch(message, source, "track")
        return Response(status_code=204, headers=CORS)

    async def _source(self, request: Request, otherwise: str) -> Source:
        key = basic_key(request.headers) or bearer_key(request.headers) or otherwise
        if not key:
            raise Unauthenticated("a write key is required", reason="UNAUTHORIZED", field="authorization")
        return await self._sources.of(key)

    async def _person(self, source: Source, query: QueryParams) -> int:
        """Who looks: by the user id, else by the browser; 0 for nobody known."""
        asked = []
        if user := query.get("userId", ""):
            asked.append(IdentifierRef(kind=source.user_id_kind, scope=source.user_scope, value=user))
        if visitor := query.get("anonymousId", ""):
            asked.append(IdentifierRef(kind="cookie", value=visitor))
        if not asked:
            return 0
        answer = await self._identity.ResolveIdentifiers(ResolveIdentifiersRequest(identifiers=asked))
        return next((person for person in answer.entity_ids if person), 0)


def add_slot_doors(app: FastAPI, slots: Slots) -> None:
    """Adds /v1/slots/{slot} and /v1/slots/beacons."""
    app.router.routes.append(Door("/v1/slots/beacons", slots.beacon))
    app.router.routes.append(Door("/v1/slots/{slot}", slots.show, methods=("GET",)))


def _asked(slot: str, query: QueryParams) -> decide.DecideRequest:
    """The question, checked here: a page shall learn what is wrong with it in words of its own."""
    language, channel = query.get("language", "zh"), query.get("channel", "web")
    request_id = query.get("requestId", "")
    if not _SLOT.fullmatch(slot):
        raise _wrong("slot", "must be lower-case letters, digits and _")
    if not _LANGUAGE.fullmatch(language):
        raise _wrong("language", "must be a tag like zh or zh-CN")
    if channel not in CHANNELS:
        raise _wrong("channel", f"must be one of {', '.join(CHANNELS)}")
    if len(request_id) > 100:
        raise _wrong("requestId", "must have at most 100 characters")
    for name, most in (("userId", 255), ("anonymousId", 255)):
        if len(query.get(name, "")) > most:
            raise _wrong(name, f"must have at most {most} characters")
    words: dict[str, str] = {}
    for name, field, known in WORDS:
        words[field] = query.get(name, "")
        if words[field] not in known:
            raise _wrong(name, f"must be one of {', '.join(known[1:])}")
    context = decide.SlotContext(place=words["place"], vehicle_state=words["vehicle_state"], weather=words["weather"])
    return decide.DecideRequest(slot=slot, channel=channel, language=language, context=context, request_id=request_id)


def _object(body: bytes) -> dict[str, Any]:
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _wrong("body", "is not valid JSON") from error
    if not isinstance(given, dict):
        raise _wrong("body", "must be a JSON object")
    return given


def _wrong(field: str, message: str) -> InvalidArgument:
    return InvalidArgument(f"{field} {message}", reason="INVALID_REQUEST", field=field)
