"""Models of several classes: what is served is what was trained, shares sum to one and come true, rare classes are folded."""

from __future__ import annotations

import numpy as np
import pytest

from services.scoring.artefact import CLASS, Calibration, ServedModel, metadata
from services.scoring.domain import TrainingRefused
from services.scoring.frame import Frame, Numbers, Words, features_of, fit_encodings, matrix_of
from services.scoring.learning.cut import Cut, Trained
from services.scoring.learning.multiclass import fit_levels, to_onnx, train, without_rare
from services.scoring.learning.trees import Shape, fit_trees

CLASSES = ("single", "couple", "family")


def cut(rows: int, seed: int = 0, signal: float = 1.0) -> Cut:
    """A stage of life that an age and a model tell in part."""
    random = np.random.default_rng(seed)
    labels = random.choice(3, rows, p=[0.5, 0.3, 0.2]).astype(np.int32)
    age = 30 + signal * 8 * labels + random.normal(0, 8, rows)
    age[random.random(rows) < 0.1] = np.nan
    told = np.where(random.random(rows) < 0.4 * signal, labels, random.integers(-1, 3, rows)).astype(np.int32)
    frame = Frame(np.arange(rows), {"age": Numbers(age), "model": Words(told, ("coupé", "saloon", "van"))})
    return Cut(frame, labels, CLASSES)


@pytest.fixture(scope="module")
def trained() -> Trained:
    shown: list[float] = []
    made = train(cut(2_000), shown.append)
    assert sorted(shown) == shown and 1.0 == pytest.approx(shown[-1])
    return made


def test_unseen_rows_are_foretold_and_the_shares_come_true(trained: Trained) -> None:
    model = ServedModel("stage", 1, trained.artefact)
    unseen = cut(4_000, seed=1)
    probabilities = model.probabilities(matrix_of(model.encodings, unseen.frame))
    assert (4_000, 3) == probabilities.shape
    assert probabilities.sum(axis=1) == pytest.approx(1.0)
    assert (CLASS, tuple(sorted(CLASSES))) == (model.kind, model.classes)
    truth = np.array([model.classes.index(CLASSES[label]) for label in unseen.labels])
    hit = probabilities.argmax(axis=1) == truth
    assert hit.mean() == pytest.approx(trained.metrics["accuracy"], abs=0.03)
    assert hit.mean() > 0.6 > trained.metrics["accuracy_majority"]
    assert hit.mean() == pytest.approx(probabilities.max(axis=1).mean(), abs=0.03)
    assert probabilities.mean(axis=0) == pytest.approx(np.bincount(truth) / 4_000, abs=0.03)
    assert np.array_equal(probabilities.max(axis=1), model.probability(matrix_of(model.encodings, unseen.frame)))


def test_metrics_come_with_intervals(trained: Trained) -> None:
    for name in ("accuracy", "log_loss", "gain", "auc_macro"):
        assert trained.metrics[f"{name}_low"] < trained.metrics[name] < trained.metrics[f"{name}_high"]
    assert trained.metrics["auc_macro"] > 0.7
    assert trained.metrics["ece"] < 0.04


@pytest.mark.parametrize("count", [2, 3])
def test_served_probabilities_are_those_of_scikit_learn(count: int) -> None:
    data = cut(1_500)
    inside = data.labels < count
    frame, labels = data.frame.rows(inside), data.labels[inside]
    encodings = fit_encodings(features_of(frame), frame)
    matrix = matrix_of(encodings, frame)
    boosters = [fit_trees(matrix, labels, Shape(6, 20, 0.5), 20, seed) for seed in (0, 1)]
    said = [booster.decision_function(matrix) for booster in boosters]
    # Of two classes scikit-learn has one margin, that of the second.
    margins = np.mean([np.column_stack([np.zeros(len(m)), m]) if m.ndim == 1 else m for m in said], axis=0)
    fitted = fit_levels(margins, labels)
    carried = metadata(encodings, Calibration(fitted.temperature, 0.0), CLASS, CLASSES[:count])
    served = ServedModel("stage", 1, to_onnx(boosters, fitted.levels / fitted.temperature, carried)).probabilities(matrix)
    assert np.abs(fitted.probabilities(margins) - served).max() < 1e-5


