"""Probabilities that come true, today and after the rate has moved."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scoring.artefact import Calibration
from services.scoring.learning.calibration import Recalibration, matched_intercept, recalibrated
from services.scoring.learning.metrics import expected_calibration_error


@given(st.floats(0.2, 3), st.floats(0.01, 0.99))
def test_a_matched_intercept_makes_the_mean_come_true(slope: float, rate: float) -> None:
    margins = np.linspace(-4, 4, 101)
    found = Calibration(slope, matched_intercept(slope, margins, rate))
    assert rate == pytest.approx(found.probability(margins).mean(), abs=1e-9)


def test_a_base_rate_that_rises_fivefold_is_followed() -> None:
    random = np.random.default_rng(0)
    margin = random.normal(size=12_000)
    start, now = Calibration(1.0, -2.8), Calibration(1.0, -0.9)
    labels = random.random(len(margin)) < np.where(
        np.arange(12_000) < 4_000, start.probability(margin), now.probability(margin)
    )
    promised, after = recalibrated(start, margin, labels)
    later = slice(4_000, None)
    assert expected_calibration_error(start.probability(margin[later]), labels[later]) > 0.2
    assert expected_calibration_error(promised[later], labels[later]) < 0.03
    assert after.intercept == pytest.approx(now.intercept, abs=0.25)
    assert after.slope == pytest.approx(now.slope, abs=0.2)


def test_where_nothing_moves_recalibration_costs_next_to_nothing() -> None:
    random = np.random.default_rng(1)
    margin = random.normal(size=12_000)
    truth = Calibration(1.0, -2.0)
    labels = random.random(len(margin)) < truth.probability(margin)
    promised, _ = recalibrated(truth, margin, labels)
    assert expected_calibration_error(promised, labels) < 0.01
    assert np.abs(promised - truth.probability(margin)).mean() < 0.01


def test_a_promise_is_made_before_its_outcome_is_known() -> None:
    margin = np.random.default_rng(2).normal(size=1000)
    labels = margin > 0
    changed = labels.copy()
    changed[600:] = ~changed[600:]
    calibration = Calibration(1.0, 0.0)
    before, _ = recalibrated(calibration, margin, labels)
    after, _ = recalibrated(calibration, margin, changed)
    assert (before[:800] == after[:800]).all()
    assert (before[800:] != after[800:]).all()


@given(st.lists(st.tuples(st.floats(-30, 30), st.booleans()), max_size=60))
def test_whatever_comes_in_ranks_are_kept(outcomes: list[tuple[float, bool]]) -> None:
    state = Recalibration.start(Calibration(1.0, -2.0))
    margins, labels = np.array([m for m, _ in outcomes]), np.array([y for _, y in outcomes], bool)
    calibration = state.after(margins, labels).calibration
    assert calibration.slope > 0
    assert np.isfinite([calibration.slope, calibration.intercept]).all()
