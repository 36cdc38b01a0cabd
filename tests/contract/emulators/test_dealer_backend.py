"""The dealers fetch the contact, call, and answer with what the person really said."""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.contract.emulators.world import THEME, Heard, Listener, Running, Start, signed, webhook

SECRETS = {"D001": "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVowMTIz", "D002": "whsec_" + "b2xk" * 10}


@pytest.fixture
def dealers(start: Start, listener: Listener) -> Start:
    def dealers(**config: Any) -> Running:
        url = listener.url + "/webhooks/dealer-{code}"
        config = {"secrets": SECRETS, "feedback_url": url, "feedback_interval_ms": 20} | config
        return start("dealer_backend", **config)

    return dealers


def lead(listener: Listener, contact: str, dealer: str = "D001", **changes: Any) -> bytes:
    data = {
        "lead_id": f"lead-{contact}",
        "revision": 1,
        "dealer_code": dealer,
        "rank": 17,
        "sla_seconds": 900,
        "customer": {
            "customer_ref": f"customers/{contact}",
            "contact_url": f"{listener.url}/contacts/{contact}",
            "contact_token_expires": "2026-11-22T08:00:00Z",
        },
        "interest": {"kind": "test_drive"},
        "score": {"value": 873, "band": "A"},
        "reasons": ["询价两次"],
        "theme": THEME,
        "consent": {"purposes": ["dealer_contact"], "withdrawn": False},
        **changes,
    }
    return webhook("lead.assigned", data)


def send(dealers: Running, body: bytes, dealer: str = "D001", secret: str | None = None) -> httpx.Response:
    webhook_id = f"msg_{json.loads(body)['data']['lead_id']}"
    return dealers.post(f"/dealers/{dealer}/leads", body, signed(secret or SECRETS[dealer], webhook_id, body))


def contacts(**persons: tuple[str, str | None]) -> Callable[[Heard], tuple[int, bytes]]:
    """A touchpoints that reveals these contacts and takes any feedback; an unknown token is 404."""

    def respond(heard: Heard) -> tuple[int, bytes]:
        if heard.method == "POST":
            return 200, b"{}"
        mobile, name = persons.get(heard.path.rsplit("/", 1)[1], (None, None))
        return (200, json.dumps({"mobile": mobile, "name": name}).encode()) if mobile else (404, b"{}")

    return respond


def told(listener: Listener, dealer: str, lead_id: str) -> list[tuple[str, str | None]]:
    events = listener.events(f"/webhooks/dealer-{dealer}", SECRETS[dealer])
    return [(e["type"], e["data"].get("answer")) for e in events if e["data"]["delivery_id"] == lead_id]


def test_the_person_of_that_name_on_a_shared_phone_answers(dealers: Start, listener: Listener) -> None:
    listener.respond = contacts(
        wei=("+8613800138000", "张伟"),
        na=("+8613800138000", " 李 娜"),
        misheard=("+8613800138000", "王五"),
        nameless=("+8613800138001", None),
    )
    running = dealers()
    for token in ("wei", "na", "misheard", "nameless"):
        assert 200 == send(running, lead(listener, token)).status_code
    report = running.settled()
    answers = {"wei": "yes", "na": "no", "misheard": "yes", "nameless": "no"}
    for token, answer in answers.items():
        assert [("lead.contacted", None), ("lead.answered", answer)] == told(listener, "D001", f"lead-{token}")
    assert (4, 4) == (report["pushes"], report["answers_sent"])
    assert {"lead.contacted": 4, "lead.answered:yes": 2, "lead.answered:no": 2} == report["events_sent"]


def test_a_number_that_nobody_has_is_unreachable(dealers: Start, listener: Listener) -> None:
    listener.respond = contacts(typo=("+8613800138009", "张伟"))
    running = dealers()
    send(running, lead(listener, "typo"))
    assert 1 == running.settled()["unknown_people"]
    assert [("lead.unreachable", None)] == told(listener, "D001", "lead-typo")


def test_each_dealer_has_its_own_path_secret_and_feedback_endpoint(dealers: Start, listener: Listener) -> None:
    listener.respond = contacts(wei=("+8613800138000", "张伟"))
    running = dealers()
    body = lead(listener, "wei", "D002")
    assert 401 == send(running, body, "D002", SECRETS["D001"]).status_code
    assert 404 == send(running, body, "D009", SECRETS["D002"]).status_code
    assert 400 == send(running, body, "D001").status_code
    assert 200 == send(running, body, "D002").status_code
    report = running.settled()
    assert (1, 1, 1) == (report["pushes"], report["bad_signatures"], report["malformed"])
    assert 2 == len(told(listener, "D002", "lead-wei"))
    assert [] == listener.at("/webhooks/dealer-D001")


