"""Logistic regression on bent lines: each number adds a piecewise linear curve, each word and each unknown its own step.

The other kind of learner beside the trees: it has no interactions and so needs far fewer persons. Its numbers are few
enough to be read, and it continues a line where trees stay flat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

from services.scoring.domain import Floats
from services.scoring.frame import Encoding, Kind, Matrix
from services.scoring.learning.cut import Labels

# More bends than this bend after noise on the usual cut; the penalty takes back what is not needed.
PIECES = 8
# Beyond this many persons the curves no longer change, and the dense design costs memory.
MOST_ROWS = 60_000
WIDE = 200


@dataclass(frozen=True)
class Basis:
    """What a matrix is unfolded into; fitted without labels.

    `numbers` are columns of the matrix; a number is cut to [low, low + width] and scaled to [0, 1]. Part b of the design
    is max(0, number[source[b]] - knot[b]). `words` are columns of codes below `sizes`.
    """

    numbers: NDArray[np.int64]
    low: Matrix
    width: Matrix
    source: NDArray[np.int64]
    knot: Matrix
    words: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def scaled(self, matrix: Matrix) -> tuple[Matrix, NDArray[np.bool_]]:
        """Numbers in [0, 1] with 0 for unknown, and which are unknown."""
        numbers = matrix[:, self.numbers]
        unknown = np.isnan(numbers)
        known = np.where(unknown, self.low, numbers)
        return (np.clip(known, self.low, self.low + self.width) - self.low) / self.width, unknown

    def codes(self, matrix: Matrix) -> NDArray[np.int64]:
        """Codes of words; the size of a column stands for unknown."""
        words = matrix[:, self.words]
        # A row that no encoding made is taken for one at the edge, as in what is served.
        return np.clip(np.where(np.isnan(words), self.sizes, words), 0, self.sizes).astype(np.int64)

    def design(self, matrix: Matrix) -> Floats:
        """Rows by parts: bent numbers, unknown numbers, one column per word and unknown word."""
        scaled, unknown = self.scaled(matrix)
        bent = np.maximum(scaled[:, self.source] - self.knot, 0)
        places = self.codes(matrix) + self.offsets
        steps = np.zeros((len(matrix), int((self.sizes + 1).sum())))
        np.put_along_axis(steps, places, 1, axis=1)
        return np.hstack([bent, unknown, steps]).astype(np.float64)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where the steps of each column of words begin."""
        return np.cumsum(np.concatenate([[0], self.sizes + 1]))[:-1].astype(np.int64)


def fit_basis(matrix: Matrix, encodings: Sequence[Encoding], pieces: int = PIECES) -> Basis:
    """Bends at quantiles, straight lines when `pieces` is one; the outer half percents are cut off, so that an absurd number
    is only a large one."""
    numbers: list[int] = []
    low: list[float] = []
    width: list[float] = []
    source: list[int] = []
    knot: list[float] = []
    for place, encoding in enumerate(encodings):
        if encoding.feature.kind is Kind.CATEGORY:
            continue
        known = matrix[:, place]
        known = known[np.isfinite(known)].astype(np.float64)
        first, last = np.quantile(known, [0.005, 0.995]) if len(known) else (0.0, 0.0)
        if last <= first:
            # Nearly everybody has the same: the whole range, or a column that says nothing.
            first, last = (known.min(), known.max()) if len(known) else (0.0, 0.0)
        if np.float32(last) <= np.float32(first):
            last = first + max(abs(first), 1.0)
        cuts = np.quantile(np.clip(known, first, last), np.arange(1, pieces) / pieces) if len(known) else np.empty(0)
        bends = np.unique(np.concatenate([[0.0], (cuts - first) / (last - first)]))
        bends = bends[bends < 1]
        source += [len(numbers)] * len(bends)
        knot += bends.tolist()
        numbers.append(place)
        low.append(first)
        width.append(last - first)
    words = [place for place, encoding in enumerate(encodings) if encoding.feature.kind is Kind.CATEGORY]
    return Basis(
        np.array(numbers, np.int64),
        np.array(low, np.float32),
        np.array(width, np.float32),
        np.array(source, np.int64),
        np.array(knot, np.float32),
        np.array(words, np.int64),
        np.array([len(encodings[place].words) for place in words], np.int64),
    )


