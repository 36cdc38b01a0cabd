"""Real clients of Segment's protocol: requests captured on the wire, and an SDK that runs."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
import segment.analytics as analytics

from tests.contract.touchpoints.requests import captured
from tests.integration.touchpoints.quarantine import nothing_held
from tests.integration.touchpoints.room import Room, basic


@pytest.mark.parametrize(
    ("name", "events"),
    [("segment-py-plain-01.raw", 6), ("segment-py-gzip-01.raw", 1), ("rudder-py-gzip-01.raw", 2)],
)
async def test_a_captured_request_is_taken_whole(room: Room, name: str, events: int) -> None:
    await room.source("app")
    _, path, headers, body = captured(name)
    shown = base64.b64decode(headers["Authorization"].removeprefix("Basic ")).decode()
    assert shown.endswith(":")
    answer = await room.http.post(path, content=body, headers=headers | basic(room.keys["app"]))
    assert (200, b'{"success":true}') == (answer.status_code, answer.content)
    assert await nothing_held(room)
    assert events == len(await room.observed())
    refused = await room.http.post(path, content=body, headers=headers)
    assert (401, "unauthorized") == (refused.status_code, refused.json()["code"])


async def test_segments_python_sdk_delivers_and_hears_no_error(room: Room) -> None:
    key = await room.source("app")
    errors: list[Any] = []

    def use(gzip: bool) -> None:
        client = analytics.Client(key, host=room.url, gzip=gzip, on_error=lambda error, _: errors.append(error), max_retries=1)
        for index in range(120):
            client.track(f"u{index}", "Model Viewed", {"model": "X5", "phone": "13800138000", "gzip": gzip})
        client.identify("u1", {"name": "张三", "email": "z@example.cn", "plan": "gold"})
        client.flush()
        client.shutdown()

    for gzip in (False, True):
        await asyncio.to_thread(use, gzip)
    assert [] == errors
    observed = await room.observed()
    assert 242 == len(observed)
    assert {"Model Viewed", "Identified"} == {e.name for _, e in observed}
    batch, event = next((b, e) for b, e in observed if e.name == "Identified")
    sealed = room.identity.open(batch, event)
    assert ("张三", {"plan": "gold"}) == (sealed.person_name, json.loads(event.properties_json))
    assert {("crm_id", "u1"), ("email", "z@example.cn")} == {(i.kind, i.value) for i in sealed.identifiers}


async def test_the_sdk_takes_an_unknown_key_for_final(room: Room) -> None:
    errors: list[Any] = []

    def use() -> None:
        client = analytics.Client("nobody", host=room.url, on_error=lambda error, _: errors.append(error), max_retries=3)
        client.track("u", "x")
        client.flush()
        client.shutdown()

    await asyncio.to_thread(use)
    assert 1 == len(errors)


async def test_every_error_has_the_shape_that_rudderstack_can_read(room: Room) -> None:
    paths = ["/v1/batch", "/v1/t", "/v1/records", "/webhooks/app", "/wechat/callback/wx1", "/nowhere", "/contacts/x/"]
    for path in paths:
        answer = await room.http.post(path, content=b"{")
        body: Mapping[str, Any] = answer.json()
        assert 400 <= answer.status_code < 500, path
        assert {"code", "message"} <= set(body) <= {"code", "message", "field"}, path
    for path in ["/v1/batch", "/contacts/x", "/wechat/callback/wx1", "/v1/batch/"]:
        answer = await room.http.get(path)
        assert 400 <= answer.status_code < 500, path
        assert {"code", "message"} <= set(answer.json()), path


async def test_browsers_may_ask_first(room: Room) -> None:
    answer = await room.http.options(
        "/v1/t", headers={"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    )
    assert 204 == answer.status_code
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
