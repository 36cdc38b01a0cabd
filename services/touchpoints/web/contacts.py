"""The door behind a lead's contact_url: an unguessable, expiring token instead of a login."""

from __future__ import annotations

import time
from collections.abc import Mapping

import orjson
from fastapi import FastAPI, Response

from chassis.db import Database
from chassis.errors import NotFound
from services.touchpoints.addresses import Addresses
from services.touchpoints.domain.deliveries import Channel
from services.touchpoints.store import consents, deliveries
from services.touchpoints.store.consents import Asked
from services.touchpoints.vault import Vault
from services.touchpoints.web.described import (
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


class Gone(NotFound):
    """It was there and will not come back."""

    http_status = 410
    default_reason = "GONE"


def add_contact_door(app: FastAPI, database: Database, vault: Vault, addresses: Addresses, regimes: Mapping[str, str]) -> None:
    """Adds /contacts/{token}."""

    @app.get("/contacts/{token}", include_in_schema=False)
    async def contact(token: str) -> Response:
        read = vault.read_token(token)
        if read is None:
            raise NotFound("no such contact", reason="CONTACT_NOT_FOUND", field="token")
        delivery_id, expires_s = read
        if time.time() >= expires_s:
            raise Gone("the token has expired", reason="CONTACT_EXPIRED", field="token")
        async with database.read() as uow:
            row = await deliveries.one(uow, delivery_id)
            if row is None:
                raise NotFound("no such contact", reason="CONTACT_NOT_FOUND", field="token")
            if row.revoked_at is not None:
                raise Gone("the lead was withdrawn", reason="LEAD_WITHDRAWN", field="token")
            if not row.person_id:
                raise Gone("the person was erased", reason="CONTACT_ERASED", field="token")
            asked = Asked(delivery_id, row.person_id, row.anchor_id, row.purpose, Channel(row.channel))
            forbidden = await consents.forbidden(uow, [asked], regimes)
        if forbidden:
            raise Gone("the person does not consent to it any more", reason="CONSENT_WITHDRAWN", field="token")
        found = await addresses.contact(row.person_id)
        if found is None:
            raise NotFound("the person has no number any more", reason="CONTACT_NOT_FOUND", field="token")
        body = orjson.dumps({"mobile": found.mobile, "name": found.name or None})
        return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})


DESCRIBED = Described(
    {
        ("GET", "/contacts/{token}"): Operation(
            "Whom a lead is about; the token came with the lead and expires. Every look is audited.",
            {
                200: Reply(
                    "The contact.", {JSON: obj(("mobile", "name"), mobile=text("E.164"), name={"type": ["string", "null"]})}
                ),
                404: NOT_FOUND,
                410: Reply("The token has expired, the person was erased, or does not consent to it any more."),
                503: UNAVAILABLE,
            },
            parameters=(parameter("token", "path", text(minLength=1, maxLength=500, pattern="^[A-Za-z0-9._-]+$")),),
            examples=(
                Example("known", answer={"mobile": "+8613800138000", "name": "张伟"}, path={"token": "contact-token"}),
                Example(
                    "unknown",
                    answer={"code": "contact_not_found", "message": "no such contact", "field": "token"},
                    status=404,
                    path={"token": "no-such-token"},
                ),
            ),
        )
    }
)
