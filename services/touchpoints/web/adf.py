"""The door for leads in ADF: /v1/adf. What dealers' and portals' systems send by e-mail elsewhere, they post here."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI, Request, Response

from chassis.errors import InvalidArgument
from chassis.web import json_response, read_body
from services.touchpoints.domain import adf
from services.touchpoints.domain.observed import Invalid
from services.touchpoints.ingest import MOST_COMPRESSED, Ingest, decompress
from services.touchpoints.sources import Sources
from services.touchpoints.web.described import REFUSALS, WRITE_KEY, Described, Example, Operation, Reply, ref
from services.touchpoints.web.doors import Door
from services.touchpoints.web.keys import basic_key, bearer_key, encoding

PATH = "/v1/adf"
# As an element tree a document takes some ten times its bytes.
MOST_XML = 2 * 1024 * 1024


def add_adf_door(app: FastAPI, ingest: Ingest, sources: Sources) -> None:
    """Adds /v1/adf; a source shows its write key as Basic user name or as Bearer token."""

    async def take(request: Request) -> Response:
        raw = decompress(await read_body(request, MOST_COMPRESSED), encoding(request.headers), MOST_XML)
        source = await sources.of(basic_key(request.headers) or bearer_key(request.headers))
        try:
            leads = await asyncio.to_thread(adf.leads, raw)
        except Invalid as error:
            raise InvalidArgument(f"{error.field} {error.message}", reason=error.reason, field=error.field) from error
        wrong = await ingest.leads(leads, source)
        told = [{"field": error.field or "lead", "reason": error.reason, "message": error.message} for error in wrong]
        return json_response({"accepted": len(leads) - len(wrong), "set_aside": told})

    app.router.routes.append(Door(PATH, take))


_LEAD = (
    '<?xml version="1.0" encoding="UTF-8"?><?adf version="1.0"?><adf><prospect status="new">'
    '<id sequence="1" source="portal">88731</id><requestdate>2026-03-01T08:00:00+08:00</requestdate>'
    '<vehicle interest="test-drive" status="new"><make>BMW</make><model>X5</model></vehicle><customer><contact>'
    '<name part="full">Wei Zhang</name><phone type="cellphone">13800138000</phone></contact></customer></prospect></adf>'
)
_XML = "application/x-adf+xml"
DESCRIBED = Described(
    {
        ("POST", PATH): Operation(
            "Leads in ADF 1.0, read leniently; bad ones are set aside and told.",
            {200: Reply("The good ones are durable.", {"application/json": ref("Taken")}), **REFUSALS},
            "Each prospect becomes the event Lead Submitted. Whom it is about: the customer's id, phone and email. A car that"
            " the customer trades in or sells is the customer's; one that is asked for is told as properties.",
            WRITE_KEY,
            takes={_XML: {"type": "string"}},
            examples=(Example("a lead", _LEAD, {"accepted": 1, "set_aside": []}, media=_XML),),
        )
    }
)
