"""Why two identifiers are one entity, or what keeps them apart."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from services.identity.domain.clusters import NAMELESS, Partition, Place
from services.identity.domain.kinds import Reason

NOTHING_IN_COMMON = "NOTHING_IN_COMMON"


@dataclass(frozen=True)
class Explanation:
    """`path`: (anchor, value) pairs from a to b; `guards`: what would have to give way for them to be one, fewest first."""

    path: Sequence[tuple[int, int]]
    guards: Sequence[str]


def explain(partition: Partition, a: int, b: int) -> Explanation:
    """Finds the way that breaks the fewest guards: none when a and b are one."""
    ways: defaultdict[Place, list[tuple[Place, str]]] = defaultdict(list)

    def connect(one: Place, other: Place, guard: str) -> None:
        ways[one].append((other, guard))
        ways[other].append((one, guard))

    for edge in partition.joined:
        connect(edge.anchor, edge.value, "")
    for edge, reason in partition.refused:
        connect(edge.anchor, edge.value, str(reason))
    for link, reason in partition.idle:
        connect((link.anchor, NAMELESS), (link.value, NAMELESS), str(reason))
    for place in list(ways):
        if place[1] != NAMELESS:
            connect(place, (place[0], NAMELESS), str(Reason.NAME_DIFFERS))
    return _shortest(ways, (a, NAMELESS), (b, NAMELESS))


def _shortest(ways: defaultdict[Place, list[tuple[Place, str]]], start: Place, goal: Place) -> Explanation:
    best: dict[Place, tuple[int, int]] = {start: (0, 0)}
    came: dict[Place, tuple[Place, str]] = {}
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
        if before[0] != place[0]:
            path.insert(0, (before[0], place[0]))
        place = before
    return Explanation([] if guards else path, guards)
