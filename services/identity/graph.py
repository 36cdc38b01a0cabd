"""Changing the graph: recompute the neighbourhood of what is new, write the view, say what moved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from chassis.db import UnitOfWork
from services.identity import events, graph_store
from services.identity.domain.clusters import Partition, cluster
from services.identity.domain.entities import Change, assign, newcomers
from services.identity.domain.kinds import GUARDS, STORED_REASONS, Reason, Space
from services.identity.events import Move
from services.identity.graph_store import Neighbourhood
from services.identity.store import Owner

MAX_EVIDENCE = 8


async def recompute(uow: UnitOfWork, space: Space, touched: Iterable[int], registered: Iterable[int] = ()) -> None:
    """Brings the view of everything near `touched` up to date. `registered`: values that someone put on the register just now.

    The caller holds the graph's lock and has written the links already.
    """
    touched, registered = set(touched), set(registered)
    if not touched:
        return
    near = await graph_store.neighbourhood(uow, space, touched)
    nodes = {at: node._replace(blocked=Reason.REGISTERED) if at in registered else node for at, node in near.nodes.items()}
    partition = cluster(space, nodes, near.links)
    anchors = {at: near.owners[at][0] for at, node in near.nodes.items() if node.anchor and node.kind.space is space}
    version, fresh = await graph_store.draw(uow, space, len(newcomers(partition.groups, anchors)))
    assignment = assign(partition.groups, anchors, fresh)
    moved = {at: entity for at, entity in assignment.owners.items() if near.owners[at][0] != entity}
    blocked = {at: STORED_REASONS[reason] for at, reason in partition.shared.items() if near.nodes[at].blocked is None}
    await graph_store.write_guards(uow, space, blocked)
    if not moved:
        return
    await graph_store.write_owners(uow, moved, version)
    entries = await graph_store.write_ledger(
        uow,
        space,
        _explained(space, changes=assignment.changes, near=near, partition=partition, anchors=anchors, touched=touched),
        version,
    )
    # Anchors that are here for the first time travel with their event.
    moves = [Move(space, Owner(at, entity, version)) for at, entity in moved.items() if anchors.get(at)]
    events.publish_changed(uow, moves, entries)


def _explained(
    space: Space,
    *,
    changes: Sequence[Change],
    near: Neighbourhood,
    partition: Partition,
    anchors: Mapping[int, int],
    touched: set[int],
) -> list[tuple[str, int, int, str, list[int]]]:
    """Each change with its reason and the identifiers that made the difference."""
    group_of = {at: group for group in partition.groups for at in group}
    joining: dict[frozenset[int], list[int]] = {}
    for edge in partition.joined:
        group = group_of[edge.anchor[0]]
        if edge.anchor[0] in touched and edge.value[0] in touched:
            joining.setdefault(group, []).append(edge.value[0])
    newly_shared = {at: reason for at, reason in partition.shared.items() if near.nodes[at].blocked is None}
    refused = {edge.anchor[0]: reason for edge, reason in partition.refused}
    told = []
    for change in changes:
        if change.operation == "merge":
            values = sorted(
                set(joining.get(change.group, ())), key=lambda at: (-GUARDS[space][near.nodes[at].kind].strength, at)
            )
            reason = f"SAME_{near.nodes[values[0]].kind.name}" if values else "EVIDENCE_CHANGED"
            told.append((change.operation, change.survivor, change.other, reason, values[:MAX_EVIDENCE]))
            continue
        left = {at for at in change.group if anchors.get(at) == change.survivor}
        cut = sorted({link.value for link in near.links if link.value in newly_shared and link.anchor in left} or newly_shared)
        clash = next((str(refused[at]) for at in left if at in refused), "")
        reason = str(newly_shared[cut[0]]) if cut else clash or "EVIDENCE_CHANGED"
        told.append((change.operation, change.survivor, change.other, reason, cut[:MAX_EVIDENCE]))
    return told
