"""Cells to a report: rates, effect against those kept out, money, and the same for every part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from services.orchestrator.arbiter.deciding import HOLDOUT, PUSH
from services.orchestrator.domain.channels import CHANNELS
from services.orchestrator.domain.statistics import Interval, newcombe, wilson
from services.orchestrator.reports.cells import ANSWERED, BANDS, DELIVERED, FAILED, Breakdown, Cell
from services.orchestrator.reports.funnel import DONE, Stage, funnel_of
from services.orchestrator.reports.hiding import too_small
from services.orchestrator.reports.times import Keyed, Times, of_part


@dataclass(frozen=True)
class Rate:
    """How many reached the goal, of how many, with a Wilson interval."""

    persons: int
    goals: int
    interval: Interval


@dataclass(frozen=True)
class Funnel:
    """How far the pushes of one channel came; each stage counts those that came further as well."""

    channel: str
    requested: int
    accepted: int
    delivered: int
    answered: int
    goals: int
    failed: int


@dataclass(frozen=True)
class Money:
    """In fen. `cost`: of what providers accepted. `returned`: what the goals of the pushed are worth, None where not told.

    `gained`: what they are worth beyond those that would have been reached anyway, None without a holdout or a worth;
    `per_fen`: that for each fen spent, None as well when nothing was spent.
    """

    cost: int
    returned: int | None
    gained: Interval | None
    per_fen: Interval | None


@dataclass(frozen=True)
class Part:
    """A part of a theme, or all of it ("" then). Rates, effect and what follows from them are None where not told.

    `hidden`: too few persons to tell of.
    """

    key: str
    funnel: tuple[Stage, ...]
    pushed: Rate | None
    holdout: Rate | None
    effect: Interval | None
    money: Money
    times: tuple[Times, ...]
    hidden: bool


@dataclass(frozen=True)
class Report:
    """What came of a theme; `bands` are None where too small."""

    name: str
    version: int
    launching: bool
    by: Breakdown
    decisions: Mapping[str, int]
    funnels: tuple[Funnel, ...]
    pushed: Rate
    holdout: Rate
    effect: Interval
    bands: tuple[Rate | None, ...]
    whole: Part
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class About:
    """What a report must know of its theme: name, version in force, worth of a goal in fen (0: nobody can say)."""

    name: str
    version: int
    launching: bool
    value_fen: int


# More than any layer.
MOST: Final = 1 << 31


def fold(
    cells: Iterable[Cell],
    times: Keyed,
    about: About,
    by: Breakdown = Breakdown.NONE,
    least: int = 10,
) -> Report:
    """The report over all cells; Parts of fewer than `least` tell no rates.

    Rates count everybody chosen, reached or not: only so is the holdout comparable, for it holds only whom a push was possible
    to when it was decided.
    """
    cells = list(cells)
    decisions: dict[str, int] = {}
    for cell in cells:
        decisions[cell.outcome] = decisions.get(cell.outcome, 0) + cell.decisions
    pushes = [cell for cell in cells if cell.outcome == PUSH]
    pushed, holdout = _rate(pushes), _rate([cell for cell in cells if cell.outcome == HOLDOUT])
    by_band = [[cell for cell in pushes if cell.band == band] for band in range(BANDS)]
    small = too_small({str(band): _persons(group) for band, group in enumerate(by_band)}, least)
    return Report(
        about.name,
        about.version,
        about.launching,
        by,
        decisions,
        tuple(f for channel in CHANNELS if (f := _funnel(channel, [c for c in pushes if c.channel == channel])).requested),
        pushed,
        holdout,
        newcombe(pushed.goals, pushed.persons, holdout.goals, holdout.persons),
        tuple(None if str(band) in small else _rate(group) for band, group in enumerate(by_band)),
        _part("", cells, about, of_part(times, None), hidden=False, compared=True),
        _parts(cells, times, about, by, least) if by else (),
    )


_SIDES = (PUSH, HOLDOUT)


def _parts(cells: Sequence[Cell], times: Keyed, about: About, by: Breakdown, least: int) -> tuple[Part, ...]:
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.part, []).append(cell)
    sides = {side: {key: _persons(c for c in group if c.outcome == side) for key, group in groups.items()} for side in _SIDES}
    small, few = too_small(sides[PUSH], least), too_small(sides[HOLDOUT], least)
    told = {kind: _timed(times, groups, kind, small, least) for kind in {kind for _, kind in times}}
    found = []
    for key, group in groups.items():
        of = tuple(told.get(each.kind, {}).get(key, each) for each in of_part(times, key))
        found.append(_part(key, group, about, of, hidden=key in small, compared=by.comparable and key not in few))
    return tuple(sorted(found, key=_order(by)))


def _timed(times: Keyed, groups: Iterable[str], kind: str, small: frozenset[str], least: int) -> dict[str, Times]:
    """Times of a kind by part, without those of too few."""
    of = {key: times[key, kind] for key in groups if (key, kind) in times}
    few = small | too_small({key: each.count for key, each in of.items()}, least)
    return {key: each.hidden() if key in few else each for key, each in of.items()}


def _order(by: Breakdown) -> Callable[[Part], tuple[bool, int, str]]:
    """Bands, versions and layers as they count, what was proposed later after them; others by size; what is of none is last."""

    def key(part: Part) -> tuple[bool, int, str]:
        if not by.counted:
            return not part.key, -part.funnel[0].count, part.key
        digits = part.key.removeprefix("layer ")
        return not part.key, int(digits) if digits.isdigit() else MOST, part.key

    return key


def _part(key: str, cells: Sequence[Cell], about: About, times: tuple[Times, ...], *, hidden: bool, compared: bool) -> Part:
    pushed = _rate(c for c in cells if c.outcome == PUSH)
    holdout = _rate(c for c in cells if c.outcome == HOLDOUT)
    effect = None
    if compared and not hidden and pushed.persons and holdout.persons:
        effect = newcombe(pushed.goals, pushed.persons, holdout.goals, holdout.persons)
    cost = sum(c.cost_fen for c in cells if c.outcome == PUSH and c.accepted)
    returned = None if hidden else pushed.goals * about.value_fen
    return Part(
        key,
        funnel_of(cells)[: DONE if hidden else None],
        None if hidden else pushed,
        holdout if compared else None,
        effect,
        _money(cost, returned, effect, pushed.persons * about.value_fen),
        times,
        hidden,
    )


def _money(cost: int, returned: int | None, effect: Interval | None, at_stake: int) -> Money:
    if effect is None or not at_stake:
        return Money(cost, returned, None, None)
    gained = _scaled(effect, at_stake)
    return Money(cost, returned, gained, _scaled(gained, 1 / cost) if cost else None)


def _scaled(interval: Interval, factor: float) -> Interval:
    """`factor` is above 0."""
    return Interval(interval.value * factor, interval.low * factor, interval.high * factor)


def _persons(cells: Iterable[Cell]) -> int:
    return sum(cell.persons for cell in cells)


def _rate(cells: Iterable[Cell]) -> Rate:
    cells = list(cells)
    persons, goals = _persons(cells), sum(c.goals for c in cells)
    return Rate(persons, goals, wilson(goals, persons))


def _funnel(channel: str, cells: Iterable[Cell]) -> Funnel:
    cells = list(cells)

    def reached(stage: int) -> int:
        return sum(c.decisions for c in cells if stage <= c.state < FAILED)

    return Funnel(
        channel,
        sum(c.decisions for c in cells),
        sum(c.decisions for c in cells if c.accepted),
        reached(DELIVERED),
        reached(ANSWERED),
        sum(c.goals for c in cells),
        sum(c.decisions for c in cells if c.state >= FAILED),
    )
