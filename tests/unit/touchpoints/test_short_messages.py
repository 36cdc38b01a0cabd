"""Short messages as texts: length, signature and ending, hours, and replies that mean no."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.touchpoints.channels.sms import text
from services.touchpoints.channels.sms.text import Window


@pytest.mark.parametrize(
    ("words", "units", "segments"),
    [
        ("a" * 160, 160, 1),
        ("a" * 161, 161, 2),
        ("a" * 306, 306, 2),
        ("a" * 307, 307, 3),
        ("€" * 80, 160, 1),
        ("中" * 70, 70, 1),
        ("中" * 71, 71, 2),
        ("中" * 134, 134, 2),
        ("中" * 135, 135, 3),
        ("🚗" * 35, 70, 1),
        ("", 0, 1),
    ],
)
def test_messages_are_counted_as_carriers_count_them(words: str, units: int, segments: int) -> None:
    assert text.Length(units, segments) == text.length(words)


@settings(max_examples=100)
@given(st.text("ab中€🚗{\n", max_size=500), st.text("ab中", max_size=5))
def test_a_longer_text_never_has_fewer_parts_and_all_fit(words: str, more: str) -> None:
    one = text.length(words)
    assert one.segments <= text.length(words + more).segments
    assert one.units <= one.segments * 160 and one.segments >= 1


def test_signature_and_way_out_come_once() -> None:
    whole = "【星河】新车到店，拒收请回复R"
    assert whole == text.composed("新车到店，", "星河", text.ENDING, True)
    assert whole == text.composed("【星河】新车到店，", "星河", text.ENDING, True)
    assert whole == text.composed(whole, "星河", text.ENDING, True)
    assert "【星河】保养已完成" == text.composed("保养已完成", "星河", text.ENDING, False)
    assert ["别家", "", ""] == [text.signature_in(words) for words in ("【别家】来", "来【星河】", "【】来")]


@pytest.mark.parametrize("reply", ["R", "r", " Ｒ ", "T", "td", "ＴＤ。", "退订", "退订！", "拒收\n"])
def test_whoever_wants_no_more_is_understood(reply: str) -> None:
    assert text.says_no(reply)


@pytest.mark.parametrize("reply", ["", "好", "Ruth", "不退订", "R车什么时候到", "retour"])
def test_other_replies_are_no_refusal(reply: str) -> None:
    assert not text.says_no(reply)


@pytest.mark.parametrize(
    ("now", "wait_s"),
    [("01:00", 0), ("00:59", 60), ("12:59", 0), ("13:00", 12 * 3600), ("16:00", 9 * 3600), ("23:00", 2 * 3600)],
)
def test_advertising_waits_for_the_day_in_china(now: str, wait_s: float) -> None:
    at = datetime.combine(datetime(2026, 3, 2, tzinfo=UTC), datetime.strptime(now, "%H:%M").time(), UTC)
    assert wait_s == Window.of("09:00-21:00", "Asia/Shanghai").wait_s(at)


@settings(max_examples=50)
@given(st.integers(0, 10**9), st.sampled_from(["Asia/Shanghai", "Europe/Berlin", "America/New_York"]))
def test_after_the_wait_the_window_is_open(seconds: int, zone: str) -> None:
    window, now = Window.of("09:00-21:00", zone), datetime.fromtimestamp(1.6e9 + seconds, UTC)
    opens = datetime.fromtimestamp(now.timestamp() + window.wait_s(now), ZoneInfo(zone))
    assert 0 == window.wait_s(opens)


@pytest.mark.parametrize("wrong", ["9-21", "21:00-09:00", "09:00-09:00", "09:00-24:00", ""])
def test_a_window_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="must"):
        Window.of(wrong, "UTC")
