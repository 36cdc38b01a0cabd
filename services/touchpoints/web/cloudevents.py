"""The door for CloudEvents: /v1/cloudevents, binary, structured and batched."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response

from chassis.errors import InvalidArgument
from chassis.web import json_response, read_body
from services.touchpoints.domain import cloudevents
from services.touchpoints.domain.observed import Invalid
from services.touchpoints.ingest import MOST_COMPRESSED, Ingest, decompress
from services.touchpoints.sources import Sources
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
