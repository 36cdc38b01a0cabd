"""Functions of a feature matrix that compute themselves in numpy for training and write themselves into an ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import HistGradientBoostingClassifier

from services.scoring.domain import Floats
from services.scoring.frame import Encoding, Kind, Matrix
from services.scoring.learning.trees import ensemble, to_file

# HistGradientBoostingClassifier or -Regressor; scikit-learn has no types.
Booster: TypeAlias = Any
# More words than this share one unknown: a rare word has no effect that could be learnt.
MOST_WORDS = 40
_OUTLYING = 0.01


class Graph:
    """An ONNX graph in the making; every call returns the name of what it added."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._shared: dict[int, str] = {}

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """An operator on named inputs."""
        name = f"{operator.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [name], domain=domain, **attributes))
        return name

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """An array."""
        name = f"constant{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def basis(self, basis: Basis) -> str:
        """A basis, once however many functions stand on it."""
        if id(basis) not in self._shared:
            self._shared[id(basis)] = basis.onto(self)
        return self._shared[id(basis)]

    def trees(self, boosters: Sequence[Booster], features: str) -> str:
        """The mean of the boosters' raw predictions, [n, 1]."""
        node = ensemble([(booster, 1 / len(boosters)) for booster in boosters], f"trees{len(self._nodes)}")
        node.input[0] = features
        self._nodes.append(node)
        return str(node.output[0])

    def file(self, output: str, columns: int, outputs: int, carried: str) -> bytes:
        """The whole graph as an ONNX file from `features` to `margin`."""
        last = helper.make_node("Identity", [output], ["margin"])
        return to_file([*self._nodes, last], self._constants, columns, carried, outputs)


class Function(Protocol):
    """One number per row."""

    def __call__(self, matrix: Matrix) -> Floats:
        """The numbers, in float64."""
        ...

    def onto(self, graph: Graph) -> str:
        """Writes itself into a graph, [n, 1]."""
        ...


@dataclass(frozen=True)
class Basis:
    """Columns for linear models: standardised numbers without outliers, steps at the fifths, one column a word.

    An unknown number counts as usual and has a column that says so; an unknown word has no column.
    """

    numbers: NDArray[np.int64]
    low: Matrix
    high: Matrix
    centre: Matrix
    scale: Matrix
    stepped: NDArray[np.int64]
    steps: Matrix
    worded: NDArray[np.int64]
    words: Matrix
    flagged: NDArray[np.int64]

    @classmethod
    def fit(cls, matrix: Matrix, encodings: Sequence[Encoding], fifths: bool = False) -> Basis:
        """The basis of a training matrix, all constants in float32 so that serving compares the very same numbers."""
        numbers, limits, moments, stepped, worded = [], [], [], [], []
        for place, encoding in enumerate(encodings):
            known = matrix[:, place][~np.isnan(matrix[:, place])]
            if not len(known):
                continue
            if encoding.feature.kind is Kind.CATEGORY:
                codes, counts = np.unique(known, return_counts=True)
                worded += [(place, code) for code in codes[np.sort(np.argsort(-counts, kind="stable")[:MOST_WORDS])]]
                continue
            low, high = np.quantile(known, (_OUTLYING, 1 - _OUTLYING)).astype(np.float32)
            if low == high:
                low, high = known.min(), known.max()
            inside = np.clip(known, low, high).astype(np.float64)
            if not inside.std() > 0:
                continue
            numbers.append(place)
            limits.append((low, high))
            moments.append((inside.mean(), inside.std()))
            if fifths and len(np.unique(known)) > 2:
                thresholds = np.unique(np.quantile(known, (0.2, 0.4, 0.6, 0.8)).astype(np.float32))
                stepped += [(place, value) for value in thresholds if value < known.max()]
        unknown = np.isnan(matrix).mean(axis=0)
        pairs = [np.array(p, np.float32).reshape(-1, 2) for p in (limits, moments, stepped, worded)]
        return cls(
            numbers=np.array(numbers, np.int64),
            low=pairs[0][:, 0],
            high=pairs[0][:, 1],
            centre=pairs[1][:, 0],
            scale=pairs[1][:, 1],
            stepped=pairs[2][:, 0].astype(np.int64),
            steps=pairs[2][:, 1],
            worded=pairs[3][:, 0].astype(np.int64),
            words=pairs[3][:, 1],
            flagged=np.flatnonzero((unknown > 0) & (unknown < 1)),
        )

    def __call__(self, matrix: Matrix) -> Matrix:
        """Rows by basis columns."""
        standard = (np.clip(matrix[:, self.numbers], self.low, self.high) - self.centre) / self.scale
        parts = (
            np.where(np.isnan(standard), np.float32(0), standard),
            matrix[:, self.stepped] > self.steps,
            matrix[:, self.worded] == self.words,
            np.isnan(matrix[:, self.flagged]),
        )
        return np.concatenate([part.astype(np.float32) for part in parts], axis=1)

    def onto(self, graph: Graph) -> str:
        """Writes itself into a graph, [n, columns]."""

        def taken(columns: NDArray[np.int64]) -> str:
            return graph.add("Gather", "features", graph.constant(columns, np.int64), axis=1)

        def number(flags: str) -> str:
            return graph.add("Cast", flags, to=TensorProto.FLOAT)

        parts = []
        if len(self.numbers):
            raw = taken(self.numbers)
            # What Min and Max make of NaN differs between versions: the unknown is put aside before them.
            unknown = graph.add("IsNaN", raw)
            known = graph.add("Where", unknown, graph.constant(self.centre), raw)
            clipped = graph.add("Min", graph.add("Max", known, graph.constant(self.low)), graph.constant(self.high))
            centred = graph.add("Sub", clipped, graph.constant(self.centre))
            parts.append(graph.add("Div", centred, graph.constant(self.scale)))
        if len(self.stepped):
            parts.append(number(graph.add("Greater", taken(self.stepped), graph.constant(self.steps))))
        if len(self.worded):
            parts.append(number(graph.add("Equal", taken(self.worded), graph.constant(self.words))))
        if len(self.flagged):
            parts.append(number(graph.add("IsNaN", taken(self.flagged))))
        return graph.add("Concat", *parts, axis=1)


