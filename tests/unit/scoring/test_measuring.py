"""Figures of evaluations: the same as scikit-learn's, and true on outcomes that were drawn as promised."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from services.scoring import measuring
from services.scoring.learning import metrics
from services.scoring.measuring import Flags, log_odds


def promised(persons: int, seed: int = 0) -> tuple[np.ndarray, Flags]:
    """Probabilities with ties, and outcomes drawn from them."""
    draws = np.random.default_rng(seed)
    probability = 1 / (1 + np.exp(-np.round(draws.normal(-1.5, 1.2, persons), 1)))
    return probability, draws.random(persons) < probability


def test_figures_are_those_of_scikit_learn() -> None:
    probability, did = promised(3000)
    figures = measuring.measure(probability, did)
    assert roc_auc_score(did, probability) == pytest.approx(figures["auc"])
    assert average_precision_score(did, probability) == pytest.approx(figures["average_precision"])
    assert log_loss(did, probability) == pytest.approx(figures["log_loss"])
    line = LogisticRegression(C=1e9, tol=1e-10).fit(log_odds(probability)[:, None], did)
    assert line.coef_[0, 0] == pytest.approx(figures["calibration_slope"], abs=1e-4)
    area, error = metrics.auc_with_error(probability, did)
    assert (area, area - measuring.Z95 * error) == pytest.approx((figures["auc"], figures["auc_low"]))
    assert metrics.expected_calibration_error(probability, did) == pytest.approx(figures["ece"])


def test_what_comes_as_promised_has_intercept_0_and_slope_1_as_often_as_the_errors_say() -> None:
    inside = {"intercept": 0, "slope": 0}
    for seed in range(200):
        figures = measuring.calibration(*promised(800, seed))
        for name, truth in (("intercept", 0.0), ("slope", 1.0)):
            off = abs(figures[f"calibration_{name}"] - truth)
            inside[name] += off < measuring.Z95 * figures[f"calibration_{name}_error"]
    # 95 % of 200, give or take three standard deviations.
    assert all(181 <= times <= 199 for times in inside.values())


def test_promises_that_were_too_low_by_a_factor_show_it_in_the_intercept() -> None:
    probability, _ = promised(20_000)
    truth = 1 / (1 + np.exp(-(log_odds(probability) + np.log(2))))
    did = np.random.default_rng(1).random(len(truth)) < truth
    figures = measuring.calibration(probability, did)
    assert np.log(2) == pytest.approx(figures["calibration_intercept"], abs=3 * figures["calibration_intercept_error"])
    assert np.log(2) / figures["calibration_intercept_error"] > 10


def test_bands_hold_everybody_once_and_their_rate_lies_in_the_interval() -> None:
    probability, did = promised(5000)
    figures = measuring.bands(probability, did)
    assert 5000 == sum(value for name, value in figures.items() if name.endswith("_persons"))
    for band in "abcd":
        low, rate, high = (figures[f"band_{band}_{end}"] for end in ("rate_low", "rate", "rate_high"))
        assert low < rate < high
        assert low < figures[f"band_{band}_promised"] < high
    # 800 points are one in four.
    assert {"band_a_persons": 2.0} == {
        name: value
        for name, value in measuring.bands(np.array([0.25, 0.9]), np.array([True, False])).items()
        if "persons" in name
    }


def test_a_band_means_the_same_whichever_version_put_people_into_it() -> None:
    draws = np.random.default_rng(9)
    signs = draws.normal(0, 1, (2, 60_000))
    did = draws.random(60_000) < 1 / (1 + np.exp(2.5 - signs.sum(axis=0)))
    # Each sees another sign, hence puts other people on top; what it does not see is averaged out (MacKay 1992).
    versions = [measuring.bands(1 / (1 + np.exp((2.5 - sign) / np.sqrt(1 + np.pi / 8))), did) for sign in signs]
    for band in "abc":
        (low, high), (other_low, other_high) = ([f[f"band_{band}_rate_{end}"] for end in ("low", "high")] for f in versions)
        assert max(low, other_low) < min(high, other_high)


def test_separated_classes_and_sure_promises_give_finite_figures() -> None:
    probability = np.array([0.0] * 50 + [1.0] * 50)
    figures = measuring.measure(probability, probability > 0.5)
    assert np.isfinite(list(figures.values())).all()
    wrong = measuring.measure(probability, probability < 0.5)
    assert np.isfinite(list(wrong.values())).all()
    assert (1.0, 0.0) == (figures["auc"], wrong["auc"])


def test_effects_of_pushes_are_those_that_were_built_in() -> None:
    draws = np.random.default_rng(3)
    effect = draws.uniform(-0.05, 0.15, 40_000)
    pushed = draws.random(len(effect)) < 0.5
    did = draws.random(len(effect)) < 0.1 + np.where(pushed, effect, 0)
    figures = measuring.effects(effect, did, pushed)
    assert figures["effect_low"] < 0.05 < figures["effect_high"]
    assert figures["best_half_effect_low"] < 0.10 < figures["best_half_effect_high"]
    assert 0.1 == pytest.approx(figures["best_half_promised"], abs=0.002)


def test_hits_are_counted_with_their_interval() -> None:
    figures = measuring.hits(np.array(["a", "b", "a", "c"]), np.array(["a", "b", "b", "c"]))
    assert (4.0, 0.75) == (figures["persons"], figures["accuracy"])
    assert figures["accuracy_low"] < 0.75 < figures["accuracy_high"]
