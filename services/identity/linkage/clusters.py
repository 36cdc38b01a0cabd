"""From scored pairs to groups of records: average linkage, or one-to-one between two files."""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]


def average_linkage(records: int, left: Ids, right: Ids, probability: Numbers, threshold: float) -> Ids:
    """Cluster of each record, named after its first record.

    The two groups whose pairs have the highest mean probability are joined while that mean reaches the threshold. Pairs that
    were never compared count as 0: a chain of look-alikes does not hold two persons together, which is what connected
    components do. O(pairs · log pairs).
    """
    near: list[dict[int, float]] = [{} for _ in range(records)]
    for a, b, p in zip(left.tolist(), right.tolist(), probability.tolist(), strict=True):
        near[a][b] = near[b][a] = p
    size, into, changed = [1] * records, list(range(records)), [0] * records
    # Ties fall by record number, so that the result does not depend on the order of pairs.
    heap = [(-p, a, b, 0, 0) for a, row in enumerate(near) for b, p in row.items() if a < b and p >= threshold]
    heapq.heapify(heap)
    while heap:
        _, a, b, changes_a, changes_b = heapq.heappop(heap)
        if changed[a] != changes_a or changed[b] != changes_b:
            continue
        # The group with fewer neighbours moves.
        keep, gone = (a, b) if (len(near[a]), -a) >= (len(near[b]), -b) else (b, a)
        into[gone], changed[gone] = keep, -1
        size[keep] += size[gone]
        changed[keep] += 1
        del near[keep][gone], near[gone][keep]
        for other, total in near[gone].items():
            del near[other][gone]
            near[keep][other] = near[other][keep] = near[keep].get(other, 0.0) + total
        near[gone] = {}
        for other, total in near[keep].items():
            mean = total / (size[keep] * size[other])
            if mean >= threshold:
                first, second = min(keep, other), max(keep, other)
                heapq.heappush(heap, (-mean, first, second, changed[first], changed[second]))
    return _named_by_first(into)


def _named_by_first(into: list[int]) -> Ids:
    root = np.array(into, dtype=np.int64)
    while not np.array_equal(root, root[root]):
        root = root[root]
    first = np.full(len(root), len(root), dtype=np.int64)
    np.minimum.at(first, root, np.arange(len(root)))
    return first[root]


def one_to_one(records: int, left: Ids, right: Ids, weight: Numbers, at_least: float) -> Ids:
    """Cluster of each record when each may have one partner at most: best pairs first, none that is taken already."""
    cluster = np.arange(records, dtype=np.int64)
    taken = np.zeros(records, dtype=bool)
    for pair in np.lexsort((right, left, -weight)).tolist():
        a, b = int(left[pair]), int(right[pair])
        if weight[pair] < at_least:
            break
        if not (taken[a] or taken[b]):
            taken[a] = taken[b] = True
            cluster[a] = cluster[b] = min(a, b)
    return cluster
