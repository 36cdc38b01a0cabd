"""Functions of a feature matrix that compute themselves in numpy for training and write themselves into an ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import HistGradientBoostingClassifier

from services.scoring.domain import Floats
from services.scoring.frame import Matrix
from services.scoring.learning.additive import Additive
from services.scoring.learning.trees import ensemble, to_file


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

    def line(self, additive: Additive) -> str:
        """An additive model, [n, 1]; once however many functions stand on it."""
        if id(additive) not in self._shared:
            name = self._shared[id(additive)] = f"line{len(self._nodes)}"
            nodes, constants = additive.to_nodes(1.0, name)
            self._nodes += nodes
            self._constants += constants
        return self._shared[id(additive)]

    def trees(self, boosters: Sequence[HistGradientBoostingClassifier]) -> str:
        """The mean of the boosters' margins, [n, 1]."""
        node = ensemble([(booster, 1 / len(boosters)) for booster in boosters], f"trees{len(self._nodes)}")
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
class Line:
    """What an additive model says: log-odds, or an effect."""

    additive: Additive

    def __call__(self, matrix: Matrix) -> Floats:
        """In float64."""
        return self.additive.margin(matrix)

    def onto(self, graph: Graph) -> str:
        """Writes itself into a graph, [n, 1]."""
        return graph.line(self.additive)


@dataclass(frozen=True)
class Trees:
    """The mean margin of boosters, log-odds."""

    boosters: tuple[HistGradientBoostingClassifier, ...]

    def __call__(self, matrix: Matrix) -> Floats:
        """In float64."""
        return np.asarray(np.mean([booster.decision_function(matrix) for booster in self.boosters], axis=0))

    def onto(self, graph: Graph) -> str:
        """Writes itself into a graph, [n, 1]."""
        return graph.trees(self.boosters)


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
