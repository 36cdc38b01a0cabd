"""Real SDKs from PyPI and npm whose requests are refused, or arrive and nobody hears so: delivered once, and before the end."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import rudderstack.analytics as rudder
import segment.analytics as segment

from tests.contract.touchpoints import npm
from tests.contract.touchpoints.trouble import Fate, way_to
from tests.integration.touchpoints.quarantine import nothing_held
from tests.integration.touchpoints.room import Room, eventually

EVENTS = 45


@pytest.fixture(scope="session")
def modules() -> Path:
    return npm.install()


def in_python(client: Any, options: dict[str, Any]) -> Callable[[Path, str, str], Awaitable[list[Any]]]:
    """Uses a Python SDK as an application does: events, then its end."""

    async def run(_: Path, url: str, key: str) -> list[Any]:
        errors: list[Any] = []

        def use() -> None:
            sdk = client(key, host=url, on_error=lambda error, _: errors.append(error), max_retries=4, **options)
            for number in range(EVENTS):
                sdk.track(f"u{number}", "Model Viewed", {"model": "X5", "phone": "13800138000"})
            sdk.identify("u0", {"name": "张三", "plan": "gold"})
            # Not flushed before: the end itself must do it.
            sdk.shutdown()

        await asyncio.to_thread(use)
        return errors

    return run


def in_node(script: str) -> Callable[[Path, str, str], Awaitable[list[Any]]]:
    async def run(modules: Path, url: str, key: str) -> list[Any]:
        client = await npm.start(modules, script, url, key, str(EVENTS))
        found: list[Any] = (await client.ends())["errors"]
        return found

    return run


CLIENTS = {
    "segment-analytics-python": in_python(segment.Client, {"upload_size": 20, "gzip": True}),
    "rudder-sdk-python": in_python(rudder.Client, {"upload_size": 20}),
    "analytics-node": in_node("segment.cjs"),
    "rudder-sdk-node": in_node("rudder.cjs"),
}


@pytest.mark.parametrize("name", CLIENTS)
async def test_refused_and_unheard_requests_come_again_and_count_once_before_the_client_ends(
    room: Room, modules: Path, name: str
) -> None:
    key = await room.source("app")
    async with way_to(room.url, Fate.REFUSED, Fate.UNHEARD) as way:
        errors = await CLIENTS[name](modules, way.url, key)
    assert [] == errors
    assert {503: 2, 200: len(way.answers) - 2} == Counter(way.answers)
    observed = {event.event_id: (batch, event) for batch, event in await room.observed()}
    assert Counter({"Model Viewed": EVENTS, "Identified": 1}) == Counter(event.name for _, event in observed.values())
    batch, event = next(each for each in observed.values() if each[1].name == "Identified")
    sealed = room.identity.open(batch, event)
    assert ("张三", {"plan": "gold"}) == (sealed.person_name, json.loads(event.properties_json))
    viewed = [room.identity.open(*each) for each in observed.values() if each[1].name == "Model Viewed"]
    assert {f"u{number}" for number in range(EVENTS)} == {
        i.value for one in viewed for i in one.identifiers if i.kind == "crm_id"
    }
    assert all("13800138000" in [i.value for i in one.identifiers] for one in viewed)
    assert b"13800138000" not in b"".join(event.properties_json for _, event in observed.values())
    assert await nothing_held(room)


@pytest.mark.parametrize("name", CLIENTS)
async def test_an_unknown_key_is_final_and_the_client_says_so(room: Room, modules: Path, name: str) -> None:
    async with way_to(room.url) as way:
        errors = await CLIENTS[name](modules, way.url, "nobody")
    # One request for each batch: none came again.
    assert {401: 3 if name != "rudder-sdk-node" else 4} == Counter(way.answers)
    assert len(errors) >= 3


async def seen(room: Room) -> dict[bytes, Any]:
    return {event.event_id: event for _, event in await room.observed()}


async def viewed(room: Room, client: npm.Client, count: int) -> dict[str, Any]:
    """Waits until so many models were viewed, ends the client and gives what it says."""

    async def counted() -> int:
        return sum(event.name == "Model Viewed" for event in (await seen(room)).values())

    assert count == await eventually(counted, lambda given: given >= count)
    return await client.ends(b"end\n")


async def test_sensors_node_sdk_keeps_on_disk_what_was_not_taken_and_its_next_process_sends_it(
    room: Room, modules: Path, tmp_path: Path
) -> None:
    key = await room.source("app")
    async with way_to(room.url, Fate.REFUSED, Fate.UNHEARD) as way:
        url = f"{way.url}/sa?project=production&token={key}"
        first = await npm.start(modules, "sensors_node.cjs", url, str(tmp_path), "40")
        # Of four batches one was refused; of another it does not know that it was taken.
        await viewed(room, first, 30)
        assert [503, 503, 200, 200] == way.answers
        second = await npm.start(modules, "sensors_node.cjs", url, str(tmp_path), "0")
        await viewed(room, second, 40)
    assert 40 == len(await seen(room))
    assert await nothing_held(room)


async def test_sensors_web_sdk_delivers_from_a_page_what_waited_in_its_storage(room: Room, modules: Path) -> None:
    key = await room.source("web")
    async with way_to(room.url, Fate.REFUSED, Fate.UNHEARD) as way:
        url = f"{way.url}/sa?project=production&token={key}"
        await viewed(room, await npm.start(modules, "sensors_web.cjs", url, "12"), 12)
    assert 2 == way.answers.count(503)
    observed = await seen(room)
    assert {"Page Viewed", "Identified", "Model Viewed"} <= {event.name for event in observed.values()}
    texts = b"".join(event.properties_json for event in observed.values())
    assert set(range(12)) == {json.loads(e.properties_json)["n"] for e in observed.values() if e.name == "Model Viewed"}
    assert b"13800138000" not in texts and "深圳".encode() in texts
    assert await nothing_held(room)
