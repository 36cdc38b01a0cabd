"""The app backend keeps the contract of outgoing and incoming webhooks."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contract.emulators.world import THEME, Heard, Listener, Running, Start, signed, until, webhook
from tests.emulators.ledger import LAST_FAILING_ATTEMPT, FailurePlan

SECRET = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVowMTIz"
OLD_SECRET = "whsec_" + "b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xk"
PATH = "/webhooks/app"


def push(user: str, delivery: str, **changes: Any) -> bytes:
    data = {
        "delivery_id": delivery,
        "app_user_id": user,
        "theme": THEME,
        "offer": "offers/3",
        "title": "保养提醒",
        "body": "您的爱车该保养了",
        "purpose": "marketing",
        **changes,
    }
    return webhook("message.push", data)


def send(backend: Running, user: str, delivery: str, secret: str = SECRET) -> httpx.Response:
    body = push(user, delivery)
    return backend.post("/push", body, signed(secret, f"msg_{delivery}", body))


@pytest.fixture
def app(start: Start, listener: Listener) -> Start:
    def app(**config: Any) -> Running:
        config = {"secrets": {"app": SECRET}, "feedback_url": listener.url + PATH, "feedback_interval_ms": 20} | config
        return start("app_backend", **config)

    return app


def kinds(events: list[dict[str, Any]], delivery: str) -> list[str]:
    return [event["type"] for event in events if event["data"]["delivery_id"] == delivery]


def test_what_people_do_with_a_push_comes_back_signed_and_batched(app: Start, listener: Listener) -> None:
    backend = app(open_rate=1.0, feedback_interval_ms=200)
    for user in ("a-yes", "a-no", "a-silent", "stranger"):
        assert 200 == send(backend, user, f"d-{user}").status_code
    report = backend.settled()
    events = listener.events(PATH, SECRET)
    assert ["message.delivered", "message.opened", "message.answered"] == kinds(events, "d-a-yes")
    assert ["message.delivered", "message.opened"] == kinds(events, "d-a-silent")
    assert [] == kinds(events, "d-stranger")
    answers = {e["data"]["delivery_id"]: e["data"]["answer"] for e in events if e["type"] == "message.answered"}
    assert {"d-a-yes": "yes", "d-a-no": "no"} == answers
    assert (4, 2, 1) == (report["pushes"], report["answers_sent"], report["unknown_people"])
    assert {"message.answered:no": 1, "message.answered:yes": 1, "message.delivered": 3, "message.opened": 3} == report[
        "events_sent"
    ]
    assert len(listener.at(PATH)) < len(events)


def test_a_repeated_id_is_acknowledged_but_is_no_second_push(app: Start, listener: Listener) -> None:
    backend = app()
    assert [200, 200, 200] == [send(backend, "a-yes", "d1").status_code for _ in range(3)]
    report = backend.settled()
    assert (1, 2, 1) == (report["pushes"], report["repeats"], report["pushes_per_person_theme_max"])
    assert [] == report["pushed_twice"]
    assert 1 == len([e for e in listener.events(PATH, SECRET) if e["type"] == "message.answered"])


def test_two_deliveries_to_one_person_for_one_theme_are_judged(app: Start) -> None:
    backend = app()
    for delivery in ("d1", "d2"):
        send(backend, "a-yes", delivery)
    send(backend, "a-no", "d3")
    report = backend.settled()
    assert (2, [["a-yes", THEME]]) == (report["pushes_per_person_theme_max"], report["pushed_twice"])
    assert {"endpoint": "app", "person": "a-no", "theme": THEME, "delivery_id": "d3"} == report["all_pushes"][-1]


def test_hostile_signatures_are_refused_and_never_crash(app: Start) -> None:
    backend = app()
    body = push("a-yes", "d1")
    good = signed(SECRET, "msg_d1", body)
    old, new = (datetime.now(UTC) + timedelta(seconds=shift) for shift in (-400, 400))
    hostile = [
        (body, {}),
        (body, good | {"webhook-signature": "nocomma"}),
        (body, good | {"webhook-signature": "v1,%%%"}),
        (body, good | {"webhook-signature": "v1,a,b"}),
        (body, good | {"webhook-signature": good["webhook-signature"].replace("v1,", "v1a,")}),
        (body, good | {"webhook-timestamp": "yesterday"}),
        (body, good | {"webhook-timestamp": "1e400"}),
        (body, good | {"webhook-id": "msg_d2"}),
        (body + b" ", good),
        (b"\xff\xfe", good),
        (body, signed(OLD_SECRET, "msg_d1", body)),
        (body, signed(SECRET, "msg_d1", body, at=old)),
        (body, signed(SECRET, "msg_d1", body, at=new)),
    ]
    assert [401] * len(hostile) == [backend.post("/push", *request).status_code for request in hostile]
    report = backend.judge()
    assert (0, len(hostile), 0) == (report["pushes"], report["bad_signatures"], report["internal_errors"])


def test_either_secret_verifies_while_it_is_rotated_and_both_sign_the_feedback(app: Start, listener: Listener) -> None:
    backend = app(secrets={"app": [SECRET, OLD_SECRET]})
    assert 200 == send(backend, "a-yes", "d1", SECRET).status_code
    assert 200 == send(backend, "a-no", "d2", OLD_SECRET).status_code
    backend.settled()
    assert listener.events(PATH, SECRET) == listener.events(PATH, OLD_SECRET)


def test_a_malformed_push_is_refused_with_the_field_at_fault(app: Start) -> None:
    backend = app()
    malformed = [
        (b"{", None),
        (b"[]", None),
        (webhook("message.push", {}), "data.delivery_id"),
        (push("a-yes", "d1", purpose="spam"), "data.purpose"),
        (webhook("lead.assigned", json.loads(push("a-yes", "d1"))["data"]), "type"),
    ]
    answers = [backend.post("/push", body, signed(SECRET, "msg_x", body)) for body, _ in malformed]
    assert [(400, field) for _, field in malformed] == [(a.status_code, a.json().get("field")) for a in answers]
    assert {"invalid_request"} == {answer.json()["code"] for answer in answers}
    assert (0, len(malformed)) == (backend.judge()["pushes"], backend.judge()["malformed"])


RATES = {"500": 0.2, "503": 0.2, "429": 0.2, "closed": 0.2}


def test_failures_follow_the_plan_and_everything_gets_through(app: Start) -> None:
    backend = app(seed=7, failure_rates=RATES)
    plan = FailurePlan(7, RATES)
    planned, seen = {}, {}
    for i in range(60):
        for attempt in (1, 2, 3):
            due = plan.failure(f"msg_d{i}", attempt)
            planned[i, attempt] = due or "200"
            try:
                answer = send(backend, f"u{i}", f"d{i}")
            except httpx.TransportError:
                seen[i, attempt] = "closed"
                assert 200 == send(backend, f"u{i}", f"d{i}").status_code
                break
            seen[i, attempt] = str(answer.status_code)
            assert ("1" if due in ("503", "429") else None) == answer.headers.get("retry-after")
            if answer.status_code == 200:
                break
    report = backend.settled()
    assert planned == seen
    assert set(RATES) == set(report["failures_by_kind"])
    closed = list(seen.values()).count("closed")
    assert (60, closed, 1) == (report["pushes"], report["repeats"], report["pushes_per_person_theme_max"])
    assert sum(answer != "200" for answer in seen.values()) == report["failures_injected"]


@given(st.text(max_size=20), st.integers(1, 10), st.integers())
def test_a_plan_is_a_function_that_ends_with_the_third_attempt(key: str, attempt: int, seed: int) -> None:
    plan = FailurePlan(seed, {"500": 1.0})
    assert ("500" if attempt <= LAST_FAILING_ATTEMPT else None) == plan.failure(key, attempt)
    assert FailurePlan(seed, RATES).failure(key, attempt) == FailurePlan(seed, dict(RATES)).failure(key, attempt)


def test_a_plan_fails_the_share_of_attempts_that_it_says() -> None:
    plan = FailurePlan(1, {"500": 0.03, "503": 0.01})
    kinds = [plan.failure(f"msg_{i}", 1) for i in range(20_000)]
    assert pytest.approx(600, rel=0.2) == kinds.count("500")
    assert pytest.approx(200, rel=0.3) == kinds.count("503")


def test_feedback_is_sent_again_under_its_id_until_it_is_acknowledged(app: Start, listener: Listener) -> None:
    answers = iter([(500, b""), None, (302, b""), (429, b""), (401, b"")])

    def flaky(_: Heard) -> tuple[int, bytes] | None:
        return next(answers, (200, b'{"accepted":2,"rejected":[{"index":0}]}'))

    listener.respond = flaky
    backend = app(open_rate=0)
    send(backend, "a-yes", "d1")
    report = backend.settled()
    assert (5, 1) == (report["feedback_retries"], report["feedback_rejected"])
    assert 1 == len({(heard.headers["webhook-id"], heard.body) for heard in listener.at(PATH)})
    assert 2 == len(listener.events(PATH, SECRET))


def test_feedback_waits_for_a_listener_that_is_dead_and_goes_out_before_sigterm_ends(app: Start, listener: Listener) -> None:
    listener.respond = lambda _: None
    backend = app()
    for i in range(300):
        assert 200 == send(backend, f"u{i}", f"d{i}").status_code
    assert backend.judge()["feedback_pending"] >= 600
    listener.respond = lambda _: (200, b"{}")
    assert (0, "") == backend.stop()
    answered = [e for e in listener.events(PATH, SECRET) if e["type"] == "message.answered"]
    assert 300 == len(answered)
    assert max(len(json.loads(heard.body)["events"]) for heard in listener.at(PATH)) <= 500


def test_an_outage_lasts_until_it_is_lifted(app: Start) -> None:
    backend = app()
    assert 200 == backend.control(outage=True).status_code
    assert [503] * 4 == [send(backend, "a-yes", "d1").status_code for _ in range(4)]
    backend.control(outage=False)
    assert 200 == send(backend, "a-yes", "d1").status_code
    assert {"outage": 4} == backend.judge()["failures_by_kind"]


def test_control_changes_rates_unsubscribes_people_and_refuses_nonsense(app: Start, listener: Listener) -> None:
    backend = app()
    backend.control(failure_rates={"429": 1.0})
    assert [429, 429, 200] == [send(backend, "a-yes", "d1").status_code for _ in range(3)]
    assert 200 == backend.control(unsubscribe="a-yes").status_code
    assert 404 == backend.control(unsubscribe="a-no").status_code
    refused = backend.control(failure_rates={"429": 0.6, "500": 0.6})
    assert (400, "failure_rates") == (refused.status_code, refused.json()["field"])
    assert 400 == backend.control(nonsense=1).status_code
    backend.settled()
    assert "message.unsubscribed" == kinds(listener.events(PATH, SECRET), "d1")[-1]


def test_the_judge_answers_while_feedback_hangs(app: Start, listener: Listener) -> None:
    listener.respond = lambda _: (500, b"")
    backend = app()
    send(backend, "a-yes", "d1")
    report = until(backend.judge, lambda report: report["feedback_retries"] >= 2)
    assert (0, {}) == (report["answers_sent"], report["events_sent"])
    listener.respond = lambda _: (200, b"{}")