def test_the_feedback_endpoint_may_carry_the_code_in_lower_case(dealers: Start, listener: Listener) -> None:
    listener.respond = contacts(wei=("+8613800138000", "张伟"))
    running = dealers(feedback_url=listener.url + "/webhooks/dealer-{lower}")
    send(running, lead(listener, "wei"))
    running.settled()
    assert ["/webhooks/dealer-d001"] == [heard.path for heard in listener.heard if heard.method == "POST"]


def test_the_contact_is_asked_for_until_the_door_answers(dealers: Start, listener: Listener) -> None:
    answers = iter([(500, b""), (503, b""), (302, b"")])
    reveal = contacts(wei=("+8613800138000", "张伟"))

    def flaky(heard: Heard) -> tuple[int, bytes]:
        return next(answers, reveal(heard)) if heard.method == "GET" else reveal(heard)

    listener.respond = flaky
    running = dealers()
    send(running, lead(listener, "wei"))
    report = running.settled()
    assert (3, 4) == (report["contact_retries"], len(listener.at("/contacts/wei")))
    assert 2 == len(told(listener, "D001", "lead-wei"))


def test_a_contact_that_is_gone_is_not_called(dealers: Start, listener: Listener) -> None:
    listener.respond = contacts()
    running = dealers()
    send(running, lead(listener, "gone"))
    report = running.settled()
    assert (1, 0, 1) == (report["contacts_refused"], report["answers_sent"], len(listener.at("/contacts/gone")))


def test_a_repeated_lead_is_called_once(dealers: Start, listener: Listener) -> None:
    listener.respond = contacts(wei=("+8613800138000", "张伟"))
    running = dealers(failure_rates={"closed": 1.0})
    body = lead(listener, "wei")
    with pytest.raises(httpx.TransportError):
        send(running, body)
    assert 200 == send(running, body).status_code
    report = running.settled()
    assert (1, 1, 1, 1) == (report["pushes"], report["repeats"], report["failures_injected"], report["answers_sent"])
    assert 1 == len(listener.at("/contacts/wei"))


def test_no_more_contacts_are_open_at_once_than_configured(dealers: Start, listener: Listener) -> None:
    open_now, most = [0], [0]
    reveal = contacts(**{f"c{i}": ("+8613800138000", "张伟") for i in range(20)})

    def slow(heard: Heard) -> tuple[int, bytes]:
        if heard.method == "GET":
            open_now[0] += 1
            most[0] = max(most[0], open_now[0])
            time.sleep(0.02)
            open_now[0] -= 1
        return reveal(heard)

    listener.respond = slow
    running = dealers(contact_concurrency=3)
    for i in range(20):
        send(running, lead(listener, f"c{i}"))
    assert 20 == running.settled()["answers_sent"]
    assert 1 < most[0] <= 3


def test_a_lead_with_contact_data_or_without_consent_is_refused(dealers: Start, listener: Listener) -> None:
    running = dealers()
    customer = json.loads(lead(listener, "wei"))["data"]["customer"]
    wrong = {
        "data.customer.mobile": lead(listener, "wei", customer={**customer, "mobile": "+8613800138000"}),
        "data.consent.withdrawn": lead(listener, "wei", consent={"purposes": ["dealer_contact"], "withdrawn": True}),
        "data.consent.purposes": lead(listener, "wei", consent={"purposes": ["analytics"], "withdrawn": False}),
        "data.score.value": lead(listener, "wei", score={"value": 1001, "band": "A"}),
        "data.customer.contact_url": lead(listener, "wei", customer={**customer, "contact_url": "file:///etc/passwd"}),
    }
    answers = [send(running, body) for body in wrong.values()]
    assert [(400, field) for field in wrong] == [(a.status_code, a.json()["field"]) for a in answers]
    assert {"pushes": 0, "malformed": len(wrong)}.items() <= running.judge().items()


def test_a_person_who_is_a_lead_twice_for_one_theme_is_judged(dealers: Start, listener: Listener) -> None:
    listener.respond = contacts(wei=("+8613800138000", "张伟"))
    running = dealers()
    send(running, lead(listener, "wei"))
    send(running, lead(listener, "wei", "D002", lead_id="lead-again"), "D002")
    assert [["customers/wei", THEME]] == running.settled()["pushed_twice"]


def test_a_call_in_progress_is_finished_before_sigterm_ends(dealers: Start, listener: Listener) -> None:
    listener.respond = lambda _: (503, b"")
    running = dealers()
    send(running, lead(listener, "wei"))
    listener.respond = contacts(wei=("+8613800138000", "张伟"))
    assert (0, "") == running.stop()
    assert 2 == len(told(listener, "D001", "lead-wei"))


def test_a_person_can_withdraw_through_the_dealer(dealers: Start, listener: Listener) -> None:
    listener.respond = contacts(wei=("+8613800138000", "张伟"))
    running = dealers()
    send(running, lead(listener, "wei", "D002"), "D002")
    running.settled()
    running.control(unsubscribe="customers/wei")
    running.settled()
    assert ("message.unsubscribed", None) == told(listener, "D002", "lead-wei")[-1]
