"""Rubbish at every HTTP door: schemathesis makes it from the OpenAPI document; answers are typed, never a 500 or a redirect."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hmac
import re
import time
import uuid
from collections.abc import Mapping
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
from troika.touchpoints.v1.endpoints_service_pb2 import CreateManagementKeyRequest
from troika.touchpoints.v1.endpoints_service_pb2_grpc import EndpointServiceStub
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


class Signed(requests.auth.AuthBase):
    """Signs whatever bytes go out as the endpoint's receiver would."""

    def __init__(self, secret: str) -> None:
        self._secret = base64.b64decode(secret.removeprefix("whsec_"))

    def __call__(self, sent: requests.PreparedRequest) -> requests.PreparedRequest:
        body = sent.body or b""
        number, now = uuid.uuid4().hex, str(int(time.time()))
        told = f"{number}.{now}.".encode() + (body.encode() if isinstance(body, str) else bytes(body))
        signature = base64.b64encode(hmac.digest(self._secret, told, "sha256")).decode()
        sent.headers.update({"webhook-id": number, "webhook-timestamp": now, "webhook-signature": f"v1,{signature}"})
        return sent


class Managing(requests.auth.AuthBase):
    """Shows an endpoint's management key."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, sent: requests.PreparedRequest) -> requests.PreparedRequest:
        sent.headers["Authorization"] = f"Bearer {self._key}"
        return sent


# How somebody whom a door lets in shows it, and whose endpoint the path must name then; by the document's security.
Known = Mapping[str, tuple[Any, str]]


@pytest.fixture(scope="module")
async def known(suite: Suite, key: str) -> Known:
    nowhere = "http://127.0.0.1:1/hooks"
    wanted = [
        pb.Endpoint(name="fuzz-app", channel=pb.CHANNEL_APP, url=nowhere),
        pb.Endpoint(name="fuzz-dealer", channel=pb.CHANNEL_DEALER, url=nowhere, scope="FUZZ"),
        pb.Endpoint(
            name="fuzz-sms",
            channel=pb.CHANNEL_SMS,
            url=nowhere,
            scope="all",
            settings={"signature": "星河汽车"},
            secrets={"api_key": "k"},
        ),
    ]
    async with suite.operator_channel("touchpoints") as channel:
        create = TouchpointsServiceStub(channel).CreateEndpoint
        app, _, sms = [(await create(pb.CreateEndpointRequest(endpoint=each))).secret for each in wanted]
        asked = CreateManagementKeyRequest(name="fuzz-dealer")
        management = (await EndpointServiceStub(channel).CreateManagementKey(asked)).management_key
    return {
        "": ((key, ""), ""),
        "writeKey": ((key, ""), ""),
        "serverKey": ((key, ""), ""),
        "managementKey": (Managing(management), "fuzz-dealer"),
        "signature /webhooks/{name}": (Signed(app), "fuzz-app"),
        "signature /sms/{name}/replies": (Signed(sms), "fuzz-sms"),
    }


def security(method: str, path: str) -> str:
    """What a door asks for; each that is signed is one of its own."""
    said = next((name for asked in DOCUMENT["paths"][path][method].get("security", []) for name in asked), "")
    return f"{said} {path}" if said == "signature" else said


@pytest.fixture(scope="module")
async def key(suite: Suite) -> str:
    async with suite.operator_channel("touchpoints") as channel:
        source = pb.Source(name="fuzz", user_id_kind=pb.USER_ID_KIND_CRM_ID)
        answer = await TouchpointsServiceStub(channel).CreateSource(pb.CreateSourceRequest(source=source, server_side=True))
        return str(answer.write_key)


def attack(base_url: str, key: str, known_by: Known, method: str, path: str) -> None:
    auth, endpoint = known_by[security(method, path)]
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    schema.config.update(base_url=base_url)
    strategies = [schema[path][method].as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode]
    session = requests.Session()
    admitted: dict[bool, int] = {}

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
        if known and endpoint:
            case.path_parameters = {**(case.path_parameters or {}), "name": endpoint}
        response = case.call(session=session, auth=auth if known else None, allow_redirects=False, timeout=20)
        admitted[known] = admitted.get(known, 0) + (response.status_code != 401)
        # A body that cannot be sent as the method says, or a path that is another one, is no finding about this door; but a
        # page is what a door for people answers itself.
        page = response.headers.get("content-type", [""])[0].startswith("text/html")
        if not page and response.status_code in (404, 405) and response.request.url.split("?")[0] != f"{base_url}{path}":
            assert {"code", "message"} <= set(response.json())
            return
        case.validate_response(response, checks=CHECKS)

    run()
    # Rubbish that is only turned away at the door says nothing of what is behind it.
    assert admitted.get(True, 0) > 4 or security(method, path) == ""


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
async def test_a_door_answers_rubbish_as_its_document_says(
    suite: Suite, key: str, known: Known, method: str, path: str
) -> None:
    await asyncio.to_thread(attack, suite.url("touchpoints"), key, known, method, path)


def test_no_described_door_is_left_out() -> None:
    described = {(method, path): said for path, methods in DOCUMENT["paths"].items() for method, said in methods.items()}
    for (method, path), said in described.items():
        # One that answers just as another one does is that one, which is attacked itself.
        assert (method, said.get("x-same-as", path)) in OPERATIONS, (method, path)


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
