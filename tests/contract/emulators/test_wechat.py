"""WeChat answers 200 with an errcode that says what is wrong."""

import json
from typing import Any

import httpx
import pytest

from tests.contract.emulators.wechat_client import APPID, ask_token, errcode, message, post, raw, send
from tests.contract.emulators.world import THEME, Start, until
from tests.emulators.wechat_rules import WechatError, check_data


def test_a_token_request_is_refused_for_what_is_wrong_in_it(wechat: Start) -> None:
    running = wechat()
    wrong: dict[int, dict[str, Any]] = {
        40002: {"grant_type": "password"},
        41002: {"appid": None},
        41004: {"secret": ""},
        40013: {"appid": "wx0"},
        40125: {"secret": "other"},
    }
    assert list(wrong) == [ask_token(running, **changes)["errcode"] for changes in wrong.values()]
    assert 43002 == running.http.get("/cgi-bin/stable_token").json()["errcode"]
    assert 47001 == running.post("/cgi-bin/stable_token", b"{").json()["errcode"]
    assert 1 == running.judge()["bad_signatures"]


def test_a_stable_token_stays_and_old_and_new_overlap(wechat: Start) -> None:
    running = wechat(token_expires_in=3.0, token_overlap=2.0)
    first = ask_token(running)["access_token"]
    assert first == ask_token(running)["access_token"]
    second = until(lambda: ask_token(running)["access_token"], lambda token: token != first)
    assert [0, 0] == [errcode(running, first), errcode(running, second)]
    until(lambda: errcode(running, first), lambda code: code == 42001)
    assert 0 == errcode(running, second)


def test_the_lifetime_of_a_token_is_as_long_as_real_ones(wechat: Start) -> None:
    answer = ask_token(wechat())
    assert {"access_token", "expires_in"} == set(answer)
    assert 7190 < answer["expires_in"] <= 7200
    assert 128 < len(answer["access_token"]) <= 512


def test_a_token_that_is_missing_unknown_expired_or_revoked_opens_nothing(wechat: Start) -> None:
    running = wechat()
    token = ask_token(running)["access_token"]
    assert [41001, 41001, 40001] == [errcode(running, given) for given in (None, "", "forged")]
    running.control(expire_tokens=True)
    assert 42001 == errcode(running, token)
    renewed = ask_token(running)["access_token"]
    assert 0 == errcode(running, renewed)
    running.control(revoke_tokens=True)
    assert 40001 == errcode(running, renewed)
    assert {"pushes": 1, "errcode_40001": 2, "errcode_42001": 1, "errcode_41001": 2}.items() <= running.judge().items()


def test_a_forced_refresh_kills_the_old_token_but_not_twice_within_30_seconds(wechat: Start) -> None:
    running = wechat()
    old = ask_token(running)["access_token"]
    new = ask_token(running, force_refresh=True)["access_token"]
    assert new == ask_token(running, force_refresh=True)["access_token"]
    assert [40001, 0] == [errcode(running, old), errcode(running, new)]
    assert 2 == running.judge()["force_refreshes"]


def test_a_message_is_refused_for_what_is_wrong_in_it(wechat: Start) -> None:
    running = wechat()
    token = ask_token(running)["access_token"]
    thing = {"thing1": {"value": "字" * 21}, "phrase2": {"value": "保养"}}
    wrong: list[tuple[int, bytes]] = [
        (40003, raw(message("o-stranger"))),
        (40003, raw(message(None))),
        (40037, raw(message(template_id="tmpl-2"))),
        (40037, raw(message(template_id=["tmpl-1"]))),
        (47003, raw(message(data=thing))),
        (47003, raw(message(data={"thing1": {"value": "只有一个"}}))),
        (47003, raw(message(data=None))),
        (47001, b"{"),
        (47001, b"[]"),
        (47001, b"\xff\xfe"),
        (40033, json.dumps(message()).encode()),
    ]
    answers = [post(running, token, content).json() for _, content in wrong]
    assert [code for code, _ in wrong] == [answer["errcode"] for answer in answers]
    assert all(" rid: " in answer["errmsg"] for answer in answers)
    assert "data.thing1.value invalid" in answers[4]["errmsg"]
    assert 43002 == running.http.get("/cgi-bin/message/template/send", params={"access_token": token}).json()["errcode"]
    assert 0 == running.settled()["pushes"]


