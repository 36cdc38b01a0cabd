"""WeChat calls back: how a message arrived, what the person clicked, who left."""

from tests.contract.emulators.wechat_client import PATH, ask_token, calls, errcode, has_signature, send
from tests.contract.emulators.world import Listener, Start, until


def test_the_delivery_and_the_click_are_called_back_with_a_signature(wechat: Start, listener: Listener) -> None:
    running = wechat()
    token = ask_token(running)["access_token"]
    msgid = send(running, token)["msgid"]
    send(running, token, openid="o-no", client_msg_id="d2")
    send(running, token, openid="o-silent", client_msg_id="d3")
    report = running.settled()
    assert {"TEMPLATESENDJOBFINISH:success": 3, "answered:yes": 1, "answered:no": 1} == report["events_sent"]
    assert 2 == report["answers_sent"]
    assert all(has_signature(heard) for heard in listener.at(PATH))
    finishes = {heard.query["openid"]: xml for heard, xml in calls(listener, "TEMPLATESENDJOBFINISH")}
    expected = {"FromUserName": "o-yes", "MsgType": "event", "MsgID": str(msgid), "Status": "success"}
    assert expected.items() <= {child.tag: child.text for child in finishes["o-yes"]}.items()
    clicks = {xml.findtext("FromUserName"): xml.findtext("EventKey") for _, xml in calls(listener, "CLICK")}
    assert {"o-yes": "answer:yes:d1", "o-no": "answer:no:d2"} == clicks


def test_a_message_that_the_person_blocks_fails_and_is_never_answered(wechat: Start, listener: Listener) -> None:
    running = wechat(user_block_rate=1.0)
    send(running, ask_token(running)["access_token"])
    running.settled()
    assert ["failed:user block"] == [xml.findtext("Status") for _, xml in calls(listener, "TEMPLATESENDJOBFINISH")]
    assert [] == calls(listener, "CLICK")


def test_a_callback_is_made_again_until_the_answer_is_success_or_empty(wechat: Start, listener: Listener) -> None:
    answers = iter([(500, b""), (200, b"ok"), (200, b"{}"), (200, b"")])
    listener.respond = lambda _: next(answers, (200, b"success"))
    running = wechat()
    send(running, ask_token(running)["access_token"])
    report = running.settled()
    assert (3, 0) == (report["feedback_retries"], report.get("feedback_lost", 0))
    finishes = calls(listener, "TEMPLATESENDJOBFINISH")
    assert (4, 1) == (len(finishes), len({heard.body for heard, _ in finishes}))
    assert 4 == len({heard.query["nonce"] for heard, _ in finishes})
    assert 1 == len(calls(listener, "CLICK"))


def test_a_callback_is_given_up_after_as_many_attempts_as_configured(wechat: Start, listener: Listener) -> None:
    listener.respond = lambda _: (500, b"")
    running = wechat(callback_attempts=3)
    send(running, ask_token(running)["access_token"])
    report = running.settled()
    assert (2, 6, 0) == (report["feedback_lost"], len(listener.at(PATH)), report["answers_sent"])


def test_who_unsubscribes_is_reported_and_cannot_be_reached_any_more(wechat: Start, listener: Listener) -> None:
    running = wechat()
    token = ask_token(running)["access_token"]
    assert 404 == running.control(unsubscribe="o-stranger").status_code
    assert 200 == running.control(unsubscribe="o-yes").status_code
    running.settled()
    assert ["o-yes"] == [xml.findtext("FromUserName") for _, xml in calls(listener, "unsubscribe")]
    assert [43004, 0] == [errcode(running, token), errcode(running, token, openid="o-no")]


def test_the_callback_url_is_checked_until_it_echoes(wechat: Start, listener: Listener) -> None:
    answers = iter([(503, b""), (200, b"wrong")])
    listener.respond = lambda heard: next(answers, (200, heard.query["echostr"].encode()))
    running = wechat(url_check=True)
    until(running.judge, lambda report: report.get("url_checks_passed") == 1)
    assert ["GET"] * 3 == [heard.method for heard in listener.at(PATH)]
    assert all(has_signature(heard) for heard in listener.at(PATH))


def test_callbacks_on_their_way_are_made_before_sigterm_ends(wechat: Start, listener: Listener) -> None:
    running = wechat(callback_delay_ms=300)
    send(running, ask_token(running)["access_token"])
    assert 1 == running.judge()["feedback_pending"]
    assert (0, "") == running.stop()
    assert 1 == len(calls(listener, "CLICK"))
