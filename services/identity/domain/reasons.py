"""Why entities became one or came apart: a reason code and the identifiers that made the difference, for the ledger."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from services.identity.domain.clusters import Partition
from services.identity.domain.entities import Change
from services.identity.domain.graphs import RULES, Flags, Graph, Ints, Small
from services.identity.domain.kinds import NUMBERS, OPERATOR_STRENGTH, REASON_OF, Kind, Reason, Space

MAX_EVIDENCE = 8
EVIDENCE_CHANGED = "EVIDENCE_CHANGED"
_REFUSALS = [NUMBERS[r] for r in (Reason.EXCLUSIVE_ID_CARD, Reason.EXCLUSIVE_VIN, Reason.TOO_MANY_OF_A_KIND, Reason.UNMERGED)]


class Told(NamedTuple):
    """A change of the view as the ledger keeps it; all numbers are ids."""

    operation: str
    survivor_id: int
    other_id: int
    reason: str
    evidence: Sequence[int]
    moved: Sequence[int]
    kept: Sequence[int]


@dataclass(frozen=True)
class View:
    """A solved space with what it was before: guards per node, which links are new, the ids of all nodes."""

    space: Space
    graph: Graph
    solved: Partition
    was: Small
    news: Flags
    ids: Sequence[int]


def told(view: View, changes: Sequence[Change], at: Ints, first_new: int, why: str) -> list[Told]:
    """Changes with their reasons. `at`: the nodes that changes count in; `first_new`: id of the first new entity."""
    graph, solved, ids = view.graph, view.solved, view.ids
    joining: defaultdict[int, list[int]] = defaultdict(list)
    for link in np.flatnonzero(view.news & (solved.state == 0)).tolist():
        joining[int(solved.label[graph.anchor[link]])].append(link)
    cut = _cut(view)
    nodes = at.tolist()
    stories = []
    for change in changes:
        moved = [nodes[i] for i in change.moved]
        survivor, other = (first_new - 1 - e if e < 0 else e for e in (change.survivor, change.other))
        if change.operation == "merge":
            reason, evidence = _merged(view.space, graph, joining[int(solved.label[moved[0]])])
            kept = [ids[nodes[i]] for i in change.kept]
        else:
            reason, evidence = _split(moved, cut)
            kept = []
        stories.append(
            Told(
                change.operation,
                survivor,
                other,
                why if why and not evidence else reason,
                [ids[node] for node in evidence[:MAX_EVIDENCE]],
                [ids[node] for node in moved],
                kept,
            )
        )
    return stories


def _merged(space: Space, graph: Graph, links: Sequence[int]) -> tuple[str, list[int]]:
    """The strongest new link tells why."""
    if not links:
        return EVIDENCE_CHANGED, []
    kinds = RULES[space].strength

    def strength(link: int) -> int:
        return int(graph.strength[link]) or int(kinds[graph.kind[graph.value[link]]])

    links = sorted(links, key=lambda link: (-strength(link), link))
    best = links[0]
    if stated := int(graph.strength[best]):
        reason = "OPERATOR" if stated >= OPERATOR_STRENGTH else "PROBABLE"
    else:
        reason = f"SAME_{Kind(int(graph.kind[graph.value[best]])).name}"
    return reason, list(dict.fromkeys(int(graph.value[link]) for link in links))


def _cut(view: View) -> dict[int, list[tuple[int, int]]]:
    """Anchor → (reason number, value) of its links that stopped counting: to values newly shared first, then refused ones."""
    graph, solved = view.graph, view.solved
    newly = (solved.guard > 0) & (view.was == 0)
    at_value = newly[graph.value] & (graph.link_space == view.space)
    refused = np.isin(solved.state, _REFUSALS)
    found: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for link in np.flatnonzero(at_value).tolist():
        value = int(graph.value[link])
        found[int(graph.anchor[link])].append((int(solved.guard[value]), value))
    for link in np.flatnonzero(refused).tolist():
        found[int(graph.anchor[link])].append((int(solved.state[link]), int(graph.value[link])))
    return found


def _split(moved: Sequence[int], cut: dict[int, list[tuple[int, int]]]) -> tuple[str, list[int]]:
    reasons = [reason for node in moved for reason in cut.get(node, ())]
    if not reasons:
        return EVIDENCE_CHANGED, []
    first = min(reasons)
    return str(REASON_OF[first[0]]), sorted({value for number, value in reasons if number == first[0]})
