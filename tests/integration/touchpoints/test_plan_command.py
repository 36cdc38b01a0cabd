"""`troika plan` and `troika quarantine` against a running service, as an operator types them."""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import yaml

from services.touchpoints import command as registering
from services.touchpoints.plan import command as planning
from tests.integration.touchpoints.quarantine import held
from tests.integration.touchpoints.room import TOKEN, Room, basic

VERBS = (*registering.VERBS, *planning.VERBS)
Typed = Callable[..., Awaitable[str]]


@pytest.fixture
def typed(room: Room, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Typed:
    monkeypatch.setenv("TROIKA_TOKEN", f"operator.{TOKEN}")
    parser = argparse.ArgumentParser()
    words = parser.add_subparsers(dest="verb")
    for verb in VERBS:
        verb.arguments(words.add_parser(verb.name))

    async def run(*line: str, code: int = 0) -> str:
        flags = parser.parse_args([*line, "--target", f"127.0.0.1:{room.settings.grpc_port}"])
        verb = next(each for each in VERBS if each.name == flags.verb)
        assert code == await asyncio.to_thread(verb.run, flags)
        told = capsys.readouterr()
        return told.err if code else told.out

    return run


async def test_an_operator_plans_an_event_finds_what_was_held_and_heals_it(room: Room, typed: Typed, tmp_path: Path) -> None:
    key = await room.source("app")
    file = tmp_path / "seen.yaml"
    written = {"Car Seen": {"title": "看车", "schema": {"properties": {"price": {"type": "number"}}}, "sources": ["app"]}}
    file.write_text(yaml.safe_dump(written, allow_unicode=True))
    assert "Car Seen is version 1; of 0 held events 0 would go on\n" == await typed("plan", "save", str(file))
    shown = await typed("plan", "show", "Car Seen")
    assert "# version 1, saved" in shown
    assert {**written["Car Seen"], "description": ""} == yaml.safe_load(shown)["Car Seen"]
    assert "Car Seen" in (listed := await typed("plan", "list", "--source", "app"))
    assert listed.endswith("unplanned events are let pass and counted\n")
    event = {
        "type": "track",
        "event": "Car Seen",
        "userId": "u1",
        "messageId": "m1",
        "properties": {"price": "?", "phone": "13800138000"},
    }
    await room.http.post("/v1/batch", json={"batch": [event]}, headers=basic(key))
    [(row, _)] = await held(room, 1)
    assert "1 held events" in await typed("quarantine", "count", "--since", "2026-01-01")
    told = await typed("quarantine", "list", "--events", row["event_id"].hex())
    assert 'is not of type "number"' in told
    assert ("13800138000" in told, "u1" in told, '"price": "?"' in told) == (False, False, True)
    of_it = ("quarantine", "replay", "--event", "Car Seen")
    assert "of 1 held events 0 would go on, still held: 1 PLAN_MISMATCH\n" == await typed(*of_it, "--dry-run")
    patch = json.dumps({"properties": {"price": None}})
    assert "done, 1 of 1 sent on, 0 still held" in await typed(*of_it, "--patch", patch)
    assert 1 == len(await room.observed())
    assert "0 events\n" == await typed("quarantine", "discard", "--event", "Car Seen")
    assert "unplanned_mode_hold\n" == await typed("plan", "unplanned", "hold")
    assert "none\n" == await typed("plan", "passed")
    assert (await typed("quarantine", "discard", code=1)).startswith("INVALID_ARGUMENT (filter): ")
    assert (await typed("plan", "save", str(tmp_path / "none"), code=1)).startswith("FILE_NOT_READ: ")


async def test_a_source_has_a_key_for_pages_and_one_for_servers(room: Room, typed: Typed) -> None:
    publishable = (await typed("source", "app")).strip()
    server = json.loads(await typed("source", "app", "--server-side", "--json"))
    assert ("app", True) == (server["source"], server["server_side"])
    for key in (publishable, server["key"]):
        answer = await room.http.post("/v1/batch", json={"batch": []}, headers=basic(key))
        assert (200, {"success": True}) == (answer.status_code, answer.json())
    assert (await typed("source", "App", code=1)).startswith("INVALID_ARGUMENT")


async def test_sensors_sdks_whose_names_have_no_blanks_reach_the_same_event(room: Room, typed: Typed, tmp_path: Path) -> None:
    key, file = await room.source("app"), tmp_path / "seen.yaml"
    planned = {"title": "看车", "schema": {"properties": {"price": {"type": "number"}}}, "aliases": ["kan_che"]}
    file.write_text(yaml.safe_dump({"Car Seen": planned}, allow_unicode=True))
    await typed("plan", "save", str(file))
    assert {**planned, "description": ""} == yaml.safe_load(await typed("plan", "show", "Car Seen"))["Car Seen"]
    for name, price in (("CarSeen", 1), ("kan_che", 2), ("CarSeen", "?")):
        said = {"type": "track", "event": name, "distinct_id": "u1", "time": 1_795_248_000_000, "properties": {"price": price}}
        data = base64.b64encode(json.dumps(said).encode()).decode()
        assert 200 == (await room.http.post("/sa", params={"token": key}, data={"data": data})).status_code
    assert ["Car Seen"] * 2 == [event.name for _, event in await room.observed()]
    [(row, _)] = await held(room, 1)
    assert ("Car Seen", "price") == (row["event"], row["field"])
    file.write_text(yaml.safe_dump({"Car Looked At": planned}, allow_unicode=True))
    assert (await typed("plan", "save", str(file), code=1)).startswith("ALIAS_TAKEN (event_type.aliases): kan_che ")
