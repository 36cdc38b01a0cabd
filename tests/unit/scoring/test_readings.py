"""What each kind of model says of persons, and what is said of those of whom nothing may be said."""

from __future__ import annotations

import numpy as np
import pytest

from services.scoring.artefact import CLASS, EFFECT, PROBABILITY, Calibration, ServedModel, metadata
from services.scoring.domain import score_of, uplift_score
from services.scoring.frame import Encoding, Feature, Kind, Matrix
from services.scoring.learning.uplift_graph import Graph
from services.scoring.models import MODELS
from services.scoring.models.specification import Foretells
from services.scoring.offers import ranked, usual
from services.scoring.readings import neutral, read, scoring_as, usual_score
from services.scoring.reasons import chances, explain
from services.scoring.registry import Version

# Columns of the margin by rows of weights: the feature times these.
WEIGHTS = {PROBABILITY: [1.0], EFFECT: [1.0, 0.0], CLASS: [1.0, 0.0, -1.0]}
CLASSES = ("a", "b", "c")


def served(kind: str) -> ServedModel:
    graph, weights = Graph(), WEIGHTS[kind]
    unknown = graph.add("IsNaN", "features")
    known = graph.add("Where", unknown, graph.constant([[0.0]]), "features")
    margin = graph.add("MatMul", known, graph.constant([weights]))
    carried = metadata([Encoding(Feature("t", Kind.NUMBER))], Calibration(1, 0), kind, CLASSES if kind == CLASS else ())
    return ServedModel("m", 1, graph.file(margin, 1, len(weights), carried))


def rows(*values: float) -> Matrix:
    return np.array(values, np.float32)[:, None]


def logistic(value: float) -> float:
    return float(1 / (1 + np.exp(-value)))


def test_a_probability_an_effect_and_a_class_are_read_as_what_they_are() -> None:
    matrix = rows(2.0, -1.0)
    plain = read(served(PROBABILITY), matrix)
    assert np.allclose([logistic(2), logistic(-1)], plain.probabilities) and ["", ""] == plain.labels
    assert np.allclose(score_of(plain.probabilities), plain.scores)
    effect = read(served(EFFECT), matrix)
    assert np.allclose([logistic(2) - 0.5, logistic(-1) - 0.5], effect.probabilities)
    assert np.allclose(uplift_score(effect.probabilities), effect.scores)
    assert effect.scores[0] > 500 > effect.scores[1]
    classes = read(served(CLASS), matrix)
    shares = np.exp([2, 0, -2]) / np.exp([2, 0, -2]).sum()
    assert ["a", "c"] == classes.labels and np.isclose(shares[0], classes.probabilities[0])


@pytest.mark.parametrize("kind", [PROBABILITY, EFFECT, CLASS])
def test_the_silent_are_all_alike_and_the_others_as_before(kind: str) -> None:
    version = Version(served(kind), {"training_positives": 1, "training_persons": 4, "usual": 0.1})
    said = read(version.served, rows(2.0, -1.0, 0.3))
    quiet = neutral(said, np.array([True, False, True]), version)
    assert usual_score(version) == quiet.scores[0] == quiet.scores[2]
    assert (0.1, "") == (quiet.probabilities[0], quiet.labels[0])
    assert (said.scores[1], said.labels[1]) == (quiet.scores[1], quiet.labels[1])
    assert 0.25 == version._replace(card={"training_positives": 1, "training_persons": 4}).usual
    assert 0 == len(read(version.served, np.empty((0, 1), np.float32)).scores)


@pytest.mark.parametrize("kind", [PROBABILITY, EFFECT, CLASS])
def test_reasons_are_of_the_score_that_is_told(kind: str) -> None:
    model, row = served(kind), rows(-2.0)[0]
    score, [reason] = explain(model, row, {})
    assert np.isclose(read(model, row[None, :]).scores[0], score)
    # Unknown counts as nothing here: of the classes all are then equally likely.
    assert np.isclose(score - scoring_as(model, row)(rows(np.nan))[0], reason.points)
    assert (reason.points > 0) == (kind == CLASS)
    assert [] == chances(model, row, {"t": [5.0]}, {})


def test_offers_come_by_their_chances_or_by_the_usual_ones_where_rare_ones_are_one() -> None:
    model = served(CLASS)
    assert ["c", "b", "a"] == [offer for offer, _ in ranked(model, rows(-3.0)[0])]
    told = usual(model, {"b": 0.2, "c": 0.3, "x": 0.4, "y": 0.1})
    assert ["a", "c", "b"] == [offer for offer, _ in told] and np.allclose([0.5, 0.3, 0.2], [share for _, share in told])


def test_every_kind_of_question_has_a_model() -> None:
    assert set(Foretells) == {specification.foretells for specification in MODELS.values()}
    assert {"opt_in"} == {MODELS[name].consent for name in MODELS if name.startswith("inferred_")}
    assert {"purchase_intent", "churn", "repurchase", "dormant_wake_up", "uplift", "next_best_offer"} <= MODELS.keys()
