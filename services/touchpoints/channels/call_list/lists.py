"""The doors of call lists: GET /v1/call-lists/{endpoint} fetches whom to call and why, POST …/results brings what came of it.

Both want the server key of the endpoint's source. Numbers are not on the list: each entry has an expiring link, as dealers do.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response

from chassis.db import Database, UnitOfWork
from chassis.errors import InvalidArgument, NotFound, PermissionDenied
from chassis.web import read_body
from services.touchpoints import handlers
from services.touchpoints.channels.call_list import results
from services.touchpoints.domain.deliveries import Change, Channel, State
from services.touchpoints.domain.feedback import Feedback
from services.touchpoints.domain.handovers import stamp
from services.touchpoints.domain.observed import Invalid, Source
from services.touchpoints.endpoints import Endpoint, Endpoints
from services.touchpoints.engine.admission import conclude
from services.touchpoints.handlers import Reporter
from services.touchpoints.sources import Sources
from services.touchpoints.store.consents import Asked, forbidden
from services.touchpoints.vault import Vault
from services.touchpoints.web.keys import basic_key, bearer_key, only_server_side

MOST_ENTRIES, USUAL_ENTRIES = 500, 100
MOST_BYTES, MOST_RESULTS = 1024 * 1024, 500
COLUMNS = (
    "rank", "delivery_id", "customer_ref", "contact_url", "contact_token_expires", "theme", "offer", "title", "body", "purpose",
    "score", "reasons", "decided_at", "expires_at",
)  # fmt: skip

# Who waits at a list, the best first (index ix_delivery_listed).
LISTED = f"""
SELECT delivery_id, person_id, anchor_id, theme, offer, title, body, purpose, score, reasons, decided_at, expires_at
FROM delivery WHERE channel = {Channel.CALL_LIST:d} AND state = {State.ACCEPTED:d} AND endpoint = :endpoint
    AND expires_at > now() AND revoked_at IS NULL AND person_id > 0
