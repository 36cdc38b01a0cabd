"""The door for device tokens: backends of apps say how a user's device can be reached, and that it no longer can.

POST and DELETE /v1/push-tokens with a source's server key; `userId` is that of the source's other calls. An app's own key
would let whoever reads it get everybody's messages.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response

from chassis.db import Database
from chassis.errors import InvalidArgument, is_operational
from chassis.web import read_body
from services.touchpoints.channels.push import tokens
from services.touchpoints.channels.push.telling import devices, tell
from services.touchpoints.channels.push.tokens import ENVIRONMENTS, PROVIDERS, Registration, Tokens
from services.touchpoints.domain.observed import Invalid, Source, id_in, instant_us
from services.touchpoints.sealer import Sealer
from services.touchpoints.sources import Sources
from services.touchpoints.web.doors import CORS, Door
from services.touchpoints.web.keys import basic_key, bearer_key, only_server_side

log = logging.getLogger(__name__)

MOST_BYTES = 16 * 1024
# FCM's are the longest, and grow.
MOST_TOKEN = 4096
PRUNE_S = 3600.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def add_token_door(app: FastAPI, database: Database, sources: Sources, registry: Tokens, sealer: Sealer) -> None:
    """Adds /v1/push-tokens."""

    async def change(request: Request) -> Response:
        source = await sources.of(basic_key(request.headers) or bearer_key(request.headers))
        only_server_side(source, "to say whose a device is")
        received_us = time.time_ns() // 1000
        given = read(await read_body(request, MOST_BYTES), source, received_us)
        async with database.transaction() as uow:
            before = await devices(uow, registry, given)
            await (registry.unregister if request.method == "DELETE" else registry.register)(uow, given)
            if (count := await devices(uow, registry, given)) != before:
                tell(uow, given, count, sealer.key(), received_us)
        return Response(status_code=204, headers=CORS)

    app.router.routes.append(Door("/v1/push-tokens", change, methods=("POST", "DELETE")))


def read(body: bytes, source: Source, received_us: int) -> Registration:
    """A registration; raises InvalidArgument with the field at fault."""
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidArgument("body is not valid JSON", reason="INVALID_REQUEST", field="body") from error
    if not isinstance(raw, dict):
        raise InvalidArgument("body must be a JSON object", reason="INVALID_REQUEST", field="body")
    try:
        # A clock ahead of ours must not outlive a later sign-out.
        at_us = min(instant_us(raw["timestamp"], "timestamp"), received_us) if "timestamp" in raw else received_us
        return Registration(
            source.name,
            _required(raw, "userId"),
            _one_of(raw, "provider", PROVIDERS),
            _required(raw, "app"),
            _one_of(raw, "environment", ENVIRONMENTS, ENVIRONMENTS[0]),
            _token(raw),
            _EPOCH + timedelta(microseconds=at_us),
        )
    except Invalid as error:
        raise InvalidArgument(error.message, reason=error.reason, field=error.field) from error


def _required(raw: dict[str, Any], name: str) -> str:
    if not (value := id_in(raw, name)) or "\0" in value:
        raise Invalid(name, "MISSING", f"{name} is required")
    return value


def _one_of(raw: dict[str, Any], name: str, known: tuple[str, ...], usual: str = "") -> str:
    value = raw.get(name, usual)
    if value not in known:
        raise Invalid(name, "UNKNOWN", f"{name} must be one of {', '.join(known)}")
    return str(value)


def _token(raw: dict[str, Any]) -> str:
    token = raw.get("token")
    if not isinstance(token, str) or not 0 < len(token) <= MOST_TOKEN or not token.isascii() or not token.isprintable():
        raise Invalid("token", "WRONG_TYPE", f"token must be a string of 1 to {MOST_TOKEN} printable characters")
    return token


async def prune_tokens(database: Database) -> None:
    """Now and then deletes tokens that nobody answers for any more; until cancelled, in any number of processes."""
    while True:
        try:
            async with database.transaction(traced=False) as uow:
                gone = await tokens.prune(uow)
            if gone:
                log.info("device tokens deleted", extra={"tokens": gone})
        except Exception as error:
            if not is_operational(error):
                log.exception("device tokens not pruned")
        await asyncio.sleep(PRUNE_S)
