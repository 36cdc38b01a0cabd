"""Why two identifiers are one entity, or what keeps them apart."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from services.identity.domain.clusters import NOT_HERE, Partition
from services.identity.domain.graphs import Graph
from services.identity.domain.kinds import REASON_OF, Reason

NOTHING_IN_COMMON = "NOTHING_IN_COMMON"


@dataclass(frozen=True)
class Explanation:
    """`path`: (anchor, value) pairs from a to b; `guards`: what would have to give way for them to be one, fewest first."""

    path: Sequence[tuple[int, int]]
    guards: Sequence[str]


def explain(graph: Graph, solved: Partition, a: int, b: int) -> Explanation:
    """Finds the way that breaks the fewest guards: none when a and b are one."""
    ways: defaultdict[int, list[tuple[int, str]]] = defaultdict(list)
    value_at: dict[int, int] = {}

    def connect(one: int, other: int, guard: str) -> None:
        ways[one].append((other, guard))
        ways[other].append((one, guard))

    ends = zip(graph.anchor.tolist(), graph.value.tolist(), solved.place.tolist(), solved.state.tolist(), strict=True)
    for anchor, value, place, state in ends:
        if state == NOT_HERE:
            continue
        connect(anchor, place, str(REASON_OF[state]) if state else "")
        if place != value and place not in value_at:
            connect(place, value, str(Reason.NAME_DIFFERS))
        value_at[place] = value
    return _shortest(ways, value_at, a, b)


def _shortest(ways: defaultdict[int, list[tuple[int, str]]], value_at: dict[int, int], start: int, goal: int) -> Explanation:
    best: dict[int, tuple[int, int]] = {start: (0, 0)}
    came: dict[int, tuple[int, str]] = {}
    queue = [((0, 0), start)]
    while queue:
        cost, place = heapq.heappop(queue)
        if place == goal:
            break
        if cost > best[place]:
            continue
        for other, guard in ways[place]:
            further = (cost[0] + bool(guard), cost[1] + 1)
            if other not in best or further < best[other]:
                best[other] = further
                came[other] = (place, guard)
                heapq.heappush(queue, (further, other))
    if goal not in best:
        return Explanation([], [NOTHING_IN_COMMON])
    path: list[tuple[int, int]] = []
    guards: list[str] = []
    place = goal
    while place != start:
        before, guard = came[place]
        if guard and guard not in guards:
            guards.insert(0, guard)
        one, other = value_at.get(before, before), value_at.get(place, place)
        if one != other:
            path.insert(0, (one, other))
        place = before
    return Explanation([] if guards else path, guards)
