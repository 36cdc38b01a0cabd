"""Who gets which lead: leads ask, in rounds, for the desk that suits them best and has room; a desk takes one each round.

Since every lead taken fills its desk a little, work spreads without a second rule. No lead stays behind while a desk that may
have it has room, nor while somebody can make room by going elsewhere. Everything is decided by numbers and, where those are
equal, by order: the same question has the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NEVER = -np.inf
# A rate of few cases leans on everybody's rate as if so many more had gone like that.
PRIOR = 20.0
# Moves that make room cost a look at everybody each.
MOST_MOVES = 200
DEFAULT_WEIGHTS: Mapping[str, float] = {"dealer": 2.0, "area": 2.0, "brand": 0.5, "load": 1.0, "success": 3.0, "sla": 1.0}


@dataclass(frozen=True)
class Desk:
    """An advisor of a dealer, or the dealer itself (advisor empty). Empty areas or brands: all.

    `left` and `dealer_left` are leads that may still come today; `open_leads` weigh against `capacity`, a day's number. Of
    `judged` leads `won` came to an order, of `timed` ones `kept` were contacted in time.
    """

    dealer_code: str
    advisor: str
    areas: frozenset[str]
    brands: frozenset[str]
    capacity: int
    left: int
    dealer_left: int
    open_leads: int = 0
    judged: int = 0
    won: int = 0
    timed: int = 0
    kept: int = 0


@dataclass(frozen=True)
class Waiting:
    """A lead without anybody. `dealer_code` is whom the customer or a theme named; `bound`: nobody else may have it.

    `tried`: (dealer, advisor) who let it lapse, or were asked before for other reasons.
    """

    lead_id: int
    brand: str
    area: str
    dealer_code: str = ""
    bound: bool = False
    tried: frozenset[tuple[str, str]] = frozenset()


class Why(Enum):
    """Why a lead stays without anybody."""

    NOBODY = "nobody"
    NO_ROOM = "no_room"
    ALL_TRIED = "all_tried"


@dataclass(frozen=True)
class Given:
    """A lead and its desk; `parts` add up to `score`, `again`: everybody else was full, so it went back to one who was late."""

    lead_id: int
    desk: Desk
    score: float
    parts: Mapping[str, float]
    again: bool = False


def rate(hits: int, cases: int, usual: float) -> float:
    """A share of few cases, drawn towards the usual one."""
    return (hits + PRIOR * usual) / (cases + PRIOR)


def distribute(
    leads: Sequence[Waiting], desks: Sequence[Desk], weights: Mapping[str, float] = DEFAULT_WEIGHTS
) -> tuple[list[Given], dict[int, Why]]:
    """Who gets which lead, and why the others stay; the first of the leads come first where scores are equal."""
    if not leads or not desks:
        return [], {lead.lead_id: Why.NOBODY for lead in leads}
    merits = _Merits(desks, weights)
    base = np.array([merits.of(lead) for lead in leads])
    tried = np.zeros(base.shape, np.bool_)
    for row, lead in enumerate(leads):
        if lead.tried:
            tried[row] = [(desk.dealer_code, desk.advisor) in lead.tried for desk in desks]
    room = _Room(desks, weights["load"])
    fresh = np.where(tried, NEVER, base)
    taken = _rounds(fresh, room)
    # Who was late gets it back only where others might have it and are full.
    full = [n for n in range(len(leads)) if n not in taken and np.isfinite(fresh[n]).any()]
    back = np.full_like(base, NEVER)
    back[full] = np.where(tried, base, NEVER)[full]
    again = _rounds(back, room)
    given = [merits.given(leads[n], desk, used, n in again) for n, (desk, used) in sorted({**taken, **again}.items())]
    left = {lead.lead_id: _why(base[n], fresh[n]) for n, lead in enumerate(leads) if n not in taken and n not in again}
    return given, left


def _why(base: Floats, fresh: Floats) -> Why:
    if np.isfinite(fresh).any():
        return Why.NO_ROOM
    return Why.ALL_TRIED if np.isfinite(base).any() else Why.NOBODY


class _Merits:
    """What speaks for each desk, apart from its load."""

    def __init__(self, desks: Sequence[Desk], weights: Mapping[str, float]) -> None:
        self._desks, self._weights = desks, weights
        usual_win = rate(sum(d.won for d in desks), sum(d.judged for d in desks), 0.1)
        usual_sla = rate(sum(d.kept for d in desks), sum(d.timed for d in desks), 0.8)
        self._success = np.array([rate(d.won, d.judged, usual_win) for d in desks])
        self._sla = np.array([rate(d.kept, d.timed, usual_sla) for d in desks])
        self._dealers = np.array([d.dealer_code for d in desks])
        self._known: dict[tuple[str, str, str, bool], Floats] = {}
        self._brands: dict[str, Floats] = {}
        self._areas: dict[str, Floats] = {}

    def of(self, lead: Waiting) -> Floats:
        """One number per desk, NEVER where it may not have the lead."""
        profile = lead.brand, lead.area, lead.dealer_code, lead.bound
        if profile not in self._known:
            parts = self._parts(lead)
            total = sum(self._weights[name] * value for name, value in parts.items())
            total = np.where(np.isfinite(parts["brand"]) & np.isfinite(parts["area"]), total, NEVER)
            if lead.bound:
                total = np.where(self._dealers == lead.dealer_code, total, NEVER)
            self._known[profile] = np.asarray(total, np.float64)
        return self._known[profile]

    def _parts(self, lead: Waiting) -> dict[str, Floats]:
        brand, area = self._brand(lead.brand), self._area(lead.area)
        if not np.isfinite(area[np.isfinite(brand)]).any():
            # Nobody who sells that brand serves that area: better somebody far away than nobody.
            area = np.zeros(len(self._desks))
        dealer = (self._dealers == lead.dealer_code).astype(np.float64)
        return {"dealer": dealer, "area": area, "brand": brand, "success": self._success, "sla": self._sla}

    def _brand(self, brand: str) -> Floats:
        if brand not in self._brands:
            self._brands[brand] = np.array([_fit(brand, desk.brands) for desk in self._desks])
        return self._brands[brand]

    def _area(self, area: str) -> Floats:
        if area not in self._areas:
            self._areas[area] = np.array([_fit(area, desk.areas) for desk in self._desks])
        return self._areas[area]

    def given(self, lead: Waiting, desk: int, used: float, again: bool) -> Given:
        """A lead at its desk, with what spoke for it."""
        parts = {name: round(self._weights[name] * float(values[desk]), 4) for name, values in self._parts(lead).items()}
        parts["load"] = round(self._weights["load"] * (1 - used), 4)
        return Given(lead.lead_id, self._desks[desk], round(sum(parts.values()), 4), parts, again)


def _fit(wanted: str, served: frozenset[str]) -> float:
    """1 for what is served by name, half where nobody said, NEVER for what is not served."""
    if not wanted or not served:
        return 0.5
    return 1.0 if wanted in served else NEVER


class _Room:
    """What may still come to each desk and dealer, and how full each is; filled as leads are taken."""

    def __init__(self, desks: Sequence[Desk], weight: float) -> None:
        _, self.dealer = np.unique([desk.dealer_code for desk in desks], return_inverse=True)
        self.left = np.array([desk.left for desk in desks])
        self.dealer_left = np.zeros(self.dealer.max() + 1, np.int64)
        for number, desk in zip(self.dealer, desks, strict=True):
            self.dealer_left[number] = desk.dealer_left
        self.capacity = np.maximum(1, [desk.capacity for desk in desks])
        self.open = np.array([desk.open_leads for desk in desks])
        self.weight = weight

    def used(self) -> Floats:
        """0 for empty desks up to 1."""
        return np.asarray(np.minimum(1.0, self.open / self.capacity), np.float64)

    def free(self) -> NDArray[np.bool_]:
        """Which desks may take one more."""
        return np.asarray((self.left > 0) & (self.dealer_left[self.dealer] > 0))

    def take(self, desk: int) -> bool:
        """One more lead at a desk; False when its dealer has become full in this round."""
        if self.dealer_left[self.dealer[desk]] <= 0:
            return False
        self.left[desk] -= 1
        self.open[desk] += 1
        self.dealer_left[self.dealer[desk]] -= 1
        return True


def _rounds(scores: Floats, room: _Room) -> dict[int, tuple[int, float]]:
    """Row → (desk, how full it was)."""
    taken: dict[int, tuple[int, float]] = {}
    waiting = np.flatnonzero(np.isfinite(scores).any(axis=1))
    while len(waiting):
        used = room.used()
        now = np.where(room.free(), scores[waiting] + room.weight * (1 - used), NEVER)
        best = now.argmax(axis=1)
        value = now[np.arange(len(waiting)), best]
        asks = np.isfinite(value)
        waiting, best, value = waiting[asks], best[asks], value[asks]
        if not len(waiting):
            break
        # Each desk takes the lead that suits it best.
        order = np.lexsort((waiting, -value))
        _, first = np.unique(best[order], return_index=True)
        chosen = [n for n in sorted(order[first].tolist(), key=lambda n: (-value[n], waiting[n])) if room.take(int(best[n]))]
        taken |= {int(waiting[n]): (int(best[n]), float(used[best[n]])) for n in chosen}
        waiting = np.delete(waiting, chosen)
    _make_room(scores, room, taken)
    return taken


def _make_room(scores: Floats, room: _Room, taken: dict[int, tuple[int, float]]) -> None:
    """Whoever found all desks full gets a place that somebody can leave for another, who again may need a third to move."""
    stuck = [int(row) for row in np.flatnonzero(np.isfinite(scores).any(axis=1)) if int(row) not in taken]
    for row in stuck[:MOST_MOVES]:
        free = room.free()
        if not taken or not free.any():
            return
        holders = np.array(sorted(taken))
        at = np.array([taken[n][0] for n in holders.tolist()])
        path = _path(scores, row, holders, at, free)
        if path:
            # From the free end back: each mover takes the place that has just become free.
            end = path[-1][1]
            level = float(room.used()[end])
            room.take(end)
            for mover, to in reversed(path):
                taken[mover] = to, level


def _path(
    scores: Floats, row: int, holders: NDArray[np.int64], at: NDArray[np.int64], free: NDArray[np.bool_]
) -> list[tuple[int, int]]:
    """The shortest chain of (lead, desk it goes to) that begins with `row` and ends at a free desk; empty for none."""
    ring = [int(desk) for desk in np.argsort(-scores[row], kind="stable") if np.isfinite(scores[row, desk])]
    came: dict[int, tuple[int, int]] = dict.fromkeys(ring, (row, -1))
    while ring:
        found = next((desk for desk in ring if free[desk]), None)
        if found is not None:
            path = []
            while found != -1:
                mover, before = came[found]
                path.append((mover, found))
                found = before
            return path[::-1]
        following = []
        for desk in ring:
            movers = holders[at == desk]
            for to in np.flatnonzero(np.isfinite(scores[movers]).any(axis=0)).tolist() if len(movers) else ():
                if to not in came:
                    loss = scores[movers, desk] - scores[movers, to]
                    came[to] = int(movers[loss.argmin()]), desk
                    following.append(to)
        ring = following
    return []