def test_a_backslash_before_a_plain_u_is_no_escape(wechat: Start) -> None:
    running = wechat()
    token = ask_token(running)["access_token"]
    data = {"thing1": {"value": r"C:\u0041"}, "phrase2": {"value": "保养"}}
    assert 0 == errcode(running, token, data=data)


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("thing1", "字" * 20, "字" * 21),
        ("number2", "12.5", "twelve"),
        ("letter3", "abc", "a1"),
        ("character_string4", "MSG-001", "编号"),
        ("time5", "2019年10月1日 15:01~15:30", "noon"),
        ("date6", "2019-10-01", "15:01"),
        ("amount7", "¥99.00元", "free"),
        ("phone_number8", "+86-0766-66888866", "1" * 18),
        ("car_number9", "粤A8Z888挂", "粤A8Z888挂挂挂"),
        ("name10", "张伟", "张" * 11),
        ("phrase11", "配送中", "delivered"),
        ("keyword1", "anything at all, as legacy templates allow", ""),
    ],
)
def test_a_value_must_fit_the_kind_that_its_key_begins_with(key: str, good: str, bad: str) -> None:
    check_data([key], {key: {"value": good}})
    with pytest.raises(WechatError) as refused:
        check_data([key], {key: {"value": bad}})
    assert 47003 == refused.value.errcode


def test_the_same_client_msg_id_gives_the_same_msgid_and_no_second_push(wechat: Start) -> None:
    running = wechat()
    token = ask_token(running)["access_token"]
    first, again = send(running, token), send(running, token)
    assert first == again
    assert {"errcode": 0, "errmsg": "ok"}.items() <= first.items()
    assert first["msgid"] > 2**53
    report = running.settled()
    assert (1, 1, []) == (report["pushes"], report["repeats"], report["pushed_twice"])
    pushed = {"endpoint": APPID, "person": "o-yes", "theme": THEME, "delivery_id": "d1"}
    assert [pushed] == report["all_pushes"]


def test_a_client_msg_id_is_forgotten_after_its_time_and_the_second_push_is_judged(wechat: Start) -> None:
    running = wechat(client_msg_id_seconds=0.2)
    token = ask_token(running)["access_token"]
    first = send(running, token)["msgid"]
    until(lambda: send(running, token)["msgid"], lambda msgid: msgid != first)
    report = running.settled()
    assert (2, [["o-yes", THEME]]) == (report["pushes"], report["pushed_twice"])


def test_the_theme_of_a_message_is_read_from_its_page_else_its_template(wechat: Start) -> None:
    running = wechat()
    token = ask_token(running)["access_token"]
    page = {"appid": "wxmini", "pagepath": "pages/offer?theme=themes/7"}
    send(running, token, client_msg_id="d1", url=None, miniprogram=page)
    send(running, token, client_msg_id="d2", url="https://h5.example/offer")
    assert ["themes/7", "tmpl-1"] == [push["theme"] for push in running.judge()["all_pushes"]]


def test_some_do_not_follow(wechat: Start) -> None:
    running = wechat(not_following_rate=1.0)
    assert 43004 == errcode(running, ask_token(running)["access_token"])


def test_busy_passes_by_the_third_attempt(wechat: Start) -> None:
    running = wechat(failure_rates={"busy": 1.0})
    token = ask_token(running)["access_token"]
    assert [-1, -1, 0] == [errcode(running, token) for _ in range(3)]
    assert {"busy": 2} == running.judge()["failures_by_kind"]


def test_a_lost_answer_is_found_again_by_the_client_msg_id(wechat: Start) -> None:
    running = wechat(failure_rates={"closed": 1.0})
    token = ask_token(running)["access_token"]
    with pytest.raises(httpx.TransportError):
        send(running, token)
    assert 0 == errcode(running, token)
    assert {"pushes": 1, "repeats": 1, "failures_injected": 1}.items() <= running.settled().items()


def test_more_than_the_limit_of_a_minute_is_refused_until_it_is_lifted(wechat: Start) -> None:
    running = wechat(per_minute_limit=2)
    token = ask_token(running)["access_token"]
    codes = [errcode(running, token, client_msg_id=f"d{i}") for i in range(3)]
    assert [0, 0, 45011] == codes
    running.control(per_minute_limit=0)
    assert 0 == errcode(running, token, client_msg_id="d2")


def test_an_outage_is_busy_for_everything(wechat: Start) -> None:
    running = wechat()
    token = ask_token(running)["access_token"]
    running.control(outage=True)
    assert [-1] * 4 == [errcode(running, token) for _ in range(4)]
    assert -1 == ask_token(running)["errcode"]
    running.control(outage=False)
    assert 0 == errcode(running, token)
