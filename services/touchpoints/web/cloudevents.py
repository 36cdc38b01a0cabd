"""The door for CloudEvents: /v1/cloudevents, binary, structured and batched."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response

from chassis.errors import InvalidArgument
from chassis.web import json_response, read_body
from services.touchpoints.domain import cloudevents
from services.touchpoints.domain.observed import Invalid
from services.touchpoints.ingest import MOST_COMPRESSED, Ingest, decompress
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
from services.touchpoints.web.doors import Door
from services.touchpoints.web.keys import basic_key, bearer_key, encoding


class UnsupportedMediaType(InvalidArgument):
    """Not one of the three modes."""

    http_status = 415


def add_cloudevents_door(app: FastAPI, ingest: Ingest, sources: Sources) -> None:
    """Adds /v1/cloudevents; a source shows its write key as Basic user name or as Bearer token."""

    async def take(request: Request) -> Response:
        raw = decompress(await read_body(request, MOST_COMPRESSED), encoding(request.headers))
        source = await sources.of(basic_key(request.headers) or bearer_key(request.headers))
        try:
            envelopes = cloudevents.read(dict(request.headers), raw)
        except cloudevents.UnknownMode as error:
            raise UnsupportedMediaType(
                "must be a CloudEvent: application/cloudevents(-batch)+json, or ce- headers",
                reason="NO_CLOUDEVENT",
                field="content-type",
            ) from error
        except Invalid as error:
            raise InvalidArgument(error.message, reason=error.reason, field=error.field) from error
        wrong = await ingest.cloud_events(envelopes, source)
        told = [{"field": error.field or "event", "reason": error.reason, "message": error.message} for error in wrong]
        return json_response({"accepted": len(envelopes) - len(wrong), "set_aside": told})

    async def handshake(request: Request) -> Response:
        """CloudEvents' abuse protection: whoever asks may send, at any rate; the key decides."""
        asked = request.headers.get("webhook-request-origin")
        if not asked:
            return Response(status_code=204, headers={"Allow": "POST, OPTIONS"})
        return Response(status_code=200, headers={"WebHook-Allowed-Origin": "*", "WebHook-Allowed-Rate": "*", "Allow": "POST"})

    app.router.routes.append(Door("/v1/cloudevents", take, preflight=handshake))


_EXAMPLE = {
    "specversion": "1.0",
    "id": "e-1",
    "source": "/app/ios",
    "type": "Model Viewed",
    "subject": "customers/88731",
    "time": "2026-03-01T08:00:00Z",
    "data": {"model": "X5"},
}
_NO_TYPE = {name: value for name, value in _EXAMPLE.items() if name != "type"}
_STRUCTURED, _BATCHED = "application/cloudevents+json", "application/cloudevents-batch+json"
DESCRIBED = Described(
    {
        ("POST", "/v1/cloudevents"): Operation(
            "CloudEvents 1.0, binary, structured or batched; bad ones are set aside and told.",
            {
                200: Reply("The accepted ones are durable.", {JSON: ref("Taken")}),
                415: Reply("No CloudEvent in any mode."),
                **REFUSALS,
            },
            "The event's name is `type`. Whom it is about: extension attributes `userid` and `anonymousid`, `data.identifiers`"
            " as in a Record, else the last part of `subject`. `data.vehicle` is the vehicle's.",
            WRITE_KEY,
            takes={_STRUCTURED: ref("CloudEvent"), _BATCHED: arr(ref("CloudEvent"), 2500)},
            examples=(
                Example("structured", _EXAMPLE, {"accepted": 1, "set_aside": []}, media=_STRUCTURED),
                Example("batched", [_EXAMPLE | {"id": "e-2"}, _NO_TYPE], media=_BATCHED, sound=False),
            ),
        )
    },
    {
        "CloudEvent": obj(
            ("id", "source", "specversion", "type"),
            id=text(minLength=1),
            source=text(minLength=1),
            specversion={"const": "1.0"},
            type=text(minLength=1, maxLength=200),
            subject=text(maxLength=255),
            time=text(format="date-time"),
            userid=text(maxLength=255),
            anonymousid=text(maxLength=255),
            data={},
            data_base64=text(),
        ),
        "Taken": obj(
            ("accepted", "set_aside"),
            accepted={"type": "integer"},
            set_aside=arr(obj(("field", "reason", "message"), field=text(), reason=text(), message=text())),
        ),
    },
)
