"""Bringing the tables back to what the links say, along the way that every change of the graph takes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from chassis.db import Database
from services.identity import graph, graph_store
from services.identity.domain.clusters import components
from services.identity.domain.graphs import Flags, Ints
from services.identity.domain.kinds import COUNTED, NUMBERS
from services.identity.rebuild.view import View
from services.identity.store import Store

REASON = "REBUILT"
# Identifiers per transaction: others wait for the graph's lock meanwhile. What hangs together is never parted.
BATCH = 20_000


def wrong(ids: Ints, held: View, right: View) -> Iterator[Ints]:
    """Ids on which two views differ, each with all that either of them puts together with it, in batches."""
    differing = np.logical_or.reduce(list(held.differs(right).values()))
    label = _together(ids, held, right)
    affected: Flags = np.zeros(int(label.max()) + 1 if len(label) else 0, bool)
    affected[label[differing]] = True
    at = np.flatnonzero(affected[label])
    at = at[np.argsort(label[at], kind="stable")]
    while len(at):
        end = min(BATCH, len(at))
        while end < len(at) and label[at[end]] == label[at[end - 1]]:
            end += 1
        yield ids[at[:end]]
        at = at[end:]


def _together(ids: Ints, held: View, right: View) -> Ints:
    """Label per node: equal for what any cluster or neighbourhood of either view holds."""
    nodes = np.arange(len(ids))
    one, other = [], []
    for smallest in (held.cluster, held.neighbourhood, right.cluster, right.neighbourhood):
        at = np.flatnonzero(smallest)
        one.append(nodes[at])
        other.append(np.searchsorted(ids, smallest[at]))
    return components(len(ids), np.concatenate(one), np.concatenate(other))


async def repair(database: Database, store: Store, ids: Ints) -> None:
    """Solves the neighbourhoods of some identifiers anew, counted guards included; moves and ledger are published."""
    async with database.transaction() as uow:
        await graph_store.lock(uow)
        # Asked under the lock: what somebody decided on meanwhile stays decided.
        counted = await uow.fetch(
            "SELECT id FROM identifier WHERE id = ANY($1::bigint[])"
            " AND (person_guard = ANY($2::smallint[]) OR vehicle_guard = ANY($2::smallint[]))",
            ids.tolist(),
            [NUMBERS[reason] for reason in COUNTED],
        )
        await graph.recompute(uow, store, ids.tolist(), why=REASON, reopen=[row[0] for row in counted])
