"""Real clients of Sensors Analytics: requests captured on the wire, and an SDK that runs."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any
from urllib.parse import urlencode

import pytest
import sensorsanalytics

from tests.contract.touchpoints.requests import captured
from tests.integration.touchpoints.quarantine import held, nothing_held
from tests.integration.touchpoints.room import Room


@pytest.mark.parametrize("name", ["sa-web-ajax-batch-01.raw", "sa-web-ajax-no-01.raw", "sa-web-image-no-01.raw"])
async def test_a_captured_request_of_the_web_sdk_is_taken_whole(room: Room, name: str) -> None:
    key = await room.source("web")
    method, path, headers, body = captured(name)
    answer = await room.http.request(method, path + f"&token={key}", content=body, headers=headers)
    assert (200, "*") == (answer.status_code, answer.headers["access-control-allow-origin"])
    assert await nothing_held(room)
    observed = await room.observed()
    assert observed
    assert all("$lib" not in json.loads(e.properties_json or b"{}") for _, e in observed)
    refused = await room.http.request(method, path, content=body, headers=headers)
    # Phones keep what a 403 refuses; any other refusal would delete it.
    assert (403, "unauthorized") == (refused.status_code, refused.json()["code"])


async def test_the_python_sdk_delivers_in_each_of_its_ways_and_its_thread_lives_on(room: Room) -> None:
    key = await room.source("app")
    url = f"{room.url}/sa?project=production&token={key}"
    consumers: list[Any] = [
        sensorsanalytics.DefaultConsumer(url),
        sensorsanalytics.BatchConsumer(url, max_size=20),
        sensorsanalytics.AsyncBatchConsumer(url, flush_max_time=1),
    ]

    def use(number: int, consumer: Any) -> None:
        sdk = sensorsanalytics.SensorsAnalytics(consumer)
        for index in range(30):
            sdk.track(f"u{index}", "ModelViewed", {"model": "X5", "way": number}, is_login_id=True)
        # A name that the protocol forbids, put in behind the SDK's own check: what follows must still arrive.
        consumer.send(json.dumps({"type": "track", "event": "no name", "distinct_id": "u", "time": 1, "properties": {}}))
        sdk.track_signup(f"member-{number}", f"anon-{number}")
        sdk.profile_set(f"member-{number}", {"city": "深圳", "phone": "13800138000"}, is_login_id=True)
        sdk.flush()
        sdk.close()

    for number, consumer in enumerate(consumers):
        await asyncio.to_thread(use, number, consumer)

    async def seen() -> int:
        return len(await room.observed())

    async with asyncio.timeout(20):
        while await seen() < 3 * 32:
            await asyncio.sleep(0.1)
    observed = await room.observed()
    assert [30, 30, 30] == [
        sum(json.loads(e.properties_json).get("way") == number for _, e in observed if e.name == "Model Viewed")
        for number in range(3)
    ]
    assert 3 == sum(e.name == "Identified" and b"city" in e.properties_json for _, e in observed)
    assert b"13800138000" not in b"".join(e.SerializeToString() for _, e in observed)
    # The same bytes three times are one event that was set aside.
    await held(room, 1)


async def test_debug_says_what_is_wrong_and_a_dry_run_keeps_nothing(room: Room) -> None:
    key = await room.source("app")

    async def send(event: dict[str, Any], **headers: str) -> tuple[int, str]:
        data = base64.b64encode(json.dumps(event).encode()).decode()
        answer = await room.http.post(f"/debug?project=p&token={key}", content=urlencode({"data": data}), headers=headers)
        return answer.status_code, answer.text

    good = {"type": "track", "event": "E", "distinct_id": "a", "time": 1_795_248_000_000, "properties": {}}
    assert (200, "") == await send(good, **{"Dry-Run": "true"})
    assert [] == await room.observed()
    assert (200, "") == await send(good)
    code, told = await send(good | {"event": "no name"})
    assert (400, True) == (code, told.startswith("event: "))
    assert 1 == len(await room.observed())


@pytest.mark.parametrize("body", [b"", b"rubbish", b"data=%FF", b"data=###", b"\xff\xfe", b"gzip=9&data_list=xx"])
async def test_what_cannot_be_read_is_answered_with_200_and_kept(room: Room, body: bytes) -> None:
    key = await room.source("app")
    answer = await room.http.post(f"/sa?token={key}", content=body)
    assert 200 == answer.status_code
    await held(room, 1)
