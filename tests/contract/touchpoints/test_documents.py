"""Documents say what doors do: every door of the running service is described, and answers its examples as it says."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import httpx
import orjson
import pytest
import yaml
from fastapi import FastAPI
from google.protobuf import json_format
from google.protobuf.message_factory import GetMessageClass
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from starlette.routing import Route
from troika.touchpoints.v1 import endpoints_service_pb2 as pb
from troika.touchpoints.v1.endpoints_service_pb2_grpc import EndpointServiceStub

from chassis import web
from chassis.rpc import connect
from docs import messages
from services.touchpoints import events, webhooks
from services.touchpoints.arrivals.cards import Facts, card
from services.touchpoints.domain.deliveries import ASSIGNED, CONSENT, ERASED, REASSIGNED, WITHDRAWN, State
from services.touchpoints.outgoing import OUTGOING
from services.touchpoints.selfservice import desk
from services.touchpoints.web import described
from services.touchpoints.web.described import JSON, MANAGEMENT_KEY, SERVER_KEY, SIGNATURE, WRITE_KEY, Example
from tests.house.source import ROOT, modules
from tests.integration.touchpoints.receivers import APP, DEALER
from tests.integration.touchpoints.receiving import Receiver, receiving
from tests.integration.touchpoints.room import TOKEN, Room, request

OPENAPI = orjson.loads((ROOT / "docs/reference/openapi.json").read_bytes())
ASYNCAPI = yaml.safe_load((ROOT / "docs/reference/asyncapi.yaml").read_text())
# Answered alike in every service, or these documents themselves.
OURS = {"/livez", "/readyz", "/metrics", "/openapi.json"}
_REGISTRY: Any = Registry().with_resources(
    [
        ("urn:open", Resource(contents=OPENAPI, specification=DRAFT202012)),
        ("urn:async", Resource(contents=ASYNCAPI, specification=DRAFT202012)),
    ]
)


def conforms(value: Any, document: str, *pointer: str) -> None:
    """Raises unless a value fits the schema at a place of a document."""
    place = "/".join(part.replace("~", "~0").replace("/", "~1") for part in pointer)
    Draft202012Validator({"$ref": f"urn:{document}#/{place}"}, registry=_REGISTRY).validate(value)


@pytest.fixture
def apps(monkeypatch: pytest.MonkeyPatch) -> list[FastAPI]:
    """Every app that is made from now on."""
    made: list[FastAPI] = []
    new_app = web.new_app

    def recorded(*args: Any) -> FastAPI:
        made.append(new_app(*args))
        return made[-1]

    monkeypatch.setattr(web, "new_app", recorded)
    monkeypatch.setattr(desk, "TEST_EVERY_S", 0.0)
    return made


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


class World:
    """The service with one push to an app and one to a dealer, as the examples take for granted."""

    def __init__(self, room: Room, receiver: Receiver) -> None:
        self.room, self.receiver = room, receiver
        self.secrets: dict[str, str] = {}
        self.values: dict[str, str] = {}
        self.write_key = self.management_key = ""

    async def build(self) -> None:
        room, url = self.room, self.receiver.url
        self.write_key = await room.source("crm", server_side=True)
        self.secrets["app"] = await room.endpoint("app", APP, url)
        self.secrets["dealer-d001"] = await room.endpoint("dealer-d001", DEALER, url, "D001")
        room.identity.book[1, "crm_id", "app"] = (101, "88731")
        room.identity.book[1, "mobile", ""] = (102, "+8613800138000")
        room.identity.names[1] = "张伟"
        await room.request(request("delivery-1", 1, "app"), request("delivery-2", 1, "dealer"))
        for delivery in ("delivery-1", "delivery-2"):
            await room.in_state(delivery, State.ACCEPTED)
        async with connect(f"127.0.0.1:{room.settings.grpc_port}", "operator", TOKEN) as channel:
            asked = pb.CreateManagementKeyRequest(name="dealer-d001")
            self.management_key = (await EndpointServiceStub(channel).CreateManagementKey(asked)).management_key
        sent = {body["type"]: body["data"] for _, body in self.receiver.calls}
        self.values = {
            "write-key": self.write_key,
            "link-token": sent["message.push"]["unsubscribe_url"].rpartition("/")[2],
            "contact-token": sent["lead.assigned"]["customer"]["contact_url"].rpartition("/")[2],
            "https://dms.example/hooks": url,
        }

    def real(self, given: Any) -> Any:
        """An example's value with what only this service knows."""
        if isinstance(given, dict):
            return {key: self.real(value) for key, value in given.items()}
        return self.values.get(given, given) if isinstance(given, str) else given

    async def ask(self, method: str, path: str, security: str, example: Example) -> httpx.Response:
        place = path
        for name, value in example.path.items():
            place = place.replace(f"{{{name}}}", self.real(value))
        body, headers = self.real(example.body), {"content-type": example.media, **example.headers}
        if body is None:
            content, headers = b"", dict(example.headers)
        elif example.media == "application/x-www-form-urlencoded":
            content = urlencode(body).encode()
        else:
            content = body.encode() if isinstance(body, str) else orjson.dumps(body)
        auth = httpx.BasicAuth(self.write_key, "") if security in (WRITE_KEY, SERVER_KEY) else None
        if security == MANAGEMENT_KEY:
            headers["authorization"] = f"Bearer {self.management_key}"
        if security == SIGNATURE:
            headers |= webhooks.signed_headers(self.secrets[example.path["name"]], f"w-{example.name}", content)
        query = self.real(dict(example.query))
        return await self.room.http.request(method, place, content=content, headers=headers, params=query, auth=auth)


