"""The regression on n-grams: what serves is what its definition says, and what cannot be learnt is not made up."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scoring.models.feedback_text.training import labels_of
from services.scoring.text.fitting import NOT_SAID
from services.scoring.text.regressing import NEVER, regress
from services.scoring.text.regression import LONGEST, NEAR, Grams, Regression
from tests.unit.scoring.text_corpus import SAID, feedback, reviews

TOPICS = tuple(sorted(SAID))
LETTERS = "油耗高低车"
WORDS = tuple(
    sorted({*LETTERS, *map("".join, pairwise(LETTERS * 2)), "油耗高", "耗高低", "耗高低车"}, key=lambda word: (len(word), word))
)


def weighed(topics: int = 2) -> tuple[Grams, Regression]:
    """Weights as chance has it."""
    random = np.random.default_rng(0)
    grams = Grams.of(WORDS)
    shapes = ((grams.of_topics, topics), (topics,), (len(WORDS) + 1, 3), (len(WORDS) + 1, 3), (topics, 3))
    topic_weights, topic_bias, anywhere, near, bias = (random.normal(size=shape).astype(np.float32) for shape in shapes)
    for weights in (topic_weights, anywhere, near):
        weights[0] = 0
    return grams, Regression(topic_weights, topic_bias, anywhere, near, bias)


def known(grams: Grams, text: str) -> list[int]:
    """Each occurrence of each known gram."""
    found = [text[i : i + size] for size in range(1, LONGEST + 1) for i in range(len(text) - size + 1)]
    return [grams.words.index(word) + 1 for word in found if word in grams.words]


@given(st.text(LETTERS + "x", min_size=1, max_size=40))
def test_what_is_read_is_the_sum_that_the_definition_says(text: str) -> None:
    grams, regression = weighed()
    log_odds, margins = regression.read(grams.numbers(text))
    short = {number for number in known(grams, text) if number < grams.of_topics}
    odds = regression.topic_bias + sum((regression.topics[number] for number in short), np.zeros(2))
    assert odds == pytest.approx(log_odds, abs=1e-4)
    window = regression.window(grams.numbers(text))
    for topic in range(2):
        first, last = int(window.first[topic]), int(window.last[topic])
        assert 0 <= first < last <= len(text)
        assert last - first <= 2 * NEAR + 1
        expected = regression.feeling_bias[topic].astype(float)
        for weights, part in ((regression.anywhere, text), (regression.near, text[first:last])):
            numbers = known(grams, part)
            expected = expected + weights[numbers].sum(0) / max(len(numbers), 1) ** 0.5
        assert expected == pytest.approx(margins[topic], abs=1e-4)


@given(st.text(LETTERS + "x", min_size=1, max_size=40), st.integers(0, 1), st.integers(0, 2))
def test_the_shares_of_places_sum_to_what_is_read(text: str, topic: int, feeling: int) -> None:
    grams, regression = weighed()
    numbers = grams.numbers(text)
    log_odds, margins = regression.read(numbers)
    against = np.eye(3, dtype=np.float32)[feeling] - np.float32(1 / 3)
    of_topic, of_feeling = regression.shares(numbers, topic, against)
    assert (len(text),) == of_topic.shape == of_feeling.shape
    assert float(log_odds[topic] - regression.topic_bias[topic]) == pytest.approx(float(of_topic.sum()), abs=1e-4)
    lead = (margins[topic] - regression.feeling_bias[topic]) @ against
    assert float(lead) == pytest.approx(float(of_feeling.sum()), abs=1e-4)


def test_a_topic_is_sought_where_its_words_stand() -> None:
    rows = feedback(300)
    grams, regression = regress([row.text for row in rows], labels_of(rows, TOPICS)[:, :-1], [], np.empty(0, np.int8))
    text = "昨天开了一天朋友也有一台提车三个月，油耗太高了受不了，周末去了郊外跑了五千公里，内饰做工精致漂亮"
    window = regression.window(grams.numbers(text))
    for topic, words in (("油耗", "油耗太高"), ("内饰", "内饰做工")):
        place = TOPICS.index(topic)
        stretch = text[window.first[place] : window.last[place]]
        assert words[:2] in stretch
    log_odds, margins = regression.read(grams.numbers(text))
    assert [False, True, True] == [bool(odds > 0) for odds in log_odds[[TOPICS.index(t) for t in ("动力", "内饰", "油耗")]]]
    assert (0, 2) == (margins[TOPICS.index("油耗")].argmax(), margins[TOPICS.index("内饰")].argmax())


def test_texts_that_only_have_a_side_teach_what_their_words_mean() -> None:
    rows = feedback(200) + [row for row in feedback(40, seed=1) if 0 in row.opinions.values()]
    labels = labels_of(rows, TOPICS)[:, :-1]
    texts = [row.text for row in rows]
    sided = reviews(300)
    sides = np.array([next(iter(row.opinions.values())) for row in sided], np.int8)
    grams, with_sides = regress(texts, labels, [row.text for row in sided], sides)
    _, without = regress(texts, labels, [], np.empty(0, np.int8))
    [number] = [grams.words.index("满意") + 1]
    gain = [float(weights.anywhere[number] @ (-1, 0, 1)) for weights in (with_sides, without)]
    assert gain[0] > gain[1]


def test_a_sentiment_that_nobody_gave_is_never_told_and_a_topic_of_every_text_always() -> None:
    texts = ["油耗高", "油耗低", "油耗很高啊", "油耗很低啊"] * 5
    two = np.array([[-1], [1], [-1], [1]] * 5, np.int8)
    grams, regression = regress(texts, two, [], np.empty(0, np.int8))
    log_odds, margins = regression.read(grams.numbers("油耗高"))
    assert log_odds[0] > 3
    assert margins[0][0] > margins[0][2] > margins[0][1]
    one = np.where(two == 1, NOT_SAID, 0).astype(np.int8)
    grams, regression = regress(texts, one, [], np.empty(0, np.int8))
    _, margins = regression.read(grams.numbers("油耗高"))
    assert [NEVER, 0, NEVER] == margins[0].tolist()


def test_a_text_of_nothing_can_be_trained_on() -> None:
    rows = feedback(50)
    labels = labels_of([*rows, rows[0]], TOPICS)[:, :-1]
    grams, _ = regress([*(row.text for row in rows), ""], labels, [], np.empty(0, np.int8))
    assert grams.words
