"""What a score means, and which cuts are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scoring.domain import (
    TrainingRefused,
    check_labels,
    leaking_features,
    probability_of,
    score_of,
)

probabilities = st.floats(0, 1)


def score(probability: float) -> float:
    return float(score_of(np.array([probability]))[0])


def test_the_scale_is_the_published_one() -> None:
    assert 0.0 == score(0)
    assert 500.0 == pytest.approx(score(1 / 13))
    assert 800.0 == pytest.approx(score(0.25))
    assert 1000.0 == score(1)


@given(probabilities)
def test_every_probability_has_a_score_from_0_to_1000(probability: float) -> None:
    assert 0 <= score(probability) <= 1000


@given(probabilities, probabilities)
def test_a_higher_probability_never_has_a_lower_score(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert score(low) <= score(high)
    # Probabilities come from float32 margins: what differs there must differ in the score.
    if high - low > 1e-9:
        assert score(low) < score(high)


@given(probabilities)
def test_a_score_gives_its_probability_back(probability: float) -> None:
    assert probability == pytest.approx(float(probability_of(score_of(np.array([probability])))[0]), abs=1e-12)


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        ("offer_answer = 'yes'", []),
        ("job = 'student'", ["job"]),
        ("JOB = 'student' AND \"Age\" > 30", ["age", "job"]),
        ("offer_answer = 'job'", []),
        ("offer_answer = 'it''s my job' OR age IS NULL", ["age"]),
        ("job_title = 'x'", []),
        ("ANY(vehicle, age > 3)", ["age"]),
        ("answered_student", ["job"]),
        ("deep", ["job"]),
        ("round_1", []),
    ],
)
def test_a_feature_in_a_predicate_is_found_even_behind_business_tags(predicate: str, expected: list[str]) -> None:
    expressions = {
        "answered_student": "offer_answer = 'yes' AND student",
        "student": "job = 'student'",
        "deep": "answered_student",
        "round_1": "round_2",
        "round_2": "round_1",
    }
    assert expected == leaking_features([predicate], expressions, ["age", "job"])


@pytest.mark.parametrize(
    ("yes", "no", "reason"),
    [
        (0, 0, "EMPTY_CUT"),
        (0, 100, "CONSTANT_LABEL"),
        (100, 0, "CONSTANT_LABEL"),
        (49, 100, "TOO_FEW_POSITIVES"),
        (100, 49, "TOO_FEW_NEGATIVES"),
    ],
)
def test_a_cut_that_teaches_nothing_is_refused(yes: int, no: int, reason: str) -> None:
    with pytest.raises(TrainingRefused) as caught:
        check_labels(np.array([True] * yes + [False] * no, bool))
    assert reason == caught.value.reason


def test_fifty_of_each_are_enough() -> None:
    check_labels(np.array([True, False] * 50))