def test_nobody_has_no_probabilities(trained: Trained) -> None:
    model = ServedModel("stage", 1, trained.artefact)
    assert (0, 3) == model.probabilities(np.empty((0, 2), np.float32)).shape
    assert (0,) == model.probability(np.empty((0, 2), np.float32)).shape


def test_unknown_tags_and_new_words_have_probabilities_too(trained: Trained) -> None:
    model = ServedModel("stage", 1, trained.artefact)
    frame = Frame(np.arange(1), {"age": Numbers(np.array([np.nan])), "model": Words(np.zeros(1, np.int32), ("tractor",))})
    assert 1.0 == pytest.approx(model.probabilities(matrix_of(model.encodings, frame)).sum())


def test_training_again_gives_the_same_model() -> None:
    first, again = (train(cut(400), lambda share: None) for _ in range(2))
    assert (first.artefact, first.metrics) == (again.artefact, again.metrics)


def test_rare_classes_become_other_or_are_left_out() -> None:
    frame = cut(320).frame
    labels = np.repeat(np.arange(5, dtype=np.int32), [100, 100, 60, 30, 30])
    folded = without_rare(Cut(frame, labels, ("d", "a", "c", "x", "y")))
    assert ("a", "c", "d", "other") == folded.classes
    assert [100, 60, 100, 60] == np.bincount(folded.labels).tolist()
    left_out = without_rare(Cut(frame.rows(slice(0, 290)), labels[:290], ("d", "a", "c", "x", "y")))
    assert ("a", "c", "d") == left_out.classes
    assert 260 == len(left_out.labels) == len(left_out.frame)
    named = without_rare(Cut(frame, labels, ("other", "a", "c", "x", "y")))
    assert (("a", "c", "other"), [100, 60, 160]) == (named.classes, np.bincount(named.labels).tolist())


def test_classes_that_nobody_is_of_do_not_count() -> None:
    frame = cut(200).frame
    labels = np.repeat(np.array([0, 3], np.int32), 100)
    assert ("a", "b") == without_rare(Cut(frame, labels, ("b", "c", "d", "a", "e"))).classes


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (np.empty(0, np.int32), "EMPTY_CUT"),
        (np.zeros(200, np.int32), "CONSTANT_LABEL"),
        (np.repeat(np.arange(3, dtype=np.int32), [160, 20, 20]), "TOO_FEW_OF_EACH_CLASS"),
    ],
)
def test_a_cut_from_which_nothing_can_be_learnt_is_refused(labels: np.ndarray, reason: str) -> None:
    with pytest.raises(TrainingRefused) as caught:
        train(Cut(cut(200).frame.rows(slice(0, len(labels))), labels, CLASSES), lambda share: None)
    assert reason == caught.value.reason


def test_tags_that_tell_nothing_are_no_model() -> None:
    with pytest.raises(TrainingRefused) as caught:
        train(cut(400, signal=0.0), lambda share: None)
    assert "NO_SIGNAL" == caught.value.reason


def test_a_class_that_is_new_is_judged_although_the_past_did_not_know_it() -> None:
    data = cut(600)
    order = np.argsort(data.labels == 2, kind="stable")
    moments = np.repeat(np.arange(6, dtype=np.int64), 100)
    late = Cut(data.frame.rows(order), data.labels[order], CLASSES, moments)
    assert 3.0 == train(late, lambda share: None).metrics["classes"]


def test_by_time_the_later_rows_judge() -> None:
    data = cut(600)
    model = ServedModel("stage", 1, train(Cut(data.frame, data.labels, CLASSES, np.arange(600)), lambda share: None).artefact)
    assert tuple(sorted(CLASSES)) == model.classes
