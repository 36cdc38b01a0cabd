"""Pushes through all three channels to the emulated receivers, failures included, and what comes back."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from services.touchpoints.domain.deliveries import State
from tests.integration.touchpoints.receivers import APP, APPID, DEALER, WECHAT, finished, judge, receiver, settled
from tests.integration.touchpoints.room import Room, eventually, free_port, request

EACH = 60
WORSE: dict[str, Any] = {"seed": 7, "failure_rates": {"500": 0.15, "429": 0.02, "closed": 0.1}}


def people(room: Room) -> dict[str, Any]:
    """Persons 1…: app, 1001…: WeChat, 2001…: dealer; every third says yes."""
    truth: dict[str, Any] = {"app_users": {}, "openids": {}, "mobiles": {}}
    for i in range(EACH):
        answer = "yes" if i % 3 == 0 else "no"
        mobile = f"+86138{i:08d}"
        truth["app_users"][f"u{i}"] = answer
        truth["openids"][f"o{i}"] = answer
        truth["mobiles"][mobile] = [{"name": f"人{i}", "answer": answer}]
        room.identity.book[i + 1, "crm_id", "app"] = (i + 1, f"u{i}")
        room.identity.book[i + 1001, "openid", APPID] = (i + 1001, f"o{i}")
        room.identity.book[i + 2001, "mobile", ""] = (i + 2001, mobile)
        room.identity.names[i + 2001] = f"人{i}"
    return truth


async def test_every_push_arrives_once_and_every_answer_comes_back_whatever_fails(room: Room, tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps(people(room)))
    app, dealers, wechat = free_port(), free_port(), free_port()
    app_secret = await room.endpoint("app", APP, f"http://127.0.0.1:{app}/push")
    dealer_secret = await room.endpoint("dealer-d001", DEALER, f"http://127.0.0.1:{dealers}/dealers/D001/leads", "D001")
    await room.endpoint(
        "wechat", WECHAT, f"http://127.0.0.1:{wechat}", APPID,
        settings={"template_id": "T1"}, secrets={"app_secret": "s3cret", "callback_token": "callback"},
    )  # fmt: skip
    async with AsyncExitStack() as stack:
        starts = [
            receiver(
                tmp_path, "app_backend", app, truth_file=str(truth), secrets={"app": app_secret}, open_rate=1.0,
                feedback_url=f"{room.url}/webhooks/app", **WORSE,
            ),
            receiver(
                tmp_path, "dealer_backend", dealers, truth_file=str(truth), secrets={"D001": dealer_secret},
                feedback_url=f"{room.url}/webhooks/dealer-{{code}}", **WORSE,
            ),
            receiver(
                tmp_path, "wechat", wechat, truth_file=str(truth), secrets={APPID: "s3cret"}, not_following_rate=0,
                callback_tokens={APPID: "callback"}, templates={"T1": ["thing1", "thing2"]}, user_block_rate=0, url_check=True,
                feedback_url=f"{room.url}/wechat/callback/{{appid}}", failure_rates={"busy": 0.1, "closed": 0.1}, seed=7,
            ),
        ]  # fmt: skip
        await asyncio.gather(*(stack.enter_async_context(start) for start in starts))
        requests = [request(f"a{i}", i + 1, "app") for i in range(EACH)]
        requests += [request(f"w{i}", i + 1001, "wechat") for i in range(EACH)]
        # Half of the leads were meant for the app, where these persons have no address.
        requests += [request(f"d{i}", i + 2001, "dealer") for i in range(0, EACH, 2)]
        requests += [
            request(f"d{i}", i + 2001, "app", fallback_channels=["wechat", "dealer"], dealer_code="D001")
            for i in range(1, EACH, 2)
        ]
        ids = [r.delivery_id for r in requests]
        for _ in range(2):
            await room.request(*requests)
        states = await finished(room, ids)
        reports = [await settled(room, port) for port in (app, dealers, wechat)]
        states = await eventually(lambda: finished(room, ids), lambda s: set(s.values()) == {State.ANSWERED})

        assert {State.ANSWERED} == set(states.values())
        assert [EACH, EACH, EACH] == [r["pushes"] for r in reports]
        assert [[], [], []] == [r["pushed_twice"] for r in reports]
        assert [0, 0, 0] == [r["bad_signatures"] + r["malformed"] + r["internal_errors"] + r["unknown_people"] for r in reports]
        assert all(r["failures_injected"] > 0 for r in reports)
        assert 1 == (await judge(room, wechat))["url_checks_passed"]
        await the_loop_is_closed(room)


async def the_loop_is_closed(room: Room) -> None:
    def told(events: list[Any]) -> Counter[tuple[str, str]]:
        return Counter((e.source.partition(":")[0], e.name) for _, e in events)

    answered = {(source, "Offer Answered"): EACH for source in ("app", "dealer", "wechat")}
    delivered = {(source, "Push Delivered"): EACH for source in ("app", "dealer", "wechat")}
    expected = answered | delivered | {("app", "Push Opened"): EACH}
    events = await eventually(room.observed, lambda events: len(events) >= 7 * EACH)
    assert expected == told(events)
    answers = {e.anchor_id: json.loads(e.properties_json) for _, e in events if e.name == "Offer Answered"}
    assert {"answer": "yes", "delivery_id": "w0", "theme": "themes/12", "channel": "wechat"} == answers[1001]
    assert 3 * EACH == len(answers)
    assert EACH == sum(a["answer"] == "yes" for a in answers.values())
    furthest: dict[str, int] = {}
    for update in await room.updates():
        furthest[update.delivery_id] = max(furthest.get(update.delivery_id, 0), update.state)
    assert {State.ANSWERED} == set(furthest.values())
    assert 3 * EACH == len(furthest)
