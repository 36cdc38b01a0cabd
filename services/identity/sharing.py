"""Values out of use: set aside by hand because they are shared or odd, and released again."""

from __future__ import annotations

import time
from collections.abc import Sequence

from chassis.db import UnitOfWork
from services.identity import graph, graph_store, intake, queries
from services.identity.domain.identifiers import Known
from services.identity.domain.kinds import NUMBERS, Reason
from services.identity.intake import Batch
from services.identity.store import Store
from services.identity.vault import Vault


async def set_aside(
    uow: UnitOfWork, store: Store, vault: Vault, identifiers: Sequence[Known], reason: Reason, note: str
) -> int:
    """Takes values out of use, known or not yet, and takes apart what only they held together; returns how many were in use."""
    if not identifiers:
        return 0
    scopes = await store.scope_ids(uow, {known.scope for known in identifiers})
    await graph_store.lock(uow)
    now = time.time_ns() // 1000
    batch = Batch()
    for known in identifiers:
        batch.value(known, now)
    near, ids = await intake.near(uow, vault, batch, wide=True)
    await intake.add_identifiers(uow, vault, near, batch, ids, scopes)
    number = NUMBERS[reason]
    for id_ in ids:
        node = near.node[id_]
        near.mine[node] = True
        if near.person_guard[node] != NUMBERS[Reason.ERASED]:
            near.set_aside[node] = number
    set_aside_ids = [near.ids[node] for node in near.set_aside]
    fresh = [id_ for id_ in set_aside_ids if not near.person_guard[near.node[id_]]]
    degree = dict.fromkeys(set_aside_ids, 0)
    for _, value, _, _ in near.links:
        if value in degree:
            degree[value] += 1
    await uow.fetch("UPDATE identifier SET cleared = false WHERE id = ANY($1::bigint[])", set_aside_ids)
    await graph_store.write_shared(uow, {id_: (number, links) for id_, links in degree.items()}, note)
    await graph.settle(uow, store, near, why=str(reason))
    return len(fresh)


async def release(uow: UnitOfWork, store: Store, vault: Vault, identifiers: Sequence[Known]) -> tuple[int, list[Known]]:
    """Puts values back to use; returns how many were out of it, and those that nobody knows."""
    await graph_store.lock(uow)
    tokens = [vault.lookup_tokens(known) for known in identifiers]
    found = await queries.identifier_ids(uow, [token for each in tokens for token in each])
    ids = list(set(found.values()))
    unknown = [known for known, each in zip(identifiers, tokens, strict=True) if found.keys().isdisjoint(each)]
    rows = await uow.fetch(
        "UPDATE identifier SET cleared = true, person_guard = 0, vehicle_guard = 0 WHERE id = ANY($1::bigint[])"
        " AND person_guard <> $2 AND (person_guard > 0 OR vehicle_guard > 0) RETURNING id",
        ids,
        NUMBERS[Reason.ERASED],
    )
    released = [int(row[0]) for row in rows]
    await uow.fetch("DELETE FROM shared WHERE identifier_id = ANY($1::bigint[])", released)
    await graph.recompute(uow, store, released, why="RELEASED")
    return len(released), unknown