@dataclass(frozen=True)
class Additive:
    """A fitted sum of curves and steps; `weights` by part of the basis' design."""

    basis: Basis
    weights: Floats
    intercept: float

    def margin(self, matrix: Matrix) -> Floats:
        """Log-odds of rows."""
        return np.asarray(self.basis.design(matrix) @ self.weights + self.intercept)

    def to_nodes(self, weight: float, output: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        """ONNX nodes and constants from `features` to `weight` times the margin, [n, 1]; names begin with `output`."""
        basis = self.basis
        nodes: list[onnx.NodeProto] = []
        constants: list[onnx.TensorProto] = []
        bent, unknown = len(basis.source), len(basis.numbers)
        parts = np.split(self.weights * weight, [bent, bent + unknown])

        def constant(values: NDArray[Any], dtype: type = np.float32) -> str:
            constants.append(numpy_helper.from_array(np.asarray(values, dtype), f"{output}_constant{len(constants)}"))
            return str(constants[-1].name)

        def node(operator: str, *inputs: str, **attributes: Any) -> str:
            nodes.append(helper.make_node(operator, list(inputs), [f"{output}_{len(nodes)}"], **attributes))
            return str(nodes[-1].output[0])

        total = constant(np.array([[self.intercept * weight]]))
        if len(basis.numbers):
            numbers = node("Gather", "features", constant(basis.numbers, np.int64), axis=1)
            missing = node("IsNaN", numbers)
            known = node("Where", missing, constant(basis.low), numbers)
            cut = node("Min", node("Max", known, constant(basis.low)), constant(basis.low + basis.width))
            scaled = node("Div", node("Sub", cut, constant(basis.low)), constant(basis.width))
            source = node("Gather", scaled, constant(basis.source, np.int64), axis=1)
            curves = node("Relu", node("Sub", source, constant(basis.knot)))
            total = node("Add", total, node("MatMul", curves, constant(parts[0][:, None])))
            flags = node("Cast", missing, to=TensorProto.FLOAT)
            total = node("Add", total, node("MatMul", flags, constant(parts[1][:, None])))
        if len(basis.words):
            words = node("Gather", "features", constant(basis.words, np.int64), axis=1)
            codes = node("Where", node("IsNaN", words), constant(basis.sizes), words)
            # A row that no encoding made must not reach outside of the table.
            inside = node("Min", node("Max", codes, constant(np.zeros(1))), constant(basis.sizes))
            places = node("Add", node("Cast", inside, to=TensorProto.INT64), constant(basis.offsets, np.int64))
            steps = node("Gather", constant(parts[2]), places, axis=0)
            total = node("Add", total, node("ReduceSum", steps, constant(np.array([1]), np.int64), keepdims=1))
        nodes.append(helper.make_node("Identity", [total], [output]))
        return nodes, constants


def standard(design: Floats) -> tuple[Floats, Floats, Floats]:
    """(the design with parts of mean 0 and variance 1, what was subtracted, what was divided by)."""
    spread = design.std(axis=0)
    # A part that (nearly) nobody has cannot be learnt: without this its weight would be divided by nothing.
    spread = np.where(spread < 1e-3, np.inf, spread)
    centre = design.mean(axis=0)
    return (design - centre) / spread, centre, spread


def fit_additive(
    matrix: Matrix, encodings: Sequence[Encoding], labels: Labels, strengths: tuple[float, ...], pieces: int = PIECES
) -> list[Additive]:
    """One model per strength of the data against the penalty (C of scikit-learn, on parts of unit variance)."""
    if len(matrix) > MOST_ROWS:
        rows = np.random.default_rng(0).permutation(len(matrix))[:MOST_ROWS]
        matrix, labels = matrix[rows], labels[rows]
    basis = fit_basis(matrix, encodings, pieces)
    design, centre, spread = standard(basis.design(matrix))
    models = []
    with threadpool_limits(1):
        for strength in strengths:
            # Newton's steps are few and exact, but cost the square of the parts.
            solver = "newton-cholesky" if design.shape[1] <= WIDE else "lbfgs"
            line = LogisticRegression(C=strength, solver=solver, max_iter=300, tol=1e-3).fit(design, labels)
            weights = line.coef_[0] / spread
            models.append(Additive(basis, weights, float(line.intercept_[0] - centre @ weights)))
    return models
