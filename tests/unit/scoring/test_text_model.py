"""What is read from a text, and that the model that serves is the model that was trained."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.scoring.artefact import ArtefactRefused, check_seal, seal
from services.scoring.models.feedback_text.training import grow, measure
from services.scoring.text.model import Taken, TextModel
from services.scoring.text.network import sigmoid
from services.scoring.text.normalising import normalise
from services.scoring.text.packing import FORMAT, Trunk, pack, unpack
from services.scoring.text.reading import MAX_CHARACTERS, NOTHING, Kind, TextTooLong
from services.scoring.text.regression import FEELING_SHARE, TOPIC_SHARE
from services.scoring.text.vocabulary import batched
from tests.unit.scoring.text_corpus import feedback, reviews

KEY = b"k" * 32


@pytest.fixture(scope="module")
def trunk() -> Trunk:
    return grow(feedback(300) + reviews(150), 2, lambda share: None)


@pytest.fixture(scope="module")
def model(trunk: Trunk) -> TextModel:
    return TextModel.open(pack(trunk))


def test_opinions_are_learnt_from_labelled_texts(trunk: Trunk) -> None:
    metrics = measure(trunk, feedback(200, seed=1) + reviews(100, seed=1))
    assert metrics["pair_micro_f1"] > 0.9
    assert metrics["pair_micro_f1_low"] <= metrics["pair_micro_f1"] <= metrics["pair_micro_f1_high"]
    assert metrics["topic_micro_f1"] >= metrics["pair_micro_f1"]
    assert metrics["accuracy"] > 0.9


def test_a_text_on_two_topics_has_an_opinion_on_each_with_the_words_that_decided(model: TextModel) -> None:
    text = "油耗太高了受不了，不过内饰做工精致漂亮。"
    [reading] = model.classify([text])
    assert {("油耗", -1), ("内饰", 1)} == {(o.topic, o.sentiment) for o in reading.opinions}
    for opinion in reading.opinions:
        said = "".join(text[start:end] for start, end in opinion.spans)
        assert set(said) & set(opinion.topic)


def test_what_serves_is_what_was_trained_to_the_last_bit(trunk: Trunk, model: TextModel) -> None:
    texts = [row.text for row in feedback(50, seed=2)]
    trained, served = TextModel(trunk).judge(texts), model.judge(texts)
    assert np.array_equal(trained.topics, served.topics)
    assert np.array_equal(trained.feelings, served.feelings)
    assert TextModel(trunk).classify(texts) == model.classify(texts)


def test_a_reading_does_not_depend_on_the_texts_read_beside_it(model: TextModel) -> None:
    texts = [row.text * repeat for row, repeat in zip(feedback(40, seed=3), [1, 2, 9, 30] * 10, strict=True)]
    alone = [model.classify([text])[0] for text in texts]
    together = model.classify(texts)
    assert [(r.kind, [(o.topic, o.sentiment) for o in r.opinions]) for r in alone] == [
        (r.kind, [(o.topic, o.sentiment) for o in r.opinions]) for r in together
    ]
    for one, other in zip(alone, together, strict=True):
        assert [o.confidence for o in one.opinions] == pytest.approx([o.confidence for o in other.opinions], abs=1e-4)


def taken(trunk: Trunk, text: str) -> Taken:
    characters = normalise(text).characters
    numbers = batched([trunk.vocabulary.encode(characters)])
    return Taken([network.read(*numbers) for network in trunk.networks], 0, trunk.grams.numbers(characters))


def test_the_shares_of_the_places_sum_to_the_decision(trunk: Trunk, model: TextModel) -> None:
    text = taken(trunk, "动力太肉起步慢，内饰是黑色的，动力真太肉")
    regression = trunk.regression
    assert regression is not None
    counted, felt = regression.read(text.numbers)
    for topic in range(len(trunk.topics) + 1):
        for feeling in range(3):
            against = np.full(3, -0.5)
            against[feeling] = 1
            named = topic < len(trunk.topics)
            leads = [
                float((read.feelings[0, topic] - network.feeling_bias[topic]) @ against)
                for network, read in zip(trunk.networks, text.passes, strict=True)
            ]
            decided = float(np.mean(leads))
            if named:
                odds = [
                    float(read.topics[0, topic] - network.topic_bias[topic])
                    for network, read in zip(trunk.networks, text.passes, strict=True)
                ]
                decided = (1 - FEELING_SHARE) * decided + (1 - TOPIC_SHARE) * float(np.mean(odds))
                decided += TOPIC_SHARE * float(counted[topic] - regression.topic_bias[topic])
                decided += FEELING_SHARE * float((felt[topic] - regression.feeling_bias[topic]) @ against)
            assert decided == pytest.approx(float(model.shares(text, topic, feeling).sum()), abs=1e-3)


@pytest.mark.parametrize(
    "spelling",
    ["油耗太高了受不了", "油耗 太高 了 受不了", "油\x00耗太\u200b高了受\x07不了", "油耗太高了\n受不了\ufe0f"],
)
def test_spaces_and_control_characters_change_nothing(model: TextModel, spelling: str) -> None:
    plain, spelt = model.judge(["油耗太高了受不了"]), model.judge([spelling])
    assert np.array_equal(plain.topics, spelt.topics)
    [reading] = model.classify([spelling])
    assert [("油耗", -1)] == [(o.topic, o.sentiment) for o in reading.opinions]
    assert "高" in "".join(spelling[start:end] for start, end in reading.opinions[0].spans)


@pytest.mark.parametrize("text", ["", "   \n\t", "\x00\x01\u200b", "👍👍👍", "Ünïcödé", "龘龘"])
def test_a_text_in_which_nothing_is_known_says_nothing(model: TextModel, text: str) -> None:
    assert [NOTHING] == model.classify([text])


def test_praise_and_complaint_are_the_writers_side(model: TextModel) -> None:
    praise, complaint = model.classify(["朋友也有一台，很满意，太好了，推荐", "跑了五千公里，太差，失望，受不了"])
    assert (Kind.PRAISE, Kind.COMPLAINT) == (praise.kind, complaint.kind)
    assert praise.kind_spans and complaint.kind_spans
    assert all(0.45 <= reading.kind_confidence <= 1 for reading in (praise, complaint))


def test_wishes_are_told_by_rule_and_an_angry_question_is_a_complaint(model: TextModel) -> None:
    texts = ["请问动力参数在哪里看？", "我想买一台，落地多少钱", "太差，失望，受不了，不会再买，怎么办？"]
    asks, wants, angry = model.classify(texts)
    assert [Kind.ENQUIRY, Kind.PURCHASE_INTENT, Kind.COMPLAINT] == [asks.kind, wants.kind, angry.kind]
    assert "请问" in [texts[0][start:end] for start, end in asks.kind_spans]


def test_a_text_above_the_limit_is_refused_by_name_and_one_at_the_limit_is_read(model: TextModel) -> None:
    with pytest.raises(TextTooLong) as refusal:
        model.classify(["好", "油" * (1 << 20)])
    assert ("TEXT_TOO_LONG", "texts[1]") == (refusal.value.reason, refusal.value.field)
    assert {"limit": "10000", "given": "1048576"} == refusal.value.metadata
    assert "油" not in refusal.value.message
    [reading] = model.classify([("油耗太高了受不了，" * 2000)[:MAX_CHARACTERS]])
    assert Kind.COMPLAINT == reading.kind


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(st.characters() | st.sampled_from("油耗太高动力好？，ﷺ㎞Ａ"), max_size=80), max_size=5))
def test_any_text_has_a_reading_with_spans_inside_it(texts: list[str]) -> None:
    readings = ANY.classify(texts)
    assert len(texts) == len(readings)
    for text, reading in zip(texts, readings, strict=True):
        assert 0 <= reading.kind_confidence <= 1
        for spans in (reading.kind_spans, *(opinion.spans for opinion in reading.opinions)):
            assert list(spans) == sorted(spans)
            assert all(0 <= start < end <= len(text) for start, end in spans)


ANY = TextModel(grow(feedback(60), 1, lambda share: None))


def test_threads_may_share_a_model(model: TextModel) -> None:
    texts = [row.text for row in feedback(60, seed=4)]
    expected = model.classify(texts)
    barrier = threading.Barrier(3)

    def read() -> bool:
        barrier.wait()
        return model.classify(texts) == expected

    with ThreadPoolExecutor(3) as pool:
        assert all(future.result() for future in [pool.submit(read) for _ in range(3)])


def test_the_same_rows_make_the_same_artefact() -> None:
    rows = feedback(60)
    assert pack(grow(rows, 1, lambda share: None)) == pack(grow(rows, 1, lambda share: None))


def test_a_text_model_is_sealed_as_what_it_is(trunk: Trunk) -> None:
    artefact = pack(trunk)
    good = seal(KEY, "feedback_text", 1, artefact, FORMAT)
    check_seal(KEY, "feedback_text", 1, artefact, good, FORMAT)
    with pytest.raises(ArtefactRefused):
        check_seal(KEY, "feedback_text", 1, artefact + b"x", good, FORMAT)
    with pytest.raises(ArtefactRefused):
        check_seal(KEY, "feedback_text", 1, artefact, good)  # asked for trees, given a text model


def changed(artefact: bytes, name: str, array: np.ndarray) -> bytes:
    with np.load(io.BytesIO(artefact), allow_pickle=False) as arrays:
        parts = dict(arrays)
    parts[name] = array
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=array.dtype == object, **parts)
    return buffer.getvalue()


def with_head(artefact: bytes, **values: object) -> bytes:
    with np.load(io.BytesIO(artefact), allow_pickle=False) as arrays:
        head = orjson.loads(arrays["head"].tobytes()) | values
    return changed(artefact, "head", np.frombuffer(orjson.dumps(head), np.uint8))


def test_bytes_that_are_no_text_model_are_refused(trunk: Trunk) -> None:
    artefact = pack(trunk)
    refused = [
        b"",
        b"not a model",
        artefact[: len(artefact) // 2],
        with_head(artefact, format="npz-text-1"),
        with_head(artefact, networks=0),
        with_head(artefact, networks=9),
        with_head(artefact, topics=["油耗"]),
        with_head(artefact, topics=[]),
        with_head(artefact, grams=["油"]),
        changed(artefact, "0.queries", np.zeros((1, 1), np.float16)),
        changed(artefact, "regression.near", np.zeros((1, 3), np.float16)),
        changed(artefact, "regression.topic_bias", np.full(3, np.inf, np.float16)),
        changed(artefact, "0.filters", np.full(trunk.networks[0].filters.shape, np.nan, np.float16)),
        changed(artefact, "0.filters", np.array([{"code": 1}], dtype=object)),
    ]
    for number, given_bytes in enumerate(refused):
        with pytest.raises(ArtefactRefused):
            unpack(given_bytes)
            pytest.fail(f"number {number} was opened")


def test_confidence_is_the_topic_times_its_sentiment(trunk: Trunk, model: TextModel) -> None:
    text = "内饰异味很难闻"
    topics, feelings = model.probabilities(taken(trunk, text))
    topic = trunk.topics.index("内饰")
    [opinion] = model.classify([text])[0].opinions
    assert float(topics[topic] * feelings[topic][0]) == pytest.approx(opinion.confidence, abs=1e-6)


def test_the_regression_is_weighed_with_the_networks_on_the_scale_of_log_odds(trunk: Trunk, model: TextModel) -> None:
    assert trunk.regression is not None
    text = taken(trunk, "内饰异味很难闻，油耗百公里八个左右")
    by_networks = np.mean([read.topics[0] for read in text.passes], axis=0)
    by_grams, _ = trunk.regression.read(text.numbers)
    topics, _ = model.probabilities(text)
    expected = (1 - TOPIC_SHARE) * by_networks[:-1] + TOPIC_SHARE * by_grams
    assert expected == pytest.approx(np.log(topics[:-1] / (1 - topics[:-1])), abs=1e-3)
    assert float(sigmoid(by_networks[-1:])[0]) == pytest.approx(float(topics[-1]), abs=1e-6)