@dataclass(frozen=True)
class Linear:
    """A weighted sum of basis columns."""

    basis: Basis
    weights: Floats
    intercept: float

    def __call__(self, matrix: Matrix) -> Floats:
        """In float64 on the float32 basis."""
        return self.basis(matrix) @ self.weights + self.intercept

    def onto(self, graph: Graph) -> str:
        """Writes itself into a graph, [n, 1]."""
        product = graph.add("MatMul", graph.basis(self.basis), graph.constant(self.weights[:, None]))
        return graph.add("Add", product, graph.constant([self.intercept]))


@dataclass(frozen=True)
class Trees:
    """The mean raw prediction of boosters; `treated` is appended as the last column when the boosters were given it."""

    boosters: tuple[Booster, ...]
    treated: float | None = None

    def __call__(self, matrix: Matrix) -> Floats:
        """Raw predictions: log-odds of classifiers, values of regressors."""
        if self.treated is not None:
            matrix = np.column_stack([matrix, np.full(len(matrix), self.treated, np.float32)])
        raw = [
            np.asarray(b.decision_function(matrix) if isinstance(b, HistGradientBoostingClassifier) else b.predict(matrix))
            for b in self.boosters
        ]
        return np.asarray(np.mean(raw, axis=0))

    def onto(self, graph: Graph) -> str:
        """Writes itself into a graph, [n, 1]."""
        features = "features"
        if self.treated is not None:
            pads = graph.constant([0, 0, 0, 1], np.int64)
            features = graph.add("Pad", features, pads, graph.constant(self.treated), mode="constant")
        return graph.trees(self.boosters, features)


@dataclass(frozen=True)
class Probability:
    """The probability that a log-odds stands for."""

    margin: Function

    def __call__(self, matrix: Matrix) -> Floats:
        """0 to 1."""
        return probability(self.margin(matrix))

    def onto(self, graph: Graph) -> str:
        """Writes itself into a graph, [n, 1]."""
        return graph.add("Sigmoid", self.margin.onto(graph))


@dataclass(frozen=True)
class Sum:
    """A weighted sum of functions."""

    parts: tuple[Function, ...]
    weights: tuple[float, ...]
    constant: float = 0.0

    def __call__(self, matrix: Matrix) -> Floats:
        """In the unit of the parts."""
        total = np.full(len(matrix), self.constant)
        for part, weight in zip(self.parts, self.weights, strict=True):
            total += weight * part(matrix)
        return total

    def onto(self, graph: Graph) -> str:
        """Writes itself into a graph, [n, 1]."""
        if not self.parts:
            # A row of any features that are there, times nothing.
            first = graph.add("Gather", "features", graph.constant([0], np.int64), axis=1)
            known = graph.add("Cast", graph.add("IsNaN", first), to=TensorProto.FLOAT)
            return graph.add("Add", graph.add("Mul", known, graph.constant([0.0])), graph.constant([self.constant]))
        columns = graph.add("Concat", *(part.onto(graph) for part in self.parts), axis=1)
        product = graph.add("MatMul", columns, graph.constant(np.array(self.weights)[:, None]))
        return graph.add("Add", product, graph.constant([self.constant]))


# Log-odds of certainty are infinite; one in a million is as good as never.
_LEAST = 1e-6


@dataclass(frozen=True)
class Responses:
    """P(yes | pushed) and P(yes | not pushed), as log-odds, [n, 2].

    Their difference is `effect` to the last digit; where they lie is from `expected`, P(yes) in a campaign that pushed
    this `share`, moved inwards where one of them would be no probability.
    """

    expected: Function
    effect: Function
    share: float

    def __call__(self, matrix: Matrix) -> Floats:
        """Log-odds, [n, 2]."""
        effect = np.clip(self.effect(matrix), -1, 1)
        spared = np.clip(self.expected(matrix) - self.share * effect, np.maximum(-effect, 0), np.minimum(1 - effect, 1))
        both = np.clip(np.column_stack([spared + effect, spared]), _LEAST, 1 - _LEAST)
        return np.asarray(np.log(both / (1 - both)))

    def onto(self, graph: Graph) -> str:
        """Writes itself into a graph, [n, 2]."""
        zero, one = graph.constant([0.0]), graph.constant([1.0])
        effect = graph.add("Clip", self.effect.onto(graph), graph.constant(-1.0), graph.constant(1.0))
        moved = graph.add("Mul", effect, graph.constant([self.share]))
        spared = graph.add("Sub", self.expected.onto(graph), moved)
        low = graph.add("Max", graph.add("Neg", effect), zero)
        high = graph.add("Min", graph.add("Sub", one, effect), one)
        spared = graph.add("Min", graph.add("Max", spared, low), high)
        both = graph.add("Concat", graph.add("Add", spared, effect), spared, axis=1)
        both = graph.add("Clip", both, graph.constant(_LEAST), graph.constant(1 - _LEAST))
        return graph.add("Log", graph.add("Div", both, graph.add("Sub", one, both)))


def probability(margin: Floats) -> Floats:
    """The logistic function."""
    return np.asarray(1 / (1 + np.exp(-margin)))
