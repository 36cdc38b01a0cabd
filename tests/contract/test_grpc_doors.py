"""Rubbish at every gRPC door: a typed answer each time, never INTERNAL or UNKNOWN, and the service lives on."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chassis import rpc
from local.supervisor import Suite
from tests.contract.messages import messages
from tests.house.source import SERVICES, files

# What a caller may be told when the input is wrong or the moment is.
TYPED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
# Starts a real training that keeps a core busy for seconds; its rules are checked by the room's own tests.
EXPENSIVE = {"TrainModel"}


# Goes on for as long as the caller wants; rubbish that means something gets an answer that does not end.
ENDLESS = {"WatchAudience"}


def rpcs(service: str) -> dict[str, Any]:
    """Every RPC of a service by its name, which is its alone, in whatever file it is stated."""
    found: dict[str, Any] = {}
    for stubs in files(f"gen/troika/{service}/v1/*_service_pb2.py"):
        importlib.import_module(f"troika.{service}.v1.{stubs.stem}")
        path = f"troika/{service}/v1/{stubs.stem.removesuffix('_pb2')}.proto"
        for stated in descriptor_pool.Default().FindFileByName(path).services_by_name.values():
            assert found.keys().isdisjoint(stated.methods_by_name)
            found |= stated.methods_by_name
    return found


def methods() -> list[tuple[str, str]]:
    """(service, method) of every RPC."""
    return [(service, method) for service in SERVICES for method in rpcs(service)]


def described(service: str, method: str) -> Any:
    return rpcs(service)[method]


async def call(channel: grpc.aio.Channel, service: str, method: str, request: Message) -> tuple[grpc.StatusCode, str, str]:
    """(code, reason, field) that came back."""
    found = described(service, method)
    path = f"/{found.containing_service.full_name}/{method}"
    shape = channel.unary_stream if found.server_streaming else channel.unary_unary
    answer = message_factory.GetMessageClass(found.output_type)
    stub: Any = shape(path, lambda message: message.SerializeToString(), answer.FromString)
    try:
        if found.server_streaming:
            async for _ in stub(request, timeout=1 if method in ENDLESS else 20):
                pass
        else:
            await stub(request, timeout=20)
    except grpc.aio.AioRpcError as error:
        if method in ENDLESS and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return grpc.StatusCode.OK, "", ""
        return error.code(), *rpc.reason_of(error)
    return grpc.StatusCode.OK, "", ""


@pytest.fixture(scope="module")
async def channels(suite: Suite) -> AsyncIterator[dict[str, grpc.aio.Channel]]:
    opened = {service: suite.operator_channel(service) for service in SERVICES}
    yield opened
    for channel in opened.values():
        await channel.close()


@pytest.mark.parametrize(("service", "method"), [m for m in methods() if m[1] not in EXPENSIVE])
async def test_rubbish_gets_a_typed_answer(channels: dict[str, grpc.aio.Channel], service: str, method: str) -> None:
    requests: list[Message] = []

    # Hypothesis drives synchronous functions; it chooses here, the calls run below in the test's own loop.
    @settings(max_examples=25, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def choose(data: st.DataObject) -> None:
        requests.append(data.draw(messages(described(service, method).input_type)))

    choose()
    answers = await asyncio.gather(*(call(channels[service], service, method, request) for request in requests))
    bad = [(request, code) for request, (code, _, _) in zip(requests, answers, strict=True) if code not in TYPED]
    assert [] == bad
    nameless = [
        request
        for request, (code, reason, field) in zip(requests, answers, strict=True)
        if code == grpc.StatusCode.INVALID_ARGUMENT and not (reason and field)
    ]
    assert [] == nameless


@pytest.mark.parametrize("service", SERVICES)
async def test_every_service_is_ready_after_all_that(suite: Suite, service: str) -> None:
    await suite.ready(service)
    assert 0 == suite.children[service].deaths_in_a_row


THEME = {
    "title": "Test drives",
    "audience": "age > 30",
    "goal": {"event": "Offer Answered", "window_days": 30},
    "offers": ["offers/1"],
    "language": "en",
    "purpose": "service",
    "bands": [{"channels": ["app"]}],
    "budget": {"max_contacts": 1},
    "model": "purchase_intent",
}


@pytest.mark.parametrize(
    ("service", "method", "fields", "code", "reason", "field"),
    [
        ("orchestrator", "GetTheme", {"name": "themes/999"}, "NOT_FOUND", "THEME_NOT_FOUND", "name"),
        ("orchestrator", "LaunchTheme", {"name": "themes/999"}, "NOT_FOUND", "THEME_NOT_FOUND", "name"),
        ("orchestrator", "GetTheme", {"name": "theme 9"}, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "name"),
        (
            "orchestrator",
            "CreateTheme",
            {"theme": THEME | {"audience": "agee > 30"}},
            "INVALID_ARGUMENT",
            "UNKNOWN_TAG",
            "theme.audience",
        ),
        ("orchestrator", "ListThemes", {"page_token": "made up"}, "INVALID_ARGUMENT", "INVALID_PAGE_TOKEN", "page_token"),
        (
            "tags",
            "CountAudience",
            {"entity_kind": 1, "predicate": "age > 'x'"},
            "INVALID_ARGUMENT",
            "TYPE_MISMATCH",
            "predicate",
        ),
        ("tags", "CountAudience", {"entity_kind": 1, "predicate": "age >"}, "INVALID_ARGUMENT", "SYNTAX", "predicate"),
        (
            "tags",
            "CreateAudience",
            {"name": "a", "owner": "o", "entity_kind": 1, "predicate": "agee > 1", "dry_run": True},
            "INVALID_ARGUMENT",
            "UNKNOWN_TAG",
            "predicate",
        ),
        ("tags", "GetAudience", {"name": "nosuch"}, "NOT_FOUND", "AUDIENCE_NOT_FOUND", "name"),
        (
            "tags",
            "ExplainMembership",
            {"entity_kind": 1, "entity_id": 2**40, "predicate": "age > 1"},
            "NOT_FOUND",
            "NOT_FOUND",
            "entity_id",
        ),
        ("tags", "CountAudience", {"entity_kind": 7}, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "entity_kind"),
        ("scoring", "GetModel", {"model": "nosuch"}, "NOT_FOUND", "UNKNOWN_MODEL", "model"),
        ("touchpoints", "GetDelivery", {"delivery_id": "nosuch"}, "NOT_FOUND", "DELIVERY_NOT_FOUND", "delivery_id"),
    ],
)
async def test_what_is_wrong_is_named(
    channels: dict[str, grpc.aio.Channel],
    service: str,
    method: str,
    fields: dict[str, Any],
    code: str,
    reason: str,
    field: str,
) -> None:
    request = message_factory.GetMessageClass(described(service, method).input_type)(**fields)
    found, why, where = await call(channels[service], service, method, request)
    assert (code, reason, field) == (found.name, why, where)
