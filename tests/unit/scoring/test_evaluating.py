"""What is looked at by default, and figures of models of classes and of effects."""

from __future__ import annotations

import numpy as np
import pytest

from services.scoring.domain import TrainingRefused
from services.scoring.evaluating import Asked, measured
from services.scoring.frame import Frame
from services.scoring.learning.cut import Cut
from services.scoring.models.specification import Foretells
from services.scoring.readings import Readings


def cut_of(labels: np.ndarray, classes: tuple[str, ...] = ("no", "yes"), treated: np.ndarray | None = None) -> Cut:
    return Cut(Frame(np.arange(len(labels)), {}), labels.astype(np.int32), classes, treated=treated)


def test_a_request_comes_back_from_its_record() -> None:
    asked = Asked(cut_predicate="age > 30", as_of_s=5.5, horizon_s=60.0, recalibrate=True)
    assert asked == Asked.of(asked.recorded())


def test_classes_are_counted_by_hits() -> None:
    cut = cut_of(np.array([0, 1, 2, 1]), ("suv", "van", "coupe"))
    figures = measured(Foretells.CLASS, Readings(np.zeros(4), np.zeros(4), ["suv", "van", "van", "van"]), cut)
    assert 0.75 == figures["accuracy"]
    with pytest.raises(TrainingRefused, match="EMPTY_CUT"):
        measured(Foretells.CLASS, Readings(np.empty(0), np.empty(0), []), cut_of(np.empty(0)))


def test_effects_need_people_with_and_without_a_push() -> None:
    draws = np.random.default_rng(0)
    effect, treated = np.full(4000, 0.1), draws.random(4000) < 0.5
    did = draws.random(4000) < 0.1 + 0.1 * treated
    said = Readings(np.zeros(4000), effect, [""] * 4000)
    figures = measured(Foretells.EFFECT, said, cut_of(did, treated=treated))
    assert figures["effect_low"] < 0.1 < figures["effect_high"]
    for nobody in (None, np.zeros(4000, bool)):
        with pytest.raises(TrainingRefused, match="TOO_FEW_TREATED"):
            measured(Foretells.EFFECT, said, cut_of(did, treated=nobody))