async def test_every_door_is_described_and_answers_its_examples_as_described(
    apps: list[FastAPI], room: Room, receiver: Receiver
) -> None:
    doors = {
        (method, route.path.replace(":path}", "}"))
        for route in apps[-1].routes
        if isinstance(route, Route) and route.path not in OURS
        for method in (route.methods or set()) - {"HEAD", "OPTIONS"}
    }
    operations = described.operations()
    assert OPENAPI == (await room.http.get("/openapi.json")).json()
    world = World(room, receiver)
    await world.build()
    for _, sent in receiver.calls:
        conforms(sent, "async", "components", "schemas", f"webhook.{sent['type']}")
    wrong = []
    for (method, path), operation in operations.items():
        for example in operation.examples:
            answer = await world.ask(method, path, operation.security, example)
            told = f"{method} {path}: {example.name}: {answer.status_code} {answer.text[:300]}"
            if answer.status_code != example.status:
                wrong.append(told)
                continue
            kind = answer.headers.get("content-type", "").split(";")[0]
            place = ("paths", path, method.lower(), "responses", str(example.status), "content", kind, "schema")
            try:
                conforms(answer.json() if kind == JSON else answer.text, "open", *place)
            except ValidationError as error:
                wrong.append(f"{told}: {error.message}")
            if example.answer is not None and example.answer != answer.json():
                wrong.append(told)
    assert [] == wrong
    assert doors == set(operations)


def test_examples_fit_their_schemas() -> None:
    for (method, path), operation in described.operations().items():
        for example in operation.examples:
            place = ("paths", path, method.lower(), "requestBody", "content", example.media, "schema")
            if example.sound and example.status < 400 and not isinstance(example.body, str | None):
                conforms(example.body, "open", *place)
    for name, sent in OUTGOING.items():
        example = ASYNCAPI["components"]["messages"][f"webhook.{name}"]["examples"][0]["payload"]
        assert sent.example == example["data"]
        conforms(example, "async", "components", "schemas", f"webhook.{name}")


def test_every_webhook_that_is_sent_is_documented() -> None:
    sent = {kind for path in modules("services/touchpoints") for kind in re.findall(r'envelope\("([\w.]+)"', path.read_text())}
    assert set() == (sent | {ASSIGNED, REASSIGNED, WITHDRAWN, ERASED, CONSENT}) - set(OUTGOING)
    said = card("a1", "gate", "D001", datetime.now(UTC), "345", Facts())
    conforms(said, "async", "components", "schemas", "webhook.arrival.card", "properties", "data")


@pytest.mark.parametrize("subject", sorted(subject for subject, _, _ in messages.streams()))
def test_the_example_of_a_fact_fits_its_schema_and_its_contract(subject: str) -> None:
    said = ASYNCAPI["components"]["messages"][subject]
    example = said["examples"][0]["payload"]
    conforms(example, "async", "components", "messages", subject, "payload")
    _, descriptor = messages.contracts()[subject]
    message = json_format.ParseDict(example, GetMessageClass(descriptor)())
    # Whatever a field means by its absence: the example says it as protobuf does.
    assert example == json_format.MessageToDict(message)
    reads = {events.REQUESTED: _requested, events.ENTITIES: _entities}
    if read := reads.get(subject):
        read(message.SerializeToString())


def _requested(payload: bytes) -> None:
    [asked] = events.requests(payload)
    assert "delivery-1" == events.delivery(asked).delivery_id


def _entities(payload: bytes) -> None:
    facts = events.entity_facts(payload)
    assert (1, 1) == (len(facts.consents), len(facts.moves))
