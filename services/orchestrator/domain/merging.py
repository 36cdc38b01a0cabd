"""People decided on separately who turn out to be one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def superfluous(aliases: Iterable[tuple[int, int]], pushes: Mapping[int, tuple[bool, int]]) -> set[int]:
    """Who of `pushes` must not be pushed because the same human already is.

    `aliases`: (person, the person it went into); `pushes`: person to (handed over already, position). Of each human the
    push handed over first stays, else the best placed; what is handed over is never named.
    """
    leader: dict[int, int] = {}

    def find(person: int) -> int:
        while (above := leader.setdefault(person, person)) != person:
            person = above
        return person

    for loser, survivor in aliases:
        a, b = find(loser), find(survivor)
        leader[max(a, b)] = min(a, b)
    humans: dict[int, list[int]] = {}
    for person in pushes:
        humans.setdefault(find(person), []).append(person)
    dropped: set[int] = set()
    for persons in humans.values():
        persons.sort(key=lambda p: (not pushes[p][0], pushes[p][1], p))
        dropped.update(p for p in persons[1:] if not pushes[p][0])
    return dropped
