"""The learner of propensities: what it serves is what it learnt, and it learns nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest

from services.scoring.artefact import Calibration, ServedModel, metadata
from services.scoring.domain import TrainingRefused
from services.scoring.frame import Frame, Numbers, features_of, fit_encodings, matrix_of
from services.scoring.learning import propensity
from services.scoring.learning.additive import fit_additive
from services.scoring.learning.cut import Cut, Trained
from services.scoring.learning.metrics import measure
from services.scoring.learning.trees import Shape, fit_trees
from tests.unit.scoring.made_up import cut_of_people


@pytest.fixture(scope="module")
def trained() -> Trained:
    progress: list[float] = []
    made = propensity.train(cut_of_people()[0], progress.append)
    assert sorted(progress) == progress and 1.0 == progress[-1]
    return made


def test_unseen_people_get_nearly_their_true_probability(trained: Trained) -> None:
    model = ServedModel("m", 1, trained.artefact)
    unseen, truth = cut_of_people(20_000, seed=1)
    probability = model.probability(matrix_of(model.encodings, unseen.frame))
    best = measure(1 / (1 + np.exp(-truth)), unseen.labels)
    reached = measure(probability, unseen.labels)
    # Age is hidden for one in ten, so the truth itself cannot be reached.
    assert reached["auc"] > best["auc"] - 0.03
    assert reached["ece"] < 0.03
    assert trained.metrics["auc_low"] < reached["auc"] < trained.metrics["auc_high"]


def test_served_margins_are_those_of_the_learners_for_any_row() -> None:
    cut, _ = cut_of_people(800)
    encodings = fit_encodings(features_of(cut.frame), cut.frame)
    matrix = matrix_of(encodings, cut.frame)
    boosters = [fit_trees(matrix, cut.labels, Shape(6, 20, 0.5), 20, seed) for seed in (0, 1)]
    [line] = fit_additive(matrix, encodings, cut.labels, (0.1,))
    random = np.random.default_rng(5)
    rows = matrix[random.integers(0, len(matrix), 500)] * random.choice(np.array([1, 1, 1, -3, 1000], np.float32), (500, 1))
    rows[:, 2] = random.integers(0, 3, 500)
    rows[random.random(rows.shape) < 0.2] = np.nan
    rows[0], rows[1] = np.inf, -np.inf
    rows[:2, 2] = np.nan
    weights = np.array([0.7, 0.3])
    expected = 0.35 * sum(booster.decision_function(rows) for booster in boosters) + 0.3 * line.margin(rows)
    parts: list[propensity.Part] = [boosters, line]
    served = ServedModel("m", 1, propensity.to_onnx(parts, weights, 4, metadata(encodings, Calibration(1, 0))))
    assert np.abs(1 / (1 + np.exp(-expected)) - served.probability(rows)).max() < 1e-5


def test_a_row_that_no_encoding_made_still_has_a_probability(trained: Trained) -> None:
    rows = np.array([[1e38, -1e38, 77, 0], [np.nan, np.nan, -5, np.nan]], np.float32)
    probability = ServedModel("m", 1, trained.artefact).probability(rows)
    assert ((probability > 0) & (probability < 1)).all()


def test_the_same_cut_makes_the_same_model(trained: Trained) -> None:
    again = propensity.train(cut_of_people()[0], lambda _: None)
    assert trained.metrics == again.metrics
    assert trained.artefact == again.artefact


def test_noise_is_refused() -> None:
    cut, _ = cut_of_people(1500)
    noise = Frame(cut.frame.persons, {"shoe": cut.frame.columns["shoe"]})
    with pytest.raises(TrainingRefused) as caught:
        propensity.train(Cut(noise, cut.labels), lambda _: None)
    assert "NO_SIGNAL" == caught.value.reason


@pytest.mark.parametrize(("positives", "reason"), [(0, "CONSTANT_LABEL"), (49, "TOO_FEW_POSITIVES"), (600, "CONSTANT_LABEL")])
def test_labels_that_teach_nothing_are_refused(positives: int, reason: str) -> None:
    cut, _ = cut_of_people(600)
    with pytest.raises(TrainingRefused) as caught:
        propensity.train(Cut(cut.frame, (np.arange(600) < positives).astype(np.int32)), lambda _: None)
    assert reason == caught.value.reason


def test_a_column_that_tells_the_date_is_not_trusted_tomorrow() -> None:
    rows = 4000
    moments = np.repeat(np.arange(20), rows // 20)
    random = np.random.default_rng(0)
    cut, _ = cut_of_people(rows, moments=moments, price_index=100.0 + moments + random.normal(0, 0.1, rows))
    model = ServedModel("m", 1, propensity.train(cut, lambda _: None).artefact)
    assert {"age", "income", "job"} <= set(model.tags)
    assert "price_index" not in model.tags


def test_a_column_that_moves_and_still_ranks_the_later_persons_is_kept() -> None:
    rows = 4000
    moments = np.repeat(np.arange(20), rows // 20)
    cut, truth = cut_of_people(rows, moments=moments)
    # Grows without end, but who has more than others of the same time does it.
    usage = Numbers(truth + moments)
    frame = Frame(cut.frame.persons, {"shoe": cut.frame.columns["shoe"], "usage": usage})
    encodings = fit_encodings(features_of(frame), frame)
    folds = propensity.plan(cut).folds
    assert [1] == propensity.moving_columns(matrix_of(encodings, frame), folds)
    assert [0, 1] == propensity.trusted_columns(matrix_of(encodings, frame), cut.labels, folds)


def test_a_model_over_time_promises_the_rate_of_the_last_block() -> None:
    rows = 4000
    moments = np.repeat(np.arange(10), rows // 10)
    cut, _ = cut_of_people(rows, moments=moments)
    random = np.random.default_rng(1)
    # The rate falls to a third in the last fifth.
    fallen = cut.labels * ((moments < 8) | (random.random(rows) < 1 / 3))
    model = ServedModel(
        "m", 1, propensity.train(Cut(cut.frame, fallen.astype(np.int32), moments=moments), lambda _: None).artefact
    )
    probability = model.probability(matrix_of(model.encodings, cut.frame))
    assert probability[moments >= 8].mean() == pytest.approx(fallen[moments >= 8].mean(), abs=0.01)
