"""scikit-learn's boosted trees as one ONNX node, the same to the last comparison.

Written here because skl2onnx 1.20 cannot convert HistGradientBoosting with the onnx that is current (it passes numpy
booleans that onnx refuses), and because its thresholds are rounded to the nearest float32: a value between the two
would go the other way. Here a threshold is rounded down, and for float32 input `x <= t` equals `x <= floor32(t)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

from services.scoring.artefact import METADATA_KEY
from services.scoring.frame import Matrix

# TreeEnsembleRegressor of ai.onnx.ml 3 is the newest that every onnxruntime in support reads.
_OPSETS = (("", 18), ("ai.onnx.ml", 3))
_IR_VERSION = 8


@dataclass(frozen=True)
class Shape:
    """How boosted trees grow: leaves of a tree, persons of a leaf, share of the columns that each split may look at."""

    leaves: int
    persons: int
    columns: float
    l2: float = 5.0
    rate: float = 0.07


def fit_trees(matrix: Matrix, labels: NDArray[Any], shape: Shape, rounds: int, seed: int) -> HistGradientBoostingClassifier:
    """One booster of so many rounds; a column of which nothing is known is never split."""
    empty = np.isnan(matrix).all(axis=0)
    if empty.any():
        # scikit-learn cannot bin a column without a number.
        matrix = np.where(empty, np.float32(0), matrix)
    trees = HistGradientBoostingClassifier(
        learning_rate=shape.rate,
        max_iter=rounds,
        max_leaf_nodes=shape.leaves,
        min_samples_leaf=shape.persons,
        max_features=shape.columns,
        l2_regularization=shape.l2,
        early_stopping=False,
        random_state=seed,
    )
    # One thread: on a machine with other work to do, threads that wait for each other take many times as long.
    with threadpool_limits(1):
        return trees.fit(matrix, labels)


def to_onnx(boosters: Sequence[HistGradientBoostingClassifier], carried: str) -> bytes:
    """Binary boosters on the same float32 columns → ONNX whose output is the mean of their margins (log-odds)."""
    node = ensemble([(booster, 1 / len(boosters)) for booster in boosters], "margin")
    return to_file([node], [], int(boosters[0].n_features_in_), carried)


def ensemble(weighted: Sequence[tuple[HistGradientBoostingClassifier, float]], output: str) -> onnx.NodeProto:
    """One node from `features` to the weighted sum of the boosters' margins, [n, 1]; weights are not zero."""
    trees = [(stage[0].nodes, weight, 0) for booster, weight in weighted for stage in booster._predictors]
    base = sum(float(booster._baseline_prediction[0, 0]) * weight for booster, weight in weighted)
    return sum_of_trees(trees, [base], output)


def sum_of_trees(
    weighted: Sequence[tuple[np.ndarray[Any, Any], float, int]], bases: Sequence[float], output: str
) -> onnx.NodeProto:
    """One node from `features` to [n, len(bases)]: trees are (nodes, weight, which output they add to)."""
    attributes: dict[str, list[Any]] = {name: [] for name in _NODE_ATTRIBUTES}
    for number, (nodes, weight, target) in enumerate(weighted):
        _add_tree(attributes, number, nodes, weight, target)
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["features"],
        [output],
        domain="ai.onnx.ml",
        n_targets=len(bases),
        aggregate_function="SUM",
        post_transform="NONE",
        base_values=list(bases),
    )
    node.attribute.extend(helper.make_attribute(name, values) for name, values in attributes.items())
    return node


def to_file(
    nodes: Sequence[onnx.NodeProto], constants: Sequence[onnx.TensorProto], columns: int, carried: str, outputs: int = 1
) -> bytes:
    """Nodes from `features` [n, columns] to `margin` [n, outputs] as one ONNX file that carries its metadata."""
    graph = helper.make_graph(
        list(nodes),
        "margin",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, columns])],
        [helper.make_tensor_value_info("margin", TensorProto.FLOAT, [None, outputs])],
        list(constants),
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS]
    model = helper.make_model(graph, opset_imports=opsets, producer_name="troika", ir_version=_IR_VERSION)
    helper.set_model_props(model, {METADATA_KEY: carried})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


_NODE_ATTRIBUTES = (
    "nodes_treeids",
    "nodes_nodeids",
    "nodes_featureids",
    "nodes_values",
    "nodes_modes",
    "nodes_truenodeids",
    "nodes_falsenodeids",
    "nodes_missing_value_tracks_true",
    "target_treeids",
    "target_nodeids",
    "target_ids",
    "target_weights",
)


def _add_tree(attributes: dict[str, list[Any]], number: int, nodes: np.ndarray[Any, Any], weight: float, target: int) -> None:
    count = len(nodes)
    leaf = nodes["is_leaf"].astype(bool)
    if nodes["is_categorical"].any():
        raise ValueError("categorical splits are not converted: encode categories as numbers")
    attributes["nodes_treeids"] += [number] * count
    attributes["nodes_nodeids"] += range(count)
    attributes["nodes_featureids"] += np.where(leaf, 0, nodes["feature_idx"]).tolist()
    attributes["nodes_values"] += np.where(leaf, 0, floor32(nodes["num_threshold"])).tolist()
    attributes["nodes_modes"] += np.where(leaf, "LEAF", "BRANCH_LEQ").tolist()
    attributes["nodes_truenodeids"] += np.where(leaf, 0, nodes["left"]).tolist()
    attributes["nodes_falsenodeids"] += np.where(leaf, 0, nodes["right"]).tolist()
    attributes["nodes_missing_value_tracks_true"] += np.where(leaf, 0, nodes["missing_go_to_left"]).tolist()
    leaves = np.flatnonzero(leaf)
    attributes["target_treeids"] += [number] * len(leaves)
    attributes["target_nodeids"] += leaves.tolist()
    attributes["target_ids"] += [target] * len(leaves)
    attributes["target_weights"] += (nodes["value"][leaves] * weight).tolist()


def floor32(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The largest float32 that is not above each value."""
    with np.errstate(over="ignore"):
        nearest = values.astype(np.float32)
    return np.where(nearest > values, np.nextafter(nearest, np.float32(-np.inf)), nearest)
