"""How to say something to a follower, and what WeChat's answers mean."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.touchpoints.domain.deliveries import Accepted, Channel, Delivery, Outcome, Refused, Retry
from services.touchpoints.wechat.choice import (
    CREDIT,
    FOR_EVER,
    GONE,
    MARGIN_US,
    OUT,
    WINDOW,
    WINDOWS,
    Allowance,
    Choice,
    Wish,
    choose,
)
from services.touchpoints.wechat.errors import RULES, WECOM_RULES, outcome, rule
from services.touchpoints.wechat.templates import Form, Template, data, plain, templates, wrong

NOW = 1_800_000_000_000_000
KINDS = [
    *(WINDOW + name for name in WINDOWS),
    *(CREDIT + name for name in "abc"),
    GONE,
    OUT,
    f"{OUT}:service",
    f"{OUT}:marketing",
]
TEMPLATES = st.builds(
    Template,
    st.sampled_from("abc"),
    st.sampled_from([Form.TEMPLATE, Form.SUBSCRIPTION]),
    st.sampled_from(["service", "marketing"]),
    st.frozensets(st.sampled_from(["Test drive", "Service"]), max_size=1),
    st.just({"thing1": "{title}"}),
)
ALLOWANCES = st.dictionaries(
    st.sampled_from(KINDS),
    st.builds(Allowance, st.integers(0, 2), st.sampled_from([0, NOW, NOW + 1, NOW + MARGIN_US + 1, FOR_EVER])),
)
WISHES = st.builds(Wish, st.sampled_from(["service", "marketing"]), st.sampled_from(["Test drive", "Other"]))


@settings(max_examples=300)
@given(WISHES, st.frozensets(st.sampled_from(Form)), st.lists(TEMPLATES, max_size=4), ALLOWANCES)
def test_the_chosen_form_is_always_allowed_and_paid_and_none_is_refused_that_could_go(
    wish: Wish, forms: frozenset[Form], known: list[Template], allowances: dict[str, Allowance]
) -> None:
    found = choose(wish, forms, known, allowances, NOW)
    alive = {kind: a for kind, a in allowances.items() if a.until_us > NOW}
    silenced = bool(alive.keys() & {GONE, OUT, f"{OUT}:{wish.purpose}"})
    fitting = [t for t in known if t.purpose == wish.purpose and (not t.offers or wish.offer in t.offers) and t.form in forms]
    windows = [k for k, a in alive.items() if k.startswith(WINDOW) and a.left > 0 and a.until_us > NOW + MARGIN_US]
    bought = [t.id for t in fitting if t.form is Form.SUBSCRIPTION and alive.get(CREDIT + t.id, Allowance(0, 0)).left > 0]
    rights = [t.id for t in fitting if t.form is Form.TEMPLATE and wish.purpose != "marketing"]
    if isinstance(found, str):
        assert silenced or not (rights or bought or (windows and Form.CUSTOM in forms))
        return
    assert not silenced
    assert found.form in forms
    match found:
        case Choice(Form.TEMPLATE, template, ""):
            assert template in rights
            assert "marketing" != wish.purpose
        case Choice(Form.CUSTOM, "", pays):
            assert pays in windows
            assert [] == rights
        case Choice(Form.SUBSCRIPTION, template, pays):
            assert template in bought
            assert CREDIT + template == pays
            assert not rights
            assert not (windows and Form.CUSTOM in forms)
        case other:
            raise AssertionError(other)


def delivery(**changes: object) -> Delivery:
    at = datetime(2026, 3, 1, 17, 5, tzinfo=UTC)
    values: dict[str, object] = {
        "delivery_id": "d1", "theme": "themes/1", "person_id": 1, "channel": Channel.WECHAT, "fallback_channels": (),
        "offer": "Test drive", "title": "试驾\n邀请", "body": "新" * 30, "purpose": "service", "score": 1.0, "rank": 1,
        "reasons": (), "dealer_code": "", "decided_at": at, "expires_at": at, "due_at": at,
    }  # fmt: skip
    return Delivery(**(values | changes))  # type: ignore[arg-type]


def test_values_are_filled_in_and_cut_to_what_their_kind_holds() -> None:
    document = json.dumps(
        [
            {
                "id": "T",
                "form": "template",
                "purpose": "service",
                "data": {"thing1": "{title}", "thing2": "{body}", "date3": "{date}"},
            }
        ]
    )
    [template] = templates(document, "")
    assert {
        "thing1": {"value": "试驾 邀请"},
        "thing2": {"value": "新" * 19 + "…"},
        "date3": {"value": "2026年3月2日"},
    } == data(template, delivery())


@given(st.text(), st.text(), st.integers(60, 300))
@settings(max_examples=50)
def test_plain_messages_fit_and_keep_their_link(title: str, body: str, most: int) -> None:
    text = plain(delivery(title=title, body=body), most, "https://a.example/x?y=1")
    assert len(text.encode()) <= most
    assert text.endswith("https://a.example/x?y=1")
    assert "\\u" not in json.dumps(text.replace("\n", ""), ensure_ascii=False)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("x", "must be JSON"),
        ("[]", "must be a list of 1"),
        ('[{"id":"T"}]', "[0].form"),
        ('[{"id":"T","form":"template","purpose":"marketing","data":{"thing1":"x"}}]', "[0].purpose: template messages"),
        ('[{"id":"T","form":"template","purpose":"gossip","data":{"thing1":"x"}}]', "[0].purpose must"),
        (
            '[{"id":"T","form":"template","purpose":"service","data":{"thing1":"{name}"}}]',
            "[0].data.thing1: no such placeholder: name",
        ),
        ('[{"id":"T","form":"template","purpose":"service","data":{"title":"x"}}]', "[0].data.title must"),
        ('[{"id":"T","form":"template","purpose":"service","data":{}}]', "[0].data must"),
        ('[{"id":"T","form":"template","purpose":"service","offers":"x","data":{"thing1":"x"}}]', "[0].offers"),
        ('[{"id":"T","for":"template"}]', "[0] must be an object"),
    ],
)
def test_what_is_wrong_with_the_templates_is_said_where_it_stands(document: str, said: str) -> None:
    assert wrong(document).startswith(said)


NIGHT = datetime(2026, 3, 1, 15, 59, 0, tzinfo=UTC)  # 23:59 in Shanghai


def _unsent(reason: str, wait_s: float, *, pauses: bool = False) -> Retry:
    return Retry(reason, wait_s, sent_perhaps=False, pauses_endpoint=pauses)


# CONVENTIONS 3.3, row by row.
TABLE: list[tuple[tuple[int, ...], Outcome]] = [
    ((0, 40241, 45065), Accepted()),
    ((-1, -1000), _unsent("provider_busy", 1)),
    ((40001, 40014, 42001, 41001), _unsent("token_refused", 5)),
    ((40013, 40125, 41002, 41004, 40164, 61004), _unsent("credentials_refused", 300, pauses=True)),
    ((40003, 46004), Refused("bad_address")),
    ((43004, 43019, 48002, 50002), Refused("unreachable")),
    ((43101,), Refused("no_permission")),
    ((41030, 47001, 47003, 40033, 45002), Refused("content_refused")),
    ((40037,), _unsent("content_refused", 60)),
    ((43117,), _unsent("too_frequent", 3600)),
    ((45009,), _unsent("daily_quota", 60, pauses=True)),
    ((45011,), _unsent("minute_quota", 60, pauses=True)),
    ((45015, 45047), Refused("outside_window")),
    ((48001, 48003, 48004), _unsent("api_not_granted", 300, pauses=True)),
    ((45066,), _unsent("repeated_too_soon", 60)),
]


def test_wechats_error_codes_are_data_and_every_one_is_in_the_table() -> None:
    for codes, expected in TABLE:
        for code in codes:
            assert (code, expected) == (code, outcome(rule(code), NIGHT))
    assert {code for codes, _ in TABLE for code in codes} == set(RULES)
    assert Refused("content_refused") == outcome(rule(40037), NIGHT, attempts=1)
    assert _unsent("errcode_99999", 0) == outcome(rule(99999), NIGHT)


WECOM_TABLE: list[tuple[tuple[int, ...], Outcome]] = [
    ((0,), Accepted()),
    ((-1,), _unsent("provider_busy", 1)),
    ((40014, 41001, 42001), _unsent("token_refused", 5)),
    ((40001, 40013, 40091, 41002, 41004, 60020), _unsent("credentials_refused", 300, pauses=True)),
    ((40056, 41011, 48002, 60011, 301002), _unsent("api_not_granted", 300, pauses=True)),
    ((45009, 45033), _unsent("minute_quota", 60, pauses=True)),
    ((45029,), _unsent("daily_quota", 60, pauses=True)),
    ((40003, 40031, 60111, 81013, 84061), Refused("bad_address")),
    ((40008, 40033, 40058, 41019, 44004, 45002, 47001), Refused("content_refused")),
]


def test_wecoms_error_codes_are_data_and_every_one_is_in_the_table() -> None:
    for codes, expected in WECOM_TABLE:
        for code in codes:
            assert (code, expected) == (code, outcome(rule(code, WECOM_RULES), NIGHT))
    assert {code for codes, _ in WECOM_TABLE for code in codes} == set(WECOM_RULES)
