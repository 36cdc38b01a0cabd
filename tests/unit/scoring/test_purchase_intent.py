"""The model on the shipped campaign: trained on a third, measured on another whose outcome it has not seen."""

from __future__ import annotations

import numpy as np
import pytest

from local.data.bank_marketing import load
from services.scoring.artefact import ServedModel
from services.scoring.frame import matrix_of
from services.scoring.learning.metrics import expected_calibration_error, measure
from services.scoring.models.purchase_intent.training import train
from tests.unit.scoring.bank_frame import cut_of, frame_of


def test_unseen_people_are_ranked_and_promised_what_they_do() -> None:
    contacts = load()
    answers = np.array(contacts.answers)
    order = np.random.default_rng(2026).permutation(len(contacts))
    seen, unseen, _ = np.split(order, [10_000, 20_000])
    progress: list[float] = []
    trained = train(cut_of(contacts, seen), progress.append)
    model = ServedModel("purchase_intent", 1, trained.artefact)
    probability = model.probability(matrix_of(model.encodings, frame_of(contacts, unseen)))
    by_score = answers[unseen][np.argsort(-probability)]
    count = len(by_score)
    # A third of the campaign; what all of it gives is measured by bench models.
    assert by_score[: int(0.65 * count)].sum() / by_score.sum() > 0.87
    assert by_score[: count // 10].mean() / by_score.mean() > 4
    held_out = measure(probability, answers[unseen])
    assert held_out["auc"] > 0.785
    assert held_out["ece"] < 0.02
    # What the card says of itself is what happened.
    assert held_out["auc"] == pytest.approx(trained.metrics["auc"], abs=0.03)
    assert held_out["average_precision"] == pytest.approx(trained.metrics["average_precision"], abs=0.05)
    assert trained.metrics["ece"] < 0.01
    assert sorted(progress) == progress and 1.0 == progress[-1]


def test_nothing_that_is_known_only_after_the_call_is_shipped() -> None:
    assert "duration" not in load().columns


def test_calibration_error_is_the_distance_of_promise_and_outcome() -> None:
    labels = np.array([True, False] * 500)
    assert 0.0 == pytest.approx(expected_calibration_error(np.full(1000, 0.5), labels))
    assert 0.3 == pytest.approx(expected_calibration_error(np.full(1000, 0.8), labels))
