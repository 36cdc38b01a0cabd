"""The test of a trial, by simulation: how often it is wrong, and how often it finds what is there."""

from __future__ import annotations

import numpy as np

from services.scoring.trials import CHALLENGER_BETTER, NOT_BETTER, TOO_FEW_OUTCOMES, judge

TRIALS = 2000


def squashed(log_odds: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-log_odds)))


def better(seed: int, persons: int, champion_sees: float, challenger_sees: float) -> str:
    """A trial between versions that each see one of two signs of equal weight, with their own noise; both are calibrated.

    Shares of 0 see nothing of their sign. What a version does not see is averaged out, so that its promises hold.
    """
    draws = np.random.default_rng(seed)
    signs = draws.normal(0, 1, (2, persons))
    truth = -2 + signs.sum(axis=0)
    did = draws.random(persons) < squashed(truth)
    said = []
    for sign, share in zip(signs, (champion_sees, challenger_sees), strict=True):
        seen = np.sqrt(share) * sign + np.sqrt(1 - share) * draws.normal(0, 1, persons)
        # What remains unknown is normal; a wider logistic is its average (MacKay 1992).
        known, rest = np.sqrt(share) * seen, 1 - share + 1
        said.append(squashed((-2 + known) / np.sqrt(1 + np.pi * rest / 8)))
    verdict, _ = judge(said[0], said[1], did)
    return verdict


def test_a_challenger_that_is_no_better_is_called_better_in_no_more_than_5_of_100_trials() -> None:
    wrong = sum(better(seed, 2000, 0.5, 0.5) == CHALLENGER_BETTER for seed in range(TRIALS))
    # So many trials tell 5 % to within three standard deviations.
    assert wrong / TRIALS <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / TRIALS)
    worse = sum(better(seed, 2000, 0.8, 0.4) == CHALLENGER_BETTER for seed in range(500))
    assert worse / 500 <= 0.01


def test_a_challenger_that_is_truly_better_wins() -> None:
    won = sum(better(seed, 4000, 0.4, 0.8) == CHALLENGER_BETTER for seed in range(200))
    assert won >= 190


def test_a_challenger_that_only_shouts_louder_loses_although_it_ranks_the_same() -> None:
    draws = np.random.default_rng(0)
    truth = draws.normal(-2, 1, 5000)
    did = draws.random(5000) < squashed(truth)
    verdict, figures = judge(squashed(truth), squashed(2 * truth), did)
    assert NOT_BETTER == verdict
    assert figures["auc_champion"] == figures["auc_challenger"]
    assert figures["log_loss_gain_high"] < 0


def test_the_same_version_is_not_better_than_itself() -> None:
    draws = np.random.default_rng(0)
    said = draws.random(1000)
    verdict, figures = judge(said, said, draws.random(1000) < said)
    assert (NOT_BETTER, 1.0, 0.0) == (verdict, figures["p"], figures["log_loss_gain"])


def test_without_a_hundred_outcomes_of_each_kind_nothing_is_said() -> None:
    did = np.arange(1000) < 99
    assert (TOO_FEW_OUTCOMES, {"persons": 1000.0, "positives": 99.0}) == judge(np.full(1000, 0.5), np.where(did, 0.7, 0.2), did)
    assert TOO_FEW_OUTCOMES == judge(np.full(1000, 0.5), np.where(did, 0.7, 0.2), ~did)[0]
    assert TOO_FEW_OUTCOMES == judge(np.empty(0), np.empty(0), np.empty(0, bool))[0]
