"""A stored model is the trained model, to the last comparison, or it is not opened at all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from services.scoring.artefact import ArtefactRefused, Calibration, Seal, ServedModel, check_seal, metadata, seal
from services.scoring.domain import Floats
from services.scoring.frame import Encoding, Feature, Kind, Matrix
from services.scoring.learning.trees import floor32, to_onnx
from services.scoring.reasons import explain

COLUMNS = 6
ENCODINGS = tuple(Encoding(Feature(f"x{i}", Kind.NUMBER)) for i in range(COLUMNS))
KEY = b"k" * 32


def cells(rows: int, seed: int) -> Matrix:
    """Numbers with ties, neighbours that only the last bit tells apart, and unknowns."""
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(rows, COLUMNS)).astype(np.float32)
    matrix[:, 1] = random.integers(0, 5, rows)
    matrix[:, 2] = np.nextafter(np.float32(0.1), np.where(random.random(rows) < 0.5, np.float32(0), np.float32(1)))
    matrix[random.random(matrix.shape) < 0.1] = np.nan
    return matrix


def boosters(seed: int = 0) -> list[HistGradientBoostingClassifier]:
    matrix = cells(3000, seed)
    random = np.random.default_rng(seed)
    known = np.nan_to_num(matrix)
    labels = known[:, 0] + (known[:, 2] > 0.1) * 2 + known[:, 1] / 3 + random.normal(size=len(matrix)) > 1.5
    with threadpool_limits(1):
        return [
            HistGradientBoostingClassifier(max_iter=20, max_features=0.7, random_state=s).fit(matrix, labels) for s in (1, 2)
        ]


@pytest.fixture(scope="module")
def trained() -> list[HistGradientBoostingClassifier]:
    return boosters()


@pytest.fixture(scope="module")
def artefact(trained: list[HistGradientBoostingClassifier]) -> bytes:
    return to_onnx(trained, metadata(ENCODINGS, Calibration(1.1, -0.2)))


def expected_probability(trained: list[HistGradientBoostingClassifier], matrix: Matrix) -> Floats:
    margin = np.mean([b.decision_function(matrix) for b in trained], axis=0)
    return np.asarray(1 / (1 + np.exp(-(1.1 * margin - 0.2))))


def test_served_probabilities_are_those_of_scikit_learn(trained: list[HistGradientBoostingClassifier], artefact: bytes) -> None:
    matrix = cells(20_000, 7)
    served = ServedModel("m", 1, artefact).probability(matrix)
    assert np.abs(expected_probability(trained, matrix) - served).max() < 1e-6


def test_a_row_that_lies_on_a_threshold_or_beside_it_goes_the_same_way(
    trained: list[HistGradientBoostingClassifier], artefact: bytes
) -> None:
    nodes = np.concatenate([tree[0].nodes for booster in trained for tree in booster._predictors])
    splits = nodes[nodes["is_leaf"] == 0]
    rows = []
    for feature, threshold in zip(splits["feature_idx"], floor32(splits["num_threshold"]), strict=True):
        for value in (threshold, np.nextafter(threshold, np.float32(np.inf)), np.nextafter(threshold, np.float32(-np.inf))):
            row = np.zeros(COLUMNS, np.float32)
            row[feature] = value
            rows.append(row)
    matrix = np.array(rows)
    served = ServedModel("m", 1, artefact).probability(matrix)
    assert np.abs(expected_probability(trained, matrix) - served).max() < 1e-6


@given(arrays(np.float32, (3, COLUMNS), elements=st.floats(width=32)))
def test_any_row_has_a_probability(matrix: Matrix) -> None:
    probability = ANY_MODEL.probability(matrix)
    assert ((probability >= 0) & (probability <= 1)).all()


ANY_MODEL = ServedModel("m", 1, to_onnx(boosters(3), metadata(ENCODINGS, Calibration(1.0, 0.0))))


@given(st.floats(-1e30, 1e30))
def test_rounding_down_never_moves_a_float32_to_the_other_side(threshold: float) -> None:
    [low] = floor32(np.array([threshold]))
    assert float(low) <= threshold < float(np.nextafter(np.float32(low), np.float32(np.inf)))


def test_reasons_are_what_is_lost_by_not_knowing(artefact: bytes) -> None:
    model = ServedModel("m", 1, artefact)
    row = np.array([2, 4, 0.2, np.nan, 0, 0], np.float32)
    score, reasons = explain(model, row, {})
    assert {"x0", "x1", "x2", "x4", "x5"} == {r.tag for r in reasons}
    assert sorted(reasons, key=lambda r: -r.points) == reasons
    for reason in reasons:
        without = row.copy()
        without[int(reason.tag[1:])] = np.nan
        assert score - explain(model, without, {})[0] == pytest.approx(reason.points)


def test_a_seal_holds_for_one_model_one_version_one_key_and_these_bytes(artefact: bytes) -> None:
    good = seal(KEY, "m", 1, artefact)
    check_seal(KEY, "m", 1, artefact, good)
    false = [
        (b"x" * 32, "m", 1, artefact, good),
        (KEY, "other", 1, artefact, good),
        (KEY, "m", 2, artefact, good),
        (KEY, "m", 1, artefact + b"x", good),
        (KEY, "m", 1, artefact, Seal("pickle", good.sha256, good.signature)),
        (KEY, "m", 1, artefact, Seal(good.format, "0" * 64, good.signature)),
    ]
    for arguments in false:
        with pytest.raises(ArtefactRefused):
            check_seal(*arguments)


def test_an_onnx_file_that_is_not_ours_is_refused(trained: list[HistGradientBoostingClassifier]) -> None:
    with pytest.raises(ArtefactRefused):
        ServedModel("m", 1, to_onnx(trained, '{"format": "onnx-trees-99"}'))
    with pytest.raises(ArtefactRefused):
        ServedModel("m", 1, to_onnx(trained, "{}"))
