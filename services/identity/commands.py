"""Commands and questions that need the graph itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from chassis.db import UnitOfWork
from chassis.errors import NotFound
from services.identity import graph, graph_store, queries
from services.identity.domain.clusters import cluster
from services.identity.domain.explain import explain
from services.identity.domain.identifiers import Known
from services.identity.domain.kinds import Space
from services.identity.vault import Vault

DIFFERENT_KINDS = "DIFFERENT_ENTITY_KINDS"


@dataclass(frozen=True)
class Hop:
    """One link of a path, as its best witness tells it."""

    kind_a: str
    kind_b: str
    source: str
    observations: int
    first_seen_us: int
    last_seen_us: int


@dataclass(frozen=True)
class Story:
    """Whether two identifiers are one, and by what, or what keeps them apart."""

    linked: bool
    path: Sequence[Hop]
    guards: Sequence[str]


async def explain_link(uow: UnitOfWork, a: Known, b: Known) -> Story:
    """Recomputes the neighbourhood of both, so that the story is that of the rules, not of memory; raises NotFound."""
    ids = await graph_store.identifier_ids(uow, [a.token, b.token])
    for known, field in ((a, "a"), (b, "b")):
        if known.token not in ids:
            raise NotFound("never seen", reason="IDENTIFIER_NOT_FOUND", field=field)
    space = a.kind.space
    if b.kind.space is not space:
        return Story(False, [], [DIFFERENT_KINDS])
    first, second = ids[a.token], ids[b.token]
    near = await graph_store.neighbourhood(uow, space, [first, second])
    found = explain(cluster(space, near.nodes, near.links), first, second)
    if found.guards:
        return Story(False, [], found.guards)
    witnesses = await queries.evidence(uow, space, found.path)
    return Story(
        True,
        [
            Hop(
                near.nodes[one].kind.name.lower(),
                near.nodes[other].kind.name.lower(),
                witness.name,
                witness.observations,
                witness.first_seen_us,
                witness.last_seen_us,
            )
            for one, other in found.path
            for witness in [witnesses[one, other]]
        ],
        [],
    )


async def register_shared(uow: UnitOfWork, vault: Vault, identifiers: Sequence[Known], reason: str) -> int:
    """Puts values on the register and takes apart what only they held together; returns how many were not on it."""
    await graph_store.lock(uow)
    now = time.time_ns() // 1000
    ids, _ = await graph_store.ensure_identifiers(uow, vault, {k.token: (k, False, now) for k in identifiers})
    registered = await graph_store.register(uow, sorted(ids.values()), reason)
    # A plate on the register stops linking persons, too: cars are evidence on persons.
    await graph.recompute(uow, Space.PERSON, ids.values(), registered=ids.values())
    vehicles = {ids[k.token] for k in identifiers if k.kind.space is Space.VEHICLE}
    await graph.recompute(uow, Space.VEHICLE, vehicles, registered=vehicles)
    return registered