ORDER BY score DESC, decided_at, delivery_id LIMIT :most
"""  # noqa: S608  (numbers of ours)


@dataclass(frozen=True)
class CallLists:
    """Lists of one touchpoints."""

    database: Database
    endpoints: Endpoints
    sources: Sources
    vault: Vault
    public_url: str
    contact_hours: float
    regimes: Mapping[str, str]

    async def fetch(self, name: str, request: Request) -> Response:
        """Whom to call, as JSON or, where it is asked for, CSV; who has forbidden it meanwhile leaves the list."""
        endpoint, _ = await self._opened(name, request)
        most = _most(request.query_params.get("limit", ""))
        kind = request.query_params.get("format", "") or ("csv" if "text/csv" in request.headers.get("accept", "") else "json")
        if kind not in ("json", "csv"):
            raise InvalidArgument("format must be json or csv", reason="INVALID_REQUEST", field="format")
        async with self.database.transaction() as uow:
            entries = await self._listed(uow, endpoint, most)
        headers = {"Cache-Control": "no-store"}
        if kind == "csv":
            return Response(as_csv(entries), headers=headers, media_type="text/csv; charset=utf-8")
        return Response(orjson.dumps({"entries": entries}), headers=headers, media_type="application/json")

    async def _listed(self, uow: UnitOfWork, endpoint: Endpoint, most: int) -> list[dict[str, Any]]:
        rows = await uow.rows(LISTED, endpoint=endpoint.name, most=most)
        asked = [Asked(r.delivery_id, r.person_id, r.anchor_id, r.purpose, Channel.CALL_LIST) for r in rows]
        refused = await forbidden(uow, asked, self.regimes) if asked else {}
        if refused:
            await conclude(uow, [Change(name, State.SUPPRESSED, why, sure=True) for name, why in sorted(refused.items())])
        return [self._entry(rank, row) for rank, row in enumerate((r for r in rows if r.delivery_id not in refused), 1)]

    def _entry(self, rank: int, row: Any) -> dict[str, Any]:
        expires = min(row.expires_at, datetime.now(UTC) + timedelta(hours=self.contact_hours))
        token = self.vault.token(row.delivery_id, int(expires.timestamp()))
        return {
            "rank": rank,
            "delivery_id": row.delivery_id,
            "customer_ref": self.vault.reference("call_list", row.person_id),
            "contact_url": f"{self.public_url.rstrip('/')}/contacts/{token}",
            "contact_token_expires": stamp(expires),
            "theme": row.theme,
            "offer": row.offer,
            "title": row.title,
            "body": row.body,
            "purpose": row.purpose,
            "score": round(row.score),
            "reasons": list(row.reasons),
            "decided_at": stamp(row.decided_at),
            "expires_at": stamp(row.expires_at),
        }

    async def take(self, name: str, request: Request) -> Response:
        """What came of calls; each result once, whatever is repeated."""
        endpoint, source = await self._opened(name, request)
        given, received_us = _results(await read_body(request, MOST_BYTES)), time.time_ns() // 1000
        good: list[tuple[int, Feedback]] = []
        rejected = []
        for index, raw in enumerate(given):
            try:
                good += [(index, each) for each in results.read(raw, index, received_us)]
            except Invalid as error:
                rejected.append({"index": index, "field": error.field, "reason": error.message})
        async with self.database.transaction() as uow:
            strange = (
                await handlers.take_feedback(uow, Reporter(endpoint.name, source.name), good, received_us) if good else set()
            )
        for index in sorted(strange):
            reason = "no such delivery is on this list"
            rejected.append({"index": index, "field": f"results[{index}].delivery_id", "reason": reason})
        answer = {"accepted": len(given) - len(rejected), "rejected": rejected}
        return Response(orjson.dumps(answer), media_type="application/json")

    async def _opened(self, name: str, request: Request) -> tuple[Endpoint, Source]:
        source = await self.sources.of(basic_key(request.headers) or bearer_key(request.headers))
        only_server_side(source, "a call list")
        endpoint = await self.endpoints.named(name.lower())
        if endpoint is None or endpoint.channel is not Channel.CALL_LIST:
            raise NotFound("there is no such list", reason="LIST_NOT_FOUND", field="name")
        if endpoint.settings["source"] != source.name:
            raise PermissionDenied("this key does not open this list", reason="LIST_NOT_ALLOWED", field="authorization")
        return endpoint, source


def add_call_list_doors(app: FastAPI, lists: CallLists) -> None:
    """Adds /v1/call-lists/{name} and its results."""

    @app.get("/v1/call-lists/{name}", include_in_schema=False)
    async def fetch(name: str, request: Request) -> Response:
        return await lists.fetch(name, request)

    @app.post("/v1/call-lists/{name}/results", include_in_schema=False)
    async def take(name: str, request: Request) -> Response:
        return await lists.take(name, request)


def as_csv(entries: Sequence[Mapping[str, Any]]) -> str:
    """A table with a heading; no cell is a formula to whoever opens it in a spreadsheet."""
    written = io.StringIO()
    table = csv.writer(written)
    table.writerow(COLUMNS)
    table.writerows(_cells(entry) for entry in entries)
    return written.getvalue()


def _cells(entry: Mapping[str, Any]) -> Iterator[str]:
    for column in COLUMNS:
        value = entry[column]
        text = "; ".join(value) if isinstance(value, list) else str(value)
        yield f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _most(given: str) -> int:
    if not given:
        return USUAL_ENTRIES
    if not given.isascii() or not given.isdigit() or not 0 < int(given[:6]) <= MOST_ENTRIES:
        raise InvalidArgument(f"limit must be a number from 1 to {MOST_ENTRIES}", reason="INVALID_REQUEST", field="limit")
    return int(given[:6])


def _results(body: bytes) -> list[Any]:
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidArgument("body is not valid JSON", reason="INVALID_REQUEST", field="body") from error
    found = given.get("results") if isinstance(given, dict) else None
    if not isinstance(found, list) or len(found) > MOST_RESULTS:
        raise InvalidArgument(f"results must be a list of at most {MOST_RESULTS}", reason="INVALID_REQUEST", field="results")
    return found
