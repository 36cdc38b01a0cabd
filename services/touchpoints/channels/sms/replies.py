"""The door for replies to short messages: whoever answers R, T, TD or 退订 gets no more, from this moment on.

POST /sms/{endpoint}/replies, signed like every webhook of the endpoint. Texts are read and not kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import orjson
from fastapi import FastAPI, Request, Response
from troika.identity.v1.identity_service_pb2 import IdentifierRef, ResolveIdentifiersRequest

from chassis.consents import MESSAGES
from chassis.db import Database, UnitOfWork
from chassis.errors import InvalidArgument, Unauthenticated, Unavailable
from chassis.web import read_body
from services.touchpoints import events, webhooks
from services.touchpoints.channels.sms.channel import words_of
from services.touchpoints.channels.sms.text import says_no
from services.touchpoints.domain.consents import Statement
from services.touchpoints.domain.deliveries import Channel
from services.touchpoints.domain.feedback import UNSUBSCRIBED
from services.touchpoints.domain.observed import Invalid, Observed, event_id, id_in, instant_us
from services.touchpoints.endpoints import Endpoint, Endpoints
from services.touchpoints.sealer import Sealer
from services.touchpoints.store import consents, erasures

if TYPE_CHECKING:
    from troika.identity.v1.identity_service_pb2_grpc import IdentityServiceAsyncStub

log = logging.getLogger(__name__)

MOST_BYTES = 256 * 1024
MOST_REPLIES = 500
RESOLVE_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class No:
    """Somebody who wants no more."""

    reply_id: str
    mobile: str = field(repr=False)
    at_us: int


def add_reply_door(
    app: FastAPI, database: Database, endpoints: Endpoints, sealer: Sealer, identity: IdentityServiceAsyncStub
) -> None:
    """Adds /sms/{endpoint}/replies."""

    @app.post("/sms/{name}/replies", include_in_schema=False)
    async def replies(name: str, request: Request) -> Response:
        body = await read_body(request, MOST_BYTES)
        endpoint = await endpoints.named(name.lower())
        if endpoint is None or endpoint.channel is not Channel.SMS:
            raise Unauthenticated("signature, id or timestamp is not valid", reason="UNAUTHORIZED", field="webhook-signature")
        webhooks.verify(endpoint.secret, request.headers, body)
        received_us = time.time_ns() // 1000
        taken, refused, rejected = read(body, endpoint, received_us)
        if refused:
            await _stop(database, sealer, identity, endpoint, refused, received_us)
        answer = {"accepted": taken, "opted_out": len(refused), "rejected": rejected}
        return Response(orjson.dumps(answer), media_type="application/json")


def read(body: bytes, endpoint: Endpoint, received_us: int) -> tuple[int, list[No], list[dict[str, Any]]]:
    """(replies that could be read, those that mean no, the others with field and reason); raises InvalidArgument."""
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidArgument("body is not valid JSON", reason="INVALID_REQUEST", field="body") from error
    raws = given.get("replies") if isinstance(given, dict) else None
    if not isinstance(raws, list) or len(raws) > MOST_REPLIES:
        raise InvalidArgument(f"replies must be a list of at most {MOST_REPLIES}", reason="INVALID_REQUEST", field="replies")
    words, said_no, rejected = words_of(endpoint), [], []
    for index, raw in enumerate(raws):
        try:
            if not isinstance(raw, dict):
                raise Invalid("", "WRONG_TYPE", "must be an object")
            reply_id, mobile = id_in(raw, "reply_id"), id_in(raw, "mobile")
            if not reply_id or not mobile:
                raise Invalid("mobile" if reply_id else "reply_id", "MISSING", "is required")
            text = raw.get("text")
            if not isinstance(text, str):
                raise Invalid("text", "WRONG_TYPE", "must be a string")
            at_us = min(instant_us(raw.get("received_at"), "received_at"), received_us)
            if says_no(text, words):
                said_no.append(No(reply_id, mobile, at_us))
        except Invalid as error:
            rejected.append({"index": index, "field": f"replies[{index}].{error.field}".rstrip("."), "reason": error.message})
    return len(raws) - len(rejected), said_no, rejected


async def _stop(
    database: Database,
    sealer: Sealer,
    identity: IdentityServiceAsyncStub,
    endpoint: Endpoint,
    refused: Sequence[No],
    received_us: int,
) -> None:
    """Here at once, because identity says whose numbers these are; by identity's own statement for good.

    Raises Unavailable when identity does not say it: what they want is durable, but may not hold at once.
    """
    key, persons = sealer.key(), await _persons(identity, refused)
    source = f"sms:{endpoint.scope}"
    properties = orjson.dumps({"channel": Channel.SMS.consent_channel})
    observed = [
        Observed(
            event_id(source, f"reply\0{no.reply_id}"),
            source,
            UNSUBSCRIBED,
            no.at_us,
            [("mobile", "", no.mobile)],
            "",
            0,
            properties,
            b"",
        )
        for no in refused
    ]
    async with database.transaction() as uow:
        if living := {person: no for person, no in zip(persons or (), refused, strict=persons is not None) if person}:
            await _withdraw(uow, living)
        uow.publish(events.OBSERVED, events.key_prefix(key) + events.sealed_batch(observed, key, received_us))
    if persons is None:
        raise Unavailable("kept, but not in force everywhere yet: send it again", reason="OPT_OUT_PENDING")


async def _persons(identity: IdentityServiceAsyncStub, refused: Sequence[No]) -> Sequence[int] | None:
    """Whose numbers they are, 0 for nobody's; None when identity does not answer."""
    asked = ResolveIdentifiersRequest(identifiers=[IdentifierRef(kind="mobile", value=no.mobile) for no in refused])
    try:
        answer = await identity.ResolveIdentifiers(asked, timeout=RESOLVE_TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        log.warning("replies not resolved now", extra={"code": error.code().name, "replies": len(refused)})
        return None
    return list(answer.entity_ids)


async def _withdraw(uow: UnitOfWork, refused: dict[int, No]) -> None:
    await erasures.hold_off(uow)
    # The anchors through which messages went to them.
    rows = await uow.rows(
        "SELECT DISTINCT person_id, anchor_id FROM delivery WHERE person_id = ANY(CAST(:persons AS bigint[]))"
        " AND person_id > 0 AND channel = :channel AND anchor_id > 0",
        persons=sorted(refused),
        channel=int(Channel.SMS),
    )
    said = [
        Statement(
            row.anchor_id,
            row.person_id,
            purpose,
            Channel.SMS.consent_channel,
            False,
            False,
            refused[row.person_id].at_us,
        )
        for row in rows
        for purpose in MESSAGES
    ]
    if said:
        await consents.save_consents(uow, said)
