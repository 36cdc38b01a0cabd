"""Doors for dealers and app teams: everything about their own endpoint, by its management key."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from chassis.errors import InvalidArgument
from chassis.web import json_response, read_body
from services.touchpoints.outgoing import types_of
from services.touchpoints.selfservice.desk import MOST_HOURS, MOST_REPLAYED, Desk, Tested
from services.touchpoints.selfservice.store import Managed, Tried
from services.touchpoints.web.described import (
    JSON,
    MANAGEMENT_KEY,
    REFUSALS,
    Described,
    Example,
    Operation,
    Reply,
    Schema,
    arr,
    obj,
    parameter,
    ref,
    text,
)
from services.touchpoints.web.keys import bearer_key

MOST_BYTES = 64 * 1024
MOST_ATTEMPTS = 200
_PATH = "/v1/endpoints/{name}"


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Address(_Body):
    """Where to push to."""

    url: str = Field(min_length=1, max_length=2000)


class Rotation(_Body):
    """How long the old secret stays good; 0 ends all old ones at once."""

    hours: float = Field(24, ge=0, le=MOST_HOURS)


class EventTypes(_Body):
    """All types that the endpoint wants."""

    event_types: list[Annotated[str, Field(max_length=100)]] = Field(max_length=100)


class Replay(_Body):
    """Which of the failed ones; without any all of them."""

    delivery_ids: list[Annotated[str, Field(max_length=100)]] = Field(default_factory=list, max_length=MOST_REPLAYED)
    since: AwareDatetime | None = None


class Attempts(_Body):
    """Which attempts, from the query."""

    before: int = Field(2**63 - 1, ge=0, le=2**63 - 1)
    outcome: str = Field("", pattern="^(accepted|retry|refused|)$")
    delivery_id: str = Field("", max_length=100, pattern="^[^\x00]*$")
    limit: int = Field(50, ge=1, le=MOST_ATTEMPTS)


Given = TypeVar("Given", bound=_Body)


def _read(model: type[Given], raw: bytes | Mapping[str, Any]) -> Given:
    try:
        return model.model_validate_json(raw or b"{}") if isinstance(raw, bytes) else model.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "body"
        raise InvalidArgument(str(first["msg"]), reason="INVALID_REQUEST", field=field) from error


def add_endpoint_doors(app: FastAPI, desk: Desk) -> None:
    """Adds /v1/endpoints/{name} and what lies below it."""

    async def opened(name: str, request: Request) -> Managed:
        return await desk.open(name.lower(), bearer_key(request.headers))

    async def show(name: str, request: Request) -> Response:
        return json_response(_shown(await opened(name, request)))

    async def move(name: str, request: Request) -> Response:
        mine = await opened(name, request)
        tested = await desk.move(mine, _read(Address, await read_body(request, MOST_BYTES)).url)
        return json_response(_tested(tested))

    async def test(name: str, request: Request) -> Response:
        return json_response(_tested(await desk.test(await opened(name, request))))

    async def rotate(name: str, request: Request) -> Response:
        mine = await opened(name, request)
        secret, until = await desk.rotate(mine, _read(Rotation, await read_body(request, MOST_BYTES)).hours)
        return json_response({"secret": secret, "old_secret_until": _iso(until)}, headers={"Cache-Control": "no-store"})

    async def choose(name: str, request: Request) -> Response:
        mine = await opened(name, request)
        await desk.choose(mine, _read(EventTypes, await read_body(request, MOST_BYTES)).event_types)
        return json_response(_shown(await opened(name, request)))

    async def attempts(name: str, request: Request) -> Response:
        mine, asked = await opened(name, request), _read(Attempts, dict(request.query_params))
        found = await desk.attempts(mine, asked.before, asked.outcome, asked.delivery_id, asked.limit)
        more = found[-1].attempt_id if len(found) == asked.limit else None
        return json_response({"attempts": [_tried(each) for each in found], "next_before": more})

    async def replay(name: str, request: Request) -> Response:
        mine, asked = await opened(name, request), _read(Replay, await read_body(request, MOST_BYTES))
        queued = await desk.replay(mine, asked.delivery_ids, asked.since)
        return json_response({"replayed": queued, "not_replayed": sorted(set(asked.delivery_ids) - set(queued))})

    for method, below, answer in (
        ("GET", "", show),
        ("PUT", "/address", move),
        ("POST", "/test", test),
        ("POST", "/secret", rotate),
        ("PUT", "/event-types", choose),
        ("GET", "/attempts", attempts),
        ("POST", "/replay", replay),
    ):
        app.add_api_route(_PATH + below, answer, methods=[method], include_in_schema=False)


def _shown(mine: Managed) -> dict[str, Any]:
    return {
        "name": mine.name,
        "channel": mine.channel.label,
        "scope": mine.scope,
        "url": mine.url,
        "event_types": [name for name in types_of(mine.channel) if name not in mine.event_types_off],
        "old_secret_until": _iso(mine.previous_until),
        "verified_at": _iso(mine.verified_at),
        "disabled_at": _iso(mine.disabled_at),
    }


def _tested(tested: Tested) -> dict[str, Any]:
    return {"ok": tested.ok, "status": tested.status, "reason": tested.reason, "milliseconds": tested.milliseconds}


def _tried(tried: Tried) -> dict[str, Any]:
    return {
        "id": tried.attempt_id,
        "at": _iso(tried.attempted_at),
        "webhook_id": f"msg_{tried.delivery_id}",
        "delivery_id": tried.delivery_id,
        "outcome": tried.outcome,
        "reason": tried.reason,
        "milliseconds": tried.milliseconds,
    }


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _schema(model: type[BaseModel]) -> Schema:
    made = model.model_json_schema()
    return {key: value for key, value in made.items() if key != "title"}


_NAME = (parameter("name", "path", text(minLength=1, maxLength=63, pattern="^[a-z0-9-]+$"), "The endpoint's name."),)
_MINE = {"name": "dealer-d001"}
_REFUSALS = {**REFUSALS, 409: Reply("Not now; the reason says what stands in the way.")}
_TESTED_JUST_NOW = {429: Reply("One test every few seconds; Retry-After says when.")}
_INSTANT = {"type": ["string", "null"], "format": "date-time"}


def _operation(summary: str, reply: str, *examples: Example, body: str = "", **more: Any) -> Operation:
    return Operation(
        summary,
        {200: Reply("Done.", {JSON: ref(reply)}), **_REFUSALS, **more.pop("replies", {})},
        security=MANAGEMENT_KEY,
        parameters=(*_NAME, *more.pop("parameters", ())),
        takes={JSON: ref(body)} if body else {},
        examples=examples,
        **more,
    )


DESCRIBED = Described(
    {
        ("GET", _PATH): _operation("The endpoint as it is.", "Endpoint", Example("mine", path=_MINE)),
        ("PUT", f"{_PATH}/address"): _operation(
            "Pushes to another address, once that has answered a signed test with 2xx.",
            "Tested",
            Example("moved", {"url": "https://dms.example/hooks"}, path=_MINE),
            Example("inside", {"url": "ftp://dms.example/hooks"}, status=400, path=_MINE),
            body="Address",
            replies=_TESTED_JUST_NOW,
        ),
        ("POST", f"{_PATH}/test"): _operation(
            "Sends a signed test to the present address.", "Tested", Example("tested", path=_MINE), replies=_TESTED_JUST_NOW
        ),
        ("POST", f"{_PATH}/secret"): _operation(
            "Another secret. For some hours we sign with both and take either; 0 hours end every old one at once.",
            "Secret",
            Example("within a day", {"hours": 24}, path=_MINE),
            body="Rotation",
        ),
        ("PUT", f"{_PATH}/event-types"): _operation(
            "Chooses which types of webhooks come; those that the law wants told cannot be left out.",
            "Endpoint",
            Example(
                "all of them",
                {
                    "event_types": [
                        "endpoint.test",
                        "lead.assigned",
                        "lead.reassigned",
                        "lead.withdrawn",
                        "customer.erased",
                        "consent.changed",
                        "arrival.card",
                    ]
                },
                path=_MINE,
            ),
            Example("none", {"event_types": []}, status=409, path=_MINE),
            body="EventTypes",
        ),
        ("GET", f"{_PATH}/attempts"): _operation(
            "Calls of the endpoint, newest first: when, outcome, reason, how long. Kept for some days, without bodies.",
            "Attempts",
            Example("what failed", path=_MINE, query={"outcome": "retry"}),
            parameters=(
                parameter("before", "query", {"type": "integer"}, "`next_before` of the page before."),
                parameter("outcome", "query", {"enum": ["accepted", "retry", "refused"]}),
                parameter("delivery_id", "query", text(maxLength=100)),
                parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": MOST_ATTEMPTS, "default": 50}),
            ),
        ),
        ("POST", f"{_PATH}/replay"): _operation(
            f"Sends again what failed at the endpoint and has not expired, at most {MOST_REPLAYED} at once.",
            "Replayed",
            Example("one", {"delivery_ids": ["delivery-0"]}, {"replayed": [], "not_replayed": ["delivery-0"]}, path=_MINE),
            body="Replay",
        ),
    },
    {
        "Address": _schema(Address),
        "Rotation": _schema(Rotation),
        "EventTypes": _schema(EventTypes),
        "Replay": _schema(Replay),
        "Endpoint": obj(
            ("name", "channel", "scope", "url", "event_types"),
            name=text(),
            channel=text(),
            scope=text("the dealer's code; empty for the app"),
            url=text("empty until an address is registered"),
            event_types=arr(text()),
            old_secret_until=_INSTANT,
            verified_at=_INSTANT,
            disabled_at=_INSTANT,
        ),
        "Tested": obj(
            ("ok", "status", "reason", "milliseconds"),
            ok={"type": "boolean"},
            status={"type": "integer", "description": "0 when there was no answer"},
            reason=text(),
            milliseconds={"type": "integer"},
        ),
        "Secret": obj(("secret", "old_secret_until"), secret=text("shown once"), old_secret_until=text(format="date-time")),
        "Attempts": obj(
            ("attempts", "next_before"),
            attempts=arr(
                obj(
                    ("id", "at", "webhook_id", "delivery_id", "outcome", "reason", "milliseconds"),
                    id={"type": "integer"},
                    at=text(format="date-time"),
                    webhook_id=text(),
                    delivery_id=text(),
                    outcome={"enum": ["accepted", "retry", "refused"]},
                    reason=text(),
                    milliseconds={"type": "integer"},
                )
            ),
            next_before={"type": ["integer", "null"]},
        ),
        "Replayed": obj(("replayed", "not_replayed"), replayed=arr(text()), not_replayed=arr(text())),
    },
)
