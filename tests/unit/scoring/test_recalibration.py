"""A recalibrated file is the same graph with another line, and the line is what the outcomes ask for."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from services.scoring.artefact import Calibration, ServedModel, metadata
from services.scoring.domain import TrainingRefused
from services.scoring.frame import Encoding, Feature, Kind
from services.scoring.learning.recalibration import recalibrated, with_line
from services.scoring.learning.trees import to_onnx
from services.scoring.measuring import log_odds

ENCODINGS = tuple(Encoding(Feature(tag, Kind.NUMBER)) for tag in ("age", "opens"))


@pytest.fixture(scope="module")
def artefact() -> bytes:
    draws = np.random.default_rng(0)
    rows = draws.normal(size=(800, 2)).astype(np.float32)
    trees = HistGradientBoostingClassifier(max_iter=10, random_state=0).fit(rows, rows[:, 0] + draws.normal(size=800) > 0)
    return to_onnx([trees], metadata(ENCODINGS, Calibration(1.2, -0.3)))


def test_the_line_is_laid_upon_the_one_before_and_all_else_stays(artefact: bytes) -> None:
    rows = np.random.default_rng(1).normal(size=(500, 2)).astype(np.float32)
    before, after = ServedModel("m", 1, artefact), ServedModel("m", 2, with_line(artefact, Calibration(0.8, 1.0)))
    promised = log_odds(before.probability(rows))
    assert 0.8 * promised + 1.0 == pytest.approx(log_odds(after.probability(rows)), abs=1e-9)
    assert (before.encodings, before.kind, before.tags) == (after.encodings, after.kind, after.tags)


def test_promises_that_were_too_low_are_set_right_and_the_ranks_stay(artefact: bytes) -> None:
    rows = np.random.default_rng(2).normal(size=(6000, 2)).astype(np.float32)
    promised = log_odds(ServedModel("m", 1, artefact).probability(rows))
    truth = 1 / (1 + np.exp(-(0.7 * promised + 1.2)))
    did = np.random.default_rng(3).random(len(truth)) < truth
    made = recalibrated(artefact, promised, did)
    after = ServedModel("m", 2, made.artefact).probability(rows)
    assert np.abs(after - truth).max() < 0.05
    assert np.argsort(promised, kind="stable").tolist() == np.argsort(after, kind="stable").tolist()
    assert made.metrics["ece"] < 0.03
    assert abs(made.metrics["calibration_intercept"]) < 3 * made.metrics["calibration_intercept_error"]


def test_few_outcomes_move_it_a_little(artefact: bytes) -> None:
    rows = np.random.default_rng(2).normal(size=(150, 2)).astype(np.float32)
    promised = log_odds(ServedModel("m", 1, artefact).probability(rows))
    did = np.random.default_rng(4).random(len(rows)) < 1 / (1 + np.exp(-promised))
    after = ServedModel("m", 2, recalibrated(artefact, promised, did).artefact).probability(rows)
    assert np.abs(log_odds(after) - promised).max() < 1.0


def test_outcomes_that_have_nothing_to_do_with_the_promises_are_refused(artefact: bytes) -> None:
    draws = np.random.default_rng(5)
    with pytest.raises(TrainingRefused, match="NO_SIGNAL"):
        recalibrated(artefact, draws.normal(size=1000), draws.random(1000) < 0.3)
