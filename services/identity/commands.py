"""Questions that need the rules, not only the tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chassis.db import UnitOfWork
from chassis.errors import NotFound
from services.identity import graph, graph_store, neighbourhoods, queries
from services.identity.domain.explain import explain
from services.identity.domain.identifiers import Known
from services.identity.domain.kinds import Kind
from services.identity.store import Store
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


async def explain_link(uow: UnitOfWork, store: Store, vault: Vault, a: Known, b: Known) -> Story:
    """Recomputes the neighbourhood of both, so that the story is that of the rules, not of memory; raises NotFound."""
    ids = []
    for known, field in ((a, "a"), (b, "b")):
        found = list((await queries.identifier_ids(uow, vault.lookup_tokens(known))).values())
        if not found:
            raise NotFound("never seen", reason="IDENTIFIER_NOT_FOUND", field=field)
        ids.append(found[0])
    if b.kind.space is not a.kind.space:
        return Story(False, [], [DIFFERENT_KINDS])
    near = await neighbourhoods.near(uow, await graph_store.near_ids(uow, ids))
    solved = graph.solve(near, await store.trust(uow))
    found_way = explain(solved.graph, solved.parts[a.kind.space], near.node[ids[0]], near.node[ids[1]])
    if found_way.guards:
        return Story(False, [], found_way.guards)
    hops = [(near.ids[one], near.ids[other]) for one, other in found_way.path]
    witnesses = await queries.evidence(uow, hops)
    return Story(
        True,
        [
            Hop(
                Kind(near.kind[near.node[one]]).name.lower(),
                Kind(near.kind[near.node[other]]).name.lower(),
                witness.name,
                witness.observations,
                witness.first_seen_us,
                witness.last_seen_us,
            )
            for one, other in hops
            for witness in [witnesses[one, other]]
        ],
        [],
    )
