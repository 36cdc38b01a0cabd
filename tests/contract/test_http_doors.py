"""Rubbish at every HTTP door: schemathesis makes it from the OpenAPI document; answers are typed, never a 500 or a redirect."""

from __future__ import annotations

import asyncio
import gzip
import re
from typing import Any

import httpx
import orjson
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance
from troika.touchpoints.v1 import touchpoints_service_pb2 as pb
from troika.touchpoints.v1.touchpoints_service_pb2_grpc import TouchpointsServiceStub

from local.supervisor import Suite
from tests.house.source import ROOT

DOCUMENT = orjson.loads((ROOT / "docs/reference/openapi.json").read_bytes())
# Without doors that answer just as another one does.
OPERATIONS = [(m, p) for p, methods in DOCUMENT["paths"].items() for m, said in methods.items() if "x-same-as" not in said]
# Their address shows the key.
SENSORS = ("/sa", "/sa.gif", "/debug")
CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)


@schemathesis.serializer("application/x-ndjson", "application/x-adf+xml")
def lines(_: Any, value: Any) -> bytes:
    """What the document calls a string goes out as it is."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


@pytest.fixture(scope="module")
async def key(suite: Suite) -> str:
    async with suite.operator_channel("touchpoints") as channel:
        source = pb.Source(name="fuzz", user_id_kind=pb.USER_ID_KIND_CRM_ID)
        answer = await TouchpointsServiceStub(channel).CreateSource(pb.CreateSourceRequest(source=source, server_side=True))
        return str(answer.write_key)


def attack(base_url: str, key: str, method: str, path: str) -> None:
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    schema.config.update(base_url=base_url)
    strategies = [schema[path][method].as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode]
    session = requests.Session()

    @settings(
        max_examples=60,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(strategies), st.booleans())
    def run(case: Any, known: bool) -> None:
        if known and path in SENSORS:
            case.query = {**(case.query or {}), "token": key}
        response = case.call(session=session, auth=(key, "") if known else None, allow_redirects=False, timeout=20)
        # A body that cannot be sent as the method says, or a path that is another one, is no finding about this door; but a
        # page is what a door for people answers itself.
        page = response.headers.get("content-type", [""])[0].startswith("text/html")
        if not page and response.status_code in (404, 405) and response.request.url.split("?")[0] != f"{base_url}{path}":
            assert {"code", "message"} <= set(response.json())
            return
        case.validate_response(response, checks=CHECKS)

    run()


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
async def test_a_door_answers_rubbish_as_its_document_says(suite: Suite, key: str, method: str, path: str) -> None:
    await asyncio.to_thread(attack, suite.url("touchpoints"), key, method, path)


def nested(depth: int) -> bytes:
    return b'{"batch":' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "field"),
    [
        ("/v1/batch", b'{"batch":[', {}, 400, "body"),
        ("/v1/batch", b"\xff\xfe", {}, 400, "body"),
        ("/v1/batch", b"[1]", {}, 400, "body"),
        ("/v1/batch", b'{"batch":7}', {}, 400, "batch"),
        ("/v1/batch", nested(100_000), {}, 400, "body"),
        ("/v1/batch", b'{"batch":[' + b"1" * 5_000_000 + b"]}", {}, 400, "body"),
        ("/v1/batch", b"x" * (6 * 1024 * 1024), {}, 400, "body"),
        ("/v1/batch", gzip.compress(b"0" * 50_000_000), {"content-encoding": "gzip"}, 400, "body"),
        ("/v1/batch", b"not gzip", {"content-encoding": "gzip"}, 400, "body"),
        ("/v1/batch", b'{"batch":[]}', {"authorization": "Basic bm9ib2R5Og=="}, 401, None),
        ("/v1/batch", b'{"batch":[]}', {"authorization": "Basic %%%"}, 401, None),
        ("/v1/records", b"x" * (6 * 1024 * 1024), {}, 400, "body"),
        ("/webhooks/app", b"{}", {"webhook-id": "a", "webhook-timestamp": "x", "webhook-signature": "v1"}, 401, None),
        ("/wechat/callback/wx0", b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", {}, None, None),
    ],
)
async def test_hostile_bodies_get_their_typed_error(
    suite: Suite, key: str, path: str, body: bytes, headers: dict[str, str], status: int | None, field: str | None
) -> None:
    async with httpx.AsyncClient(base_url=suite.url("touchpoints"), timeout=30) as client:
        auth = None if "authorization" in headers else httpx.BasicAuth(key, "")
        answer = await client.post(path, content=body, headers=headers, auth=auth)
    assert answer.status_code in ((status,) if status else (400, 401, 404))
    assert {"code", "message"} <= set(answer.json())
    assert field is None or answer.json()["field"] == field


async def test_bad_events_neither_fail_nor_hold_up_the_good_ones_beside_them(suite: Suite, key: str) -> None:
    bad: list[Any] = [7, None, "x", [], {}, {"type": "track"}, {"type": "nosuch", "userId": "u"}, {"type": 3, "userId": {}}]
    good = {"type": "track", "event": "Model Viewed", "userId": "known", "messageId": "good-1"}
    async with httpx.AsyncClient(base_url=suite.url("touchpoints"), timeout=30) as client:
        answer = await client.post("/v1/batch", content=orjson.dumps({"batch": [*bad, good]}), auth=(key, ""))
    assert (200, {"success": True}) == (answer.status_code, answer.json())


async def test_every_record_line_at_fault_is_named(suite: Suite, key: str) -> None:
    lines = [
        b'{"record_id":"1","updated_at":"2026-01-01T00:00:00Z"}',
        b"{",
        b'{"record_id":{},"updated_at":"2026-01-01T00:00:00Z"}',
        b'{"record_id":"3","updated_at":"yesterday"}',
        b'{"record_id":"4","updated_at":"2026-01-01T00:00:00Z","identifiers":{"mobile":[]}}',
    ]
    async with httpx.AsyncClient(base_url=suite.url("touchpoints"), timeout=30) as client:
        answer = (await client.post("/v1/records", content=b"\n".join(lines), auth=(key, ""))).json()
    assert {2, 3, 4, 5} == {rejected["line"] for rejected in answer["rejected"]}
    assert all(re.fullmatch(r"[\w.\[\]]+", rejected["field"]) for rejected in answer["rejected"])
