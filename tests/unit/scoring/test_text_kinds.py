"""What rules tell of a text, and how texts are spelt before anybody reads them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scoring.text.kinds import shipped, tell
from services.scoring.text.normalising import normalise
from services.scoring.text.reading import Kind

WANTS = [
    "想买一台，有推荐的吗",
    "打算年底入手",
    "准备贷款买这款车",
    "我想预约试驾",
    "周末能去试驾吗？",
    "2.0豪华版落地多少钱？",
    "现在有优惠吗",
    "优惠多少？",
    "什么时候能提车？",
    "订车后多久能提到车",
    "有现车吗",
    "求个底价",
    "月供大概多少",
]
ASKS = [
    "请问机油用什么标号？",
    "油耗怎么样？",
    "这个灯亮了怎么办",
    "导航在哪里升级？",
    "动力够用吗？",
    "有没有人知道胎压怎么复位",
    "是不是要换机油了？",
]
NEITHER = [
    "油耗很低，动力也不错",
    "我不想买这车",
    "后悔买这款车了",
    "换个大灯要八千",
    "上周试驾过，底盘偏硬",
    "难道这就是豪华车的质量吗？",
    "难怪大家都说好",
    "",
]


def kind_of(text: str) -> Kind | None:
    told = tell(normalise(text).characters)
    return told and told.kind


@pytest.mark.parametrize("text", WANTS)
def test_whoever_wants_to_buy_is_heard(text: str) -> None:
    assert Kind.PURCHASE_INTENT is kind_of(text)


@pytest.mark.parametrize("text", ASKS)
def test_whoever_asks_is_heard(text: str) -> None:
    assert Kind.ENQUIRY is kind_of(text)


@pytest.mark.parametrize("text", NEITHER)
def test_whoever_tells_or_refuses_neither_asks_nor_wants(text: str) -> None:
    assert kind_of(text) is None


def test_each_rule_is_met_by_a_text_of_these_tests() -> None:
    met = {rule.name for rule in shipped() for text in WANTS + ASKS if rule.places(normalise(text).characters)}
    assert {rule.name for rule in shipped()} == met


def test_the_words_that_told_are_named() -> None:
    text = normalise("车不错。想买一台").characters
    told = tell(text)
    assert told is not None
    assert ["想买一台"] == [text[start:end] for start, end in told.places]


@pytest.mark.parametrize(
    "text", ["想" * 10_000, "吗" * 10_000, "想去再来" * 2_500, "有优惠" * 3_000, "多少" * 5_000, "能" * 10_000]
)
def test_no_text_takes_the_rules_long(text: str) -> None:
    start = time.process_time()
    tell(text)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ＡＢＳ　很好！", "abs很好!"),
        ("空间 大 ， 2.0 T 好", "空间大,2.0 t好"),
        ("a\u200bb\x00c", "abc"),
        ("㎞", "km"),
        ("①号", "1号"),
        ("油\r\n耗", "油耗"),
        ("\ud800好", "好"),
        ("油耗👍🏻", "油耗👍🏻"),
        ("車", "車"),
    ],
)
def test_texts_have_one_spelling(text: str, expected: str) -> None:
    assert expected == normalise(text).characters


@given(st.text(st.characters(), max_size=60))
def test_each_character_knows_where_it_comes_from(text: str) -> None:
    normal = normalise(text)
    assert len(normal.characters) == len(normal.places)
    assert list(normal.places) == sorted(normal.places)
    assert all(0 <= place < len(text) for place in normal.places)
