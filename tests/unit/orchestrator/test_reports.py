"""Reports: parts add up to the whole, effects are those of the persons, small groups stay untold, pictures can be read."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.orchestrator.arbiter.deciding import DEFERRED, HOLDOUT, OUTCOMES, PUSH, QUIET_HOURS
from services.orchestrator.domain.statistics import newcombe
from services.orchestrator.reports.cells import Breakdown, Cell
from services.orchestrator.reports.drawing import Format, Picture, draw
from services.orchestrator.reports.folding import About, Part, Report, fold
from services.orchestrator.reports.funnel import STAGES
from services.orchestrator.reports.hiding import too_small
from services.orchestrator.reports.times import ANSWER, EDGES, GOAL, Times, hours_in_words

ABOUT = About("themes/12", 3, False, 80_000)
COST = {"app": 5, "dealer": 2000}


@dataclass(frozen=True)
class Person:
    """One decision about one person; `later` when she was pushed before."""

    part: str
    outcome: str
    reason: str
    channel: str
    band: int
    state: int
    won: bool
    later: bool = False


def cells_of(persons: Sequence[Person]) -> list[Cell]:
    """What the database would count."""
    groups: dict[tuple[str, str, str, str, int, int], list[Person]] = {}
    for each in persons:
        groups.setdefault((each.part, each.outcome, each.reason, each.channel, each.band, each.state), []).append(each)
    found = []
    for key, group in groups.items():
        first = [each for each in group if each.outcome in (PUSH, HOLDOUT) and not each.later]
        cost = sum(COST.get(each.channel, 0) for each in group)
        found.append(Cell(*key, len(group), len(first), sum(each.won for each in first), cost))
    return found


@st.composite
def persons(draw: st.DrawFn) -> Person:
    outcome = draw(st.sampled_from([PUSH, PUSH, PUSH, HOLDOUT, *OUTCOMES]))
    pushed = outcome == PUSH
    return Person(
        draw(st.sampled_from(["", "D001", "D002", "D003"])),
        outcome,
        QUIET_HOURS if outcome == DEFERRED else "",
        draw(st.sampled_from(["app", "dealer"])) if pushed else "",
        draw(st.integers(0, 4)),
        draw(st.integers(0, 11)) if pushed else 0,
        draw(st.booleans()),
        pushed and draw(st.booleans()),
    )


def sums(parts: Sequence[Part]) -> tuple[Counter[str], Counter[tuple[str, str]], list[int]]:
    counts: Counter[str] = Counter()
    lost: Counter[tuple[str, str]] = Counter()
    rest = [0] * 6
    for part in parts:
        counts.update({stage.name: stage.count for stage in part.funnel})
        lost.update({(stage.name, why): n for stage in part.funnel for why, n in stage.lost.items()})
        assert part.pushed is not None
        assert part.holdout is not None
        told = (part.pushed.persons, part.pushed.goals, part.holdout.persons, part.holdout.goals, part.money.cost)
        rest = [a + b for a, b in zip(rest, (*told, part.money.returned or 0), strict=True)]
    return +counts, lost, rest


@given(st.lists(persons(), max_size=60))
def test_parts_of_any_breakdown_add_up_to_the_whole(people: list[Person]) -> None:
    report = fold(cells_of(people), {}, ABOUT, Breakdown.DEALER, least=0)
    assert sums([report.whole]) == sums(report.parts)
    assert sorted({each.part for each in people}) == sorted(part.key for part in report.parts)
    assert report.whole == fold(cells_of([replace(each, part="") for each in people]), {}, ABOUT).whole


@given(st.lists(persons(), max_size=60))
def test_whoever_is_in_a_stage_and_not_in_the_next_is_lost_for_a_reason(people: list[Person]) -> None:
    whole = fold(cells_of(people), {}, ABOUT).whole
    stages = {stage.name: stage for stage in whole.funnel}
    assert list(STAGES) == list(stages)
    assert len(people) == stages["audience"].count
    for before, after in pairwise(whole.funnel[:-1]):
        assert before.count - sum(after.lost.values()) == after.count
    assert sum(each.outcome == PUSH for each in people) == stages["pushed"].count
    assert sum(each.outcome in (PUSH, HOLDOUT) for each in people) == stages["chosen"].count
    for name, state in (("accepted", 3), ("delivered", 4), ("opened", 5), ("answered", 7)):
        assert sum(each.outcome == PUSH and state <= each.state < 9 for each in people) == stages[name].count


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_outcome_is_counted_once(outcome: str) -> None:
    [cell] = cells_of([Person("", outcome, QUIET_HOURS if outcome == DEFERRED else "", "", 0, 0, False)])
    stages = fold([cell], {}, ABOUT).whole.funnel
    word = {PUSH: "on_the_way", DEFERRED: "waiting_quiet_hours"}.get(outcome, outcome)
    assert [word] == [why for stage in stages for why in stage.lost]


@pytest.mark.parametrize("seed", range(5))
def test_effect_and_return_are_those_of_the_simulated_persons(seed: int) -> None:
    draw_ = random.Random(seed)
    people = []
    for _ in range(4000):
        kept, dealer = draw_.random() < 0.2, draw_.choice(["D001", "D002"])
        won = draw_.random() < 0.05 + (0.0 if kept else 0.06 if dealer == "D001" else 0.01)
        people.append(Person(dealer, HOLDOUT if kept else PUSH, "", "" if kept else "app", 2, 0 if kept else 4, won))
    # What nobody was chosen for changes nothing.
    people += [Person("D001", outcome, "", "", 2, 0, True) for outcome in OUTCOMES if outcome not in (PUSH, HOLDOUT, DEFERRED)]
    report = fold(cells_of(people), {}, ABOUT, Breakdown.DEALER)

    def brute(dealer: str | None) -> tuple[float, float, float, int, int]:
        sides: dict[str, list[bool]] = {PUSH: [], HOLDOUT: []}
        for each in people:
            if each.outcome in sides and dealer in (None, each.part):
                sides[each.outcome].append(each.won)
        there, away = sides[PUSH], sides[HOLDOUT]
        interval = newcombe(sum(there), len(there), sum(away), len(away))
        return interval.value, interval.low, interval.high, len(there), sum(there)

    for part, dealer in [(report.whole, None), *((part, part.key) for part in report.parts)]:
        value, low, high, count, goals = brute(dealer)
        assert part.effect is not None
        assert part.money.gained is not None
        assert part.money.per_fen is not None
        assert (value, low, high) == (part.effect.value, part.effect.low, part.effect.high)
        assert low <= value <= high
        assert 5 * count == part.money.cost
        assert 80_000 * goals == part.money.returned
        assert value * count * 80_000 == pytest.approx(part.money.gained.value)
        assert low * count * 80_000 / (5 * count) == pytest.approx(part.money.per_fen.low)
    assert report.effect == report.whole.effect


def test_without_a_holdout_or_a_worth_nobody_says_what_was_gained() -> None:
    pushed = [Person("", PUSH, "", "app", 0, 4, True)] * 20
    kept = [Person("", HOLDOUT, "", "", 0, 0, False)] * 20
    money = fold(cells_of(pushed), {}, ABOUT).whole.money
    assert (100, 20 * 80_000, None, None) == (money.cost, money.returned, money.gained, money.per_fen)
    assert None is fold(cells_of(pushed + kept), {}, replace(ABOUT, value_fen=0)).whole.money.gained
    free = fold(cells_of([replace(each, channel="") for each in pushed] + kept), {}, ABOUT).whole.money
    assert free.gained is not None
    assert None is free.per_fen


def test_nobody_chose_a_channel_for_those_kept_out() -> None:
    people = [Person("app", PUSH, "", "app", 0, 4, True)] * 20 + [Person("", HOLDOUT, "", "", 0, 0, False)] * 20
    app, none = fold(cells_of(people), {}, ABOUT, Breakdown.CHANNEL).parts
    assert ("app", None, None) == (app.key, app.holdout, app.effect)
    assert ("", None, None) == (none.key, none.holdout, none.effect)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(0, 40)), st.integers(1, 20))
@example({"a": 3, "b": 50, "c": 60}, 10)
def test_what_is_untold_cannot_be_reckoned_from_the_whole(sizes: dict[str, int], least: int) -> None:
    hidden = too_small(sizes, least)
    told = {part: size for part, size in sizes.items() if part not in hidden and size}
    assert all(size >= least for size in told.values())
    untold = sum(sizes[part] for part in hidden)
    assert not hidden or untold >= least or not told
    assert bool(hidden) == any(0 < size < least for size in sizes.values())


def test_of_small_parts_only_is_told_what_was_done_with_them() -> None:
    sizes = {"D001": 100, "D002": 40, "D003": 3}
    sides = [(PUSH, "app", 6), (HOLDOUT, "", 0)]
    people = [Person(d, side, "", by, 0, at, True) for d, size in sizes.items() for side, by, at in sides for _ in range(size)]
    told = {None: 143, "D001": 100, "D003": 3}
    times = {(key, kind): timed(key, kind, n) for key, n in told.items() for kind in (ANSWER, GOAL)}
    parts = {part.key: part for part in fold(cells_of(people), times, ABOUT, Breakdown.DEALER).parts}
    for key, size in (("D002", 40), ("D003", 3)):
        part = parts[key]
        assert (True, None, None, None, None) == (part.hidden, part.pushed, part.holdout, part.effect, part.money.returned)
        assert "delivered" == part.funnel[-1].name
        assert size == part.funnel[-1].count
    assert [(3, (), ())] * 2 == [(each.count, each.quantiles, each.histogram) for each in parts["D003"].times]
    assert not parts["D001"].hidden
    assert parts["D001"].effect is not None


def test_bands_of_few_have_no_rate() -> None:
    people = [Person("", PUSH, "", "app", band, 4, True) for band, size in ((0, 2), (1, 30), (4, 90)) for _ in range(size)]
    report = fold(cells_of(people), {}, ABOUT)
    # The second would be the difference between the whole and the rest.
    assert [None, None, 0, 0, 90] == [band and band.persons for band in report.bands]


def timed(part: str | None, kind: str, count: int) -> Times:
    histogram = [0] * len(EDGES)
    histogram[4] = count
    return Times(part, kind, count, 1, (3.0, 3.5, 4.0, 4.5, 5.0), tuple(histogram))


def crowd(size: int, dealers: int) -> Report:
    draw_ = random.Random(7)
    people = [
        Person(
            f"D{draw_.randrange(dealers):03}" if dealers else "",
            outcome := draw_.choice([*OUTCOMES, *[PUSH] * 20, HOLDOUT, HOLDOUT]),
            QUIET_HOURS if outcome == DEFERRED else "",
            "app" if outcome == PUSH else "",
            draw_.randrange(5),
            draw_.randrange(10) if outcome == PUSH else 0,
            draw_.random() < 0.1,
        )
        for _ in range(size)
    ]
    keys = [None, *sorted({each.part for each in people})]
    times = {(key, kind): timed(key, kind, 30) for key in keys for kind in (ANSWER, GOAL)} if size else {}
    return fold(cells_of(people), times, ABOUT, Breakdown.DEALER if dealers else Breakdown.NONE)


@pytest.mark.parametrize("picture", Picture)
@pytest.mark.parametrize(("size", "dealers"), [(0, 0), (3000, 0), (0, 3), (3000, 40)])
def test_every_picture_is_whole_and_says_what_it_shows(picture: Picture, size: int, dealers: int) -> None:
    report = crowd(size, dealers)
    drawn = draw(report, picture, Format.SVG)
    words = " ".join(text for each in ElementTree.fromstring(drawn).iter() for text in [each.text or ""] if text.strip())
    assert "themes/12" in words
    assert ("by dealer" in words) == bool(dealers)
    if picture is Picture.FUNNEL and size and not dealers:
        assert {f"{stage.count:,}" for stage in report.whole.funnel} <= set(words.replace("%", " ").split())
    if picture is Picture.EFFECT and size:
        assert f"of {report.holdout.persons:,}" in words
    assert drawn == draw(report, picture, Format.SVG)


def test_a_picture_may_be_a_png() -> None:
    assert draw(crowd(500, 0), Picture.EFFECT, Format.PNG).startswith(b"\x89PNG\r\n\x1a\n")
    assert ["image/svg+xml", "image/png"] == [form.media_type for form in Format]


def test_hours_are_told_in_the_unit_that_fits() -> None:
    assert ["15 min", "1.5 h", "47.0 h", "3.0 d"] == [hours_in_words(hours) for hours in (0.25, 1.5, 47, 72)]
