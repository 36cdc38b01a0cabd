"""How the networks learn, and which labelled texts are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services.scoring.domain import TrainingRefused
from services.scoring.models.feedback_text.rows import WHOLE, LabelledText, gathered, read_file
from services.scoring.models.feedback_text.training import check, labels_of, micro_f1, train_files, train_text, with_interval
from services.scoring.text.embedding import embeddings
from services.scoring.text.fitting import NOT_SAID
from services.scoring.text.gradients import gradient
from services.scoring.text.model import TextModel
from services.scoring.text.network import WIDTH, Network, Noise
from tests.unit.scoring.text_corpus import feedback, reviews

FILTERS, TOPICS = 5, 4


def network(random: np.random.Generator) -> Network:
    """A tiny one in double precision."""
    shapes = {
        "characters": (12, 3),
        "pairs": (9, 4),
        "filters": (WIDTH * 7, FILTERS),
        "filter_bias": (FILTERS,),
        "queries": (FILTERS, TOPICS),
        "topic_attended": (TOPICS, FILTERS),
        "topic_strongest": (FILTERS, TOPICS),
        "topic_bias": (TOPICS,),
        "feeling_attended": (FILTERS, 3),
        "feeling_of_topic": (TOPICS, FILTERS, 3),
        "feeling_strongest": (FILTERS, 3),
        "feeling_bias": (TOPICS, 3),
    }
    return Network(**{name: random.normal(size=shape) for name, shape in shapes.items()})


def test_the_gradient_is_the_slope_of_the_loss() -> None:
    random = np.random.default_rng(0)
    tiny = network(random)
    characters = random.integers(1, 12, (3, 6)).astype(np.int32)
    characters[1, 4:] = 0
    pairs = np.where(characters > 0, random.integers(1, 9, (3, 6)), 0).astype(np.int32)
    drop = (random.random((3, 6, 1)) > 0.2, random.random((3, FILTERS)) > 0.5, random.random((3, 1, FILTERS)) > 0.5)
    noise = Noise(*(kept * 2.0 for kept in drop))
    of_topics, of_feelings = random.normal(size=(3, TOPICS)), random.normal(size=(3, TOPICS, 3))

    def loss(changed: Network) -> float:
        read = changed.read(characters, pairs, noise)
        return float((read.topics * of_topics).sum() + (read.feelings * of_feelings).sum())

    slope = gradient(tiny, tiny.read(characters, pairs, noise), noise, (characters, pairs), of_topics, of_feelings)
    step = 1e-6
    for name, weights in tiny.arrays().items():
        found = np.zeros_like(weights)
        if name in slope.rows:
            rows, values = slope.rows[name]
            found[rows] = values
        else:
            found = slope.dense[name]
        for place in np.ndindex(weights.shape):
            up, down = weights.copy(), weights.copy()
            up[place] += step
            down[place] -= step
            measured = (loss(replace(tiny, **{name: up})) - loss(replace(tiny, **{name: down}))) / (2 * step)
            assert measured == pytest.approx(found[place], abs=2e-5), (name, place)


def test_what_keeps_the_same_company_has_similar_vectors() -> None:
    random = np.random.default_rng(0)
    # 2 and 3 stand between 5 and 6, 4 between 7 and 8.
    lines = [np.array([5, 2, 6, 5, 3, 6] if random.random() < 0.5 else [7, 4, 8, 7, 4, 8], np.int32) for _ in range(300)]
    made = embeddings(lines, 9, 4, 0)
    near = made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-9)
    assert near[2] @ near[3] > 0.9
    assert near[2] @ near[4] < 0.5
    assert not made[:2].any()


def test_a_training_makes_an_artefact_that_opens_and_metrics_on_what_it_had_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.scoring.models.feedback_text.training.NETWORKS", 1)
    shares: list[float] = []
    trained = train_text(feedback(250), shares.append)
    assert trained.metrics["pair_micro_f1"] > 0.8
    assert sorted(shares) == shares and shares[-1] == pytest.approx(1)
    assert ("内饰", "动力", "油耗") == TextModel.open(trained.artefact).topics


def test_reviews_without_topics_make_a_model_that_tells_praise_from_complaint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.scoring.text.fitting.EPOCHS_WITHOUT_TOPICS", 12)
    monkeypatch.setattr("services.scoring.models.feedback_text.training.NETWORKS", 1)
    trained = train_text(reviews(250), lambda share: None)
    assert trained.metrics["accuracy"] > 0.9
    [reading] = TextModel.open(trained.artefact).classify(["太好了，很满意"])
    assert () == reading.opinions


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "EMPTY_CUT"),
        (feedback(50), "TOO_FEW_TEXTS"),
        ([LabelledText(f"好{n}", {WHOLE: 1}) for n in range(300)], "CONSTANT_LABEL"),
        ([*feedback(300), LabelledText("空间大", {"空间": 1})], "TOO_FEW_POSITIVES"),
    ],
)
def test_what_nothing_can_be_learnt_from_is_refused(rows: list[LabelledText], reason: str) -> None:
    with pytest.raises(TrainingRefused) as refusal:
        check(rows)
    assert reason == refusal.value.reason


def test_a_text_that_only_has_topics_is_on_the_side_of_most_of_them() -> None:
    rows = [
        LabelledText("a", {"x": 1, "y": -1, "z": 1}),
        LabelledText("b", {"x": -1, "y": 1}),
        LabelledText("c", {"x": -1, WHOLE: 1}),
        LabelledText("d", {WHOLE: -1}),
    ]
    expected = [[1, -1, 1, 1], [-1, 1, NOT_SAID, 0], [-1, NOT_SAID, NOT_SAID, 1], [NOT_SAID] * 3 + [-1]]
    assert expected == labels_of(rows, ("x", "y", "z")).tolist()


def test_the_figures_are_those_of_pairs_counted_by_hand() -> None:
    said = np.array([[1, NOT_SAID], [0, -1], [NOT_SAID, 1]], np.int8)
    true = np.array([[1, NOT_SAID], [1, -1], [0, NOT_SAID]], np.int8)
    # Right: 2 of 4 said and of 4 true.
    assert with_interval("f", said, true)["f"] == pytest.approx(0.5)
    assert micro_f1(said != NOT_SAID, true != NOT_SAID) == pytest.approx(0.75)


def test_files_of_both_kinds_give_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        '﻿text,topic,sentiment\n"油耗高,真的",油耗,-1\n"油耗高,真的",内饰,positive\n不错,,1\n', "utf-8"
    )
    (tmp_path / "a.jsonl").write_text(
        '{"text":"油耗高,真的","topic":"油耗","sentiment":-1}\n\n{"text":"油耗高,真的","topic":"内饰","sentiment":"1"}\n'
        '{"text":"不错","sentiment":1}\n',
        "utf-8",
    )
    expected = [LabelledText("油耗高,真的", {"油耗": -1, "内饰": 1}), LabelledText("不错", {WHOLE: 1})]
    assert expected == read_file(tmp_path / "a.csv") == read_file(tmp_path / "a.jsonl")


def test_of_two_labels_that_contradict_the_first_holds() -> None:
    assert [LabelledText("t", {"x": 1})] == gathered([("t", "x", 1), ("t", "x", -1)])


@pytest.mark.parametrize(
    ("name", "content", "reason", "says"),
    [
        ("a.csv", b"text,topic,sentiment\n\xe5\xa5\xbd,x,2\n", "BAD_FILE", "line 2"),
        ("a.csv", b"comment,topic,sentiment\nx,y,1\n", "BAD_FILE", "line 2"),
        ("a.csv", b"text,topic,sentiment\nx\n", "BAD_FILE", "line 2"),
        ("a.csv", b"text,topic,sentiment\n\xff,x,1\n", "BAD_FILE", "byte 21"),
        ("a.jsonl", b'{"text":"secret","sentiment":1}\n{"text":\n', "BAD_FILE", "line 2"),
        ("a.jsonl", b'{"text":"secret","topic":{"a":1},"sentiment":1}\n', "BAD_FILE", "line 1"),
        ("a.jsonl", b"[1]\n", "BAD_FILE", "line 1"),
        ("a.jsonl", b'{"text":"' + b"x" * 10_001 + b'","sentiment":1}\n', "TEXT_TOO_LONG", "line 1"),
        ("a.csv", b"", "EMPTY_CUT", "no labelled text"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_refused_by_its_line(
    tmp_path: Path, name: str, content: bytes, reason: str, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TrainingRefused) as refusal:
        train_files([tmp_path / name], lambda share: None)
    assert reason == refusal.value.reason
    assert says in refusal.value.detail
    assert "secret" not in refusal.value.detail


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingRefused) as refusal:
        read_file(tmp_path / "nowhere.csv")
    assert "BAD_FILE" == refusal.value.reason


def test_a_line_separator_inside_a_text_is_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text":"好\u2028车","sentiment":1}\r\n', "utf-8", newline="")
    assert [LabelledText("好\u2028车", {WHOLE: 1})] == read_file(tmp_path / "a.jsonl")
