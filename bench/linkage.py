"""Linkage accuracy: identity's profiles beside Splink's documented demonstrations and recordlinkage's classic pipeline.

`precision`, `recall` and `f1` (`pair_*` for historical_persons) are of pairs at or above probability 0.5, before clustering,
against all true pairs of the set: what blocking never compared counts as missed. `cluster_*` are of all pairs within one final
cluster. `*_best` takes the threshold that the truth likes best, which nobody who links has. Splink's figures on the whole of
historical_persons, pairwise 0.767 and clustered 0.829, correspond to `pair_f1_best` and to `cluster_f1` of connected components
at 0.95, the threshold of its page: "clustered" means that links of links count.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench import linkage_overlay
from bench import linkage_peers as peers
from bench import linkage_sets as sets
from bench.linkage_sets import LabelledSet, Links

THRESHOLD = 0.5
# Every half bit of match weight.
GRID = 1 / (1 + np.exp2(-np.arange(-12, 16, 0.5)))


async def troika(labelled: LabelledSet) -> Links:
    """Runs identity's linkage as the operator would, in its own process, on files that hold no truth."""
    with tempfile.TemporaryDirectory(prefix="troika-bench-") as name:
        folder = Path(name)
        files = []
        for number, records in enumerate(labelled.files):
            files.append(folder / f"{number}.parquet")
            records.to_parquet(files[-1])
        command = [sys.executable, "-m", "services.identity.linkage", labelled.name, *map(str, files), "--out", name, "--json"]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        if await process.wait():
            raise RuntimeError(f"linkage of {labelled.name} ended with {process.returncode}")
        pairs, clusters = pd.read_parquet(folder / "pairs.parquet"), pd.read_parquet(folder / "clusters.parquet")
    row = pd.Series(np.arange(len(labelled.records)), index=labelled.records["record_id"])
    return Links(
        row[pairs["record_id_l"]].to_numpy(),
        row[pairs["record_id_r"]].to_numpy(),
        pairs["probability"].to_numpy(),
        row[clusters["cluster"]].to_numpy(),
    )


def figures(labelled: LabelledSet, links: Links) -> dict[str, Any]:
    """What the module describes, rounded to 4 digits (5 for febrl, where the last thousandth matters)."""
    prefix, digits = ("pair_", 4) if labelled.name == "historical_persons" else ("", 5)
    kept = links.probability >= THRESHOLD
    found: dict[str, Any] = {
        f"{prefix}{name}": value for name, value in labelled.accuracy(links.left[kept], links.right[kept]).items()
    }
    best = [links.probability >= threshold for threshold in GRID]
    found[f"{prefix}f1_best"] = max(labelled.accuracy(links.left[kept], links.right[kept])["f1"] for kept in best)
    if links.cluster is not None:
        pairs = sets.cluster_pairs(links.cluster)
        found |= {f"cluster_{name}": value for name, value in labelled.accuracy(*pairs).items()}
        if labelled.name == "historical_persons":
            for half, among in zip("ab", labelled.halves(), strict=True):
                accuracy = labelled.accuracy(links.left[kept], links.right[kept], among)
                found[f"pair_f1_half_{half}"] = accuracy["f1"]
                found[f"cluster_f1_half_{half}"] = labelled.accuracy(*pairs, among)["f1"]
    found = {name: round(float(value), digits) for name, value in found.items()}
    if links.cluster is not None:
        found["largest_cluster"] = int(np.bincount(links.cluster).max())
    return found


async def accuracy_of(load: Callable[[], LabelledSet]) -> dict[str, Any]:
    """One labelled set: ours, and both peers on the same records."""
    labelled = load()
    start = time.perf_counter()
    ours = figures(labelled, await troika(labelled)) | {"seconds": round(time.perf_counter() - start, 1)}
    start = time.perf_counter()
    demonstration = await asyncio.to_thread(peers.splink_demonstration, labelled)
    splink = figures(labelled, demonstration) | {"seconds": round(time.perf_counter() - start, 1)}
    start = time.perf_counter()
    classic = await asyncio.to_thread(peers.recordlinkage_classic, labelled)
    seconds = round(time.perf_counter() - start, 1)
    return {
        "records": len(labelled.records),
        "true_pairs": labelled.true_pairs(),
        **ours,
        "splink_demonstration": splink,
        **{f"recordlinkage_{way}": figures(labelled, links) | {"seconds": seconds} for way, links in classic.items()},
    }


# What the line holds, in this order.
MEASURES: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
    "febrl3": partial(accuracy_of, sets.febrl3),
    "febrl4": partial(accuracy_of, sets.febrl4),
    "historical_persons": partial(accuracy_of, sets.historical_persons),
    "overlay": linkage_overlay.measure,
}
SLOW = ("historical_persons",)


async def measure(quick: bool) -> dict[str, Any]:
    """All sets one after the other; the quick ones only when quick."""
    return {name: await one() for name, one in MEASURES.items() if not (quick and name in SLOW)}
