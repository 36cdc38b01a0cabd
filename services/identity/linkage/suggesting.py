"""What probabilistic linkage finds among identity's own records becomes suggestions and probable links."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chassis.db import Database
from chassis.errors import FailedPrecondition
from services.identity import suggestions
from services.identity.linkage import engines, records
from services.identity.linkage.model import TooLittleToLearn
from services.identity.linkage.profile import Profile
from services.identity.linkage.profiles.customers import PROFILE
from services.identity.linkage.records import Customers
from services.identity.linkage.run import Linked, PreparedFile, Progress, link
from services.identity.store import Store
from services.identity.suggestions import Pair
from services.identity.vault import Vault

# A transaction holds the graph's lock: pairs at a time.
BATCH = 500
NEVER = 2.0


@dataclass(frozen=True)
class Wanted:
    """From which probability a pair is worth a person's look, and from which it is linked without one (above 1: never)."""

    suggest_from: float
    threshold: float = NEVER


@dataclass(frozen=True)
class Found:
    """Pairs of different persons, the best pair of records for each. `certain` are those that may be linked by themselves:
    above the threshold, and both records in one cluster, so that no chain of look-alikes glues persons together."""

    certain: Sequence[Pair]
    possible: Sequence[Pair]


@dataclass(frozen=True)
class Outcome:
    """Counts only."""

    records: int
    persons: int
    unreadable: int
    pairs: int
    suggested: int
    linked: int


def worth_telling(linked: Linked, customers: Customers, wanted: Wanted) -> Found:
    """Leaves out pairs of one person, and pairs of persons whose id cards differ: the graph would refuse them."""
    pairs, probability = linked.pairs, linked.pairs.probability()
    person = np.array(customers.persons, dtype=np.int64)
    one, other = person[pairs.left], person[pairs.right]
    # Best pair of two persons first; ties by the order of records.
    order = np.lexsort((pairs.right, pairs.left, -probability))
    order = order[(probability[order] >= wanted.suggest_from) & (one[order] != other[order])]
    persons = np.stack([np.minimum(one, other)[order], np.maximum(one, other)[order]], axis=1)
    _, first = np.unique(persons, axis=0, return_index=True)
    certain: list[Pair] = []
    possible: list[Pair] = []
    for at in order[np.sort(first)].tolist():
        if _clash(customers.cards, int(one[at]), int(other[at])):
            continue
        left, right = int(pairs.left[at]), int(pairs.right[at])
        weights = {name: round(float(values[at]), 2) for name, values in pairs.evidence.items() if pairs.level[name][at] >= 0}
        pair = Pair(customers.anchors[left], customers.anchors[right], float(probability[at]), weights)
        alone = pair.probability >= wanted.threshold and linked.cluster[left] == linked.cluster[right]
        (certain if alone else possible).append(pair)
    return Found(certain, possible)


def _clash(cards: Mapping[int, set[int]], one: int, other: int) -> bool:
    mine, theirs = cards.get(one), cards.get(other)
    return bool(mine and theirs and not mine & theirs)


async def link_customers(
    database: Database,
    vault: Vault,
    store: Store,
    wanted: Wanted,
    progress: Progress,
    *,
    profile: Profile = PROFILE,
    engine: str = "duckdb",
    master: str = engines.LOCAL_CLUSTER,
    folder: Path | None = None,
    dry_run: bool = False,
) -> Outcome:
    """Reads all records, links them, keeps the pairs. Values are only in memory and in a private folder that goes at the end.

    Raises FailedPrecondition TOO_LITTLE_TO_LEARN, KEK_MISSING.
    """
    customers = Customers()
    with engines.private_folder(folder) as private:
        with PreparedFile(profile, private / "records.parquet") as prepared:
            async for batch in records.read(database, vault, customers):
                prepared.add(batch)
                progress("read", {"records": prepared.count})
        linked = await asyncio.to_thread(_linked, prepared, engine, master, private, progress)
    found = worth_telling(linked, customers, wanted)
    suggested = certain = 0
    if not dry_run:
        for pairs, threshold in ((found.certain, wanted.threshold), (found.possible, NEVER)):
            for start in range(0, len(pairs), BATCH):
                async with database.transaction() as uow:
                    pending, done = await suggestions.suggest(uow, store, pairs[start : start + BATCH], threshold)
                suggested, certain = suggested + pending, certain + done
                progress("kept", {"suggested": suggested, "linked": certain})
    pairs_found = len(found.certain) + len(found.possible)
    return Outcome(prepared.count, len(set(customers.persons)), customers.unreadable, pairs_found, suggested, certain)


def _linked(prepared: PreparedFile, name: str, master: str, folder: Path, progress: Progress) -> Linked:
    with engines.opened(name, master, folder) as engine:
        try:
            return link(prepared, engine, progress)
        except TooLittleToLearn as error:
            raise FailedPrecondition(
                f"linkage has too little to learn from: {error}", reason="TOO_LITTLE_TO_LEARN", field="records"
            ) from None
