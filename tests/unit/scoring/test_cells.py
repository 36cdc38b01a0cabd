"""Cells: what those have answered who share values, read by trees from other rows than their own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from services.scoring.artefact import Calibration, ServedModel, metadata
from services.scoring.frame import Encoding, Feature, Frame, Kind, Matrix, Numbers, Words, matrix_of
from services.scoring.learning import propensity
from services.scoring.learning.cells import USUAL, circumstances, columns_to_tell, fit_cells, told
from services.scoring.learning.cut import Cut
from services.scoring.learning.trees import Shape, fit_trees

NAN = np.float32(np.nan)


def days(random: np.random.Generator, rows: int) -> tuple[Matrix, np.ndarray]:
    """Two prices that a day has for everybody, a number of each person's own, and the day."""
    day = random.integers(0, 40, rows)
    return np.column_stack([day % 30, day // 5 + 100, random.normal(size=rows)]).astype(np.float32), day


def test_a_cell_says_the_log_odds_of_its_persons_pulled_to_the_usual_rate() -> None:
    matrix = np.repeat(np.array([[1, 5], [1, 6], [2, 5]], np.float32), 20, axis=0)
    labels = np.tile([1, 0], 30).astype(np.int32)
    labels[:20] = 1
    cells = fit_cells(matrix, labels, (0, 1))
    share = (20 + USUAL * labels.mean()) / (20 + USUAL)
    assert np.log(share / (1 - share)) == pytest.approx(cells(np.array([[1, 5]], np.float32))[0])
    # Who is unknown where nobody was counts for all who share what was asked before.
    share = (30 + USUAL * labels.mean()) / (40 + USUAL)
    assert np.log(share / (1 - share)) == pytest.approx(cells(np.array([[1, NAN]], np.float32))[0], abs=1e-6)


rows_of_values = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 30), st.just(3)), elements=st.sampled_from([0, 1, 2.5, -1e30, float("nan")])
)


@settings(max_examples=50, deadline=None)
@given(rows_of_values)
def test_rows_are_told_alike_if_and_only_if_they_share_their_values(matrix: Matrix) -> None:
    random = np.random.default_rng(0)
    _, group = np.unique(np.nan_to_num(matrix, nan=9), axis=0, return_inverse=True)
    # Every combination as often as no other, all answers yes but those of one more: no two cells have the same log-odds.
    each = np.concatenate([np.flatnonzero(group.ravel() == g)[:1].repeat(3 + g) for g in range(group.max() + 1)])
    rows = np.concatenate([matrix[each], np.full((500, 3), 7, np.float32)])
    labels = np.repeat([1, 0], [len(each), 500]).astype(np.int32)
    order = random.permutation(len(rows))
    said = fit_cells(rows[order], labels[order], (0, 1, 2))(matrix)
    assert len(np.unique(group)) == len(np.unique(said))
    assert all(1 == len(set(said[group.ravel() == g].tolist())) for g in range(group.max() + 1))


def test_nobody_reads_her_own_answer() -> None:
    matrix, _ = days(np.random.default_rng(0), 500)
    labels, fold = np.zeros(500, np.int32), np.arange(500) % 5
    labels[::7] = 1
    before = told(matrix, labels, [(0, 1)], fold)
    labels[fold == 3] = 1 - labels[fold == 3]
    after = told(matrix, labels, [(0, 1)], fold)
    assert (before[fold == 3] == after[fold == 3]).all()
    assert (before[fold != 3] != after[fold != 3]).any()


def test_what_a_day_has_for_everybody_is_a_circumstance_and_what_a_person_has_is_none() -> None:
    matrix, _ = days(np.random.default_rng(0), 5000)
    assert {0, 1} == set(circumstances(matrix))
    word = Encoding(Feature("town", Kind.CATEGORY), tuple("abcdefgh"))
    encodings = [Encoding(Feature(tag, Kind.NUMBER)) for tag in ("a", "b", "c")]
    towns = np.random.default_rng(1).integers(0, 8, 5000).astype(np.float32)
    assert (3,) in columns_to_tell(np.column_stack([matrix, towns]), [*encodings, word])


@pytest.mark.parametrize("matrix", [np.full((300, 2), NAN), np.zeros((300, 2)), np.arange(600).reshape(300, 2)])
def test_columns_that_divide_nobody_or_everybody_are_no_circumstances(matrix: Matrix) -> None:
    assert () == circumstances(matrix.astype(np.float32))


def test_trees_that_were_told_cells_are_served_as_trained() -> None:
    random = np.random.default_rng(4)
    matrix, _ = days(random, 2000)
    matrix[random.random(matrix.shape) < 0.1] = NAN
    labels, groups, fold = (random.random(2000) < 0.3).astype(np.int32), [(0, 1), (1,)], np.arange(2000) % 5
    shown = np.hstack([matrix, told(matrix, labels, groups, fold)])
    boosters = [fit_trees(shown, labels, Shape(15, 20, 1.0), 30, 0), fit_trees(matrix, labels, Shape(6, 20, 1.0), 30, 0)]
    cells = [fit_cells(matrix, labels, group) for group in groups]
    encodings = [Encoding(Feature(tag, Kind.NUMBER)) for tag in "abc"]
    carried = metadata(encodings, Calibration(1, 0))
    parts: list[propensity.Part] = [[booster] for booster in boosters]
    model = ServedModel("m", 1, propensity.to_onnx(parts, np.array([0.5, 0.5]), 3, carried, cells))
    rows = matrix * random.choice(np.array([1, 1, 1.01, -3, 1e30], np.float32), matrix.shape)
    rows[0], rows[1] = np.inf, -np.inf
    asked = np.column_stack([rows, *(table(rows) for table in cells)])
    margin = boosters[0].decision_function(asked) / 2 + boosters[1].decision_function(rows) / 2
    assert np.abs(1 / (1 + np.exp(-margin)) - model.probability(rows)).max() < 1e-6


def test_days_of_their_own_rate_are_learnt_and_served_as_trained() -> None:
    random, rows = np.random.default_rng(3), 6000
    matrix, day = days(random, rows)
    rate = random.normal(-1.5, 1.2, 40)
    answered = (random.random(rows) < 1 / (1 + np.exp(-rate[day] - 0.5 * matrix[:, 2]))).astype(np.int32)
    frame = Frame(
        np.arange(rows),
        {
            "price": Numbers(matrix[:, 0].astype(float)),
            "index": Numbers(matrix[:, 1].astype(float)),
            "mood": Numbers(matrix[:, 2].astype(float)),
            "town": Words(random.integers(-1, 5, rows).astype(np.int32), tuple("abcde")),
        },
    )
    model = ServedModel("m", 1, propensity.train(Cut(frame, answered), lambda _: None).artefact)
    asked = matrix_of(model.encodings, frame)
    truth = 1 / (1 + np.exp(-rate[day] - 0.5 * matrix[:, 2]))
    assert 0.9 < np.corrcoef(model.probability(asked), truth)[0, 1]
    asked[:, :2] = np.nan
    assert np.isfinite(model.probability(asked)).all()
