"""Look-alikes: made-up people whose hidden taste shows in their tags."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from services.scoring.domain import TrainingRefused
from services.scoring.expanding import Best
from services.scoring.frame import Column, Frame, Numbers, Words
from services.scoring.lookalike import LookalikeModel, TagTerm, choose_tags, learn, similarity
from services.scoring.lookalike.model import contributions_of, recall_area

PEOPLE = 4_000


def people(count: int = PEOPLE, seed: int = 0) -> tuple[Frame, np.ndarray]:
    """Persons with a number, a word and noise, and who of them has the taste: a jump in age times the right city."""
    random = np.random.default_rng(seed)
    age = random.normal(45, 12, count)
    city = random.integers(-1, 4, count).astype(np.int32)
    taste = random.random(count) < np.where((age > 50) & (city == 2), 0.6, 0.03)
    age[random.random(count) < 0.1] = np.nan
    columns: dict[str, Column] = {
        "age": Numbers(age),
        "city": Words(city, ("a", "b", "c", "d")),
        "noise": Numbers(random.normal(size=count)),
        "flag": Numbers((random.random(count) < 0.5).astype(np.float64)),
        "empty": Numbers(np.full(count, np.nan)),
    }
    return Frame(np.arange(1000, 1000 + count), columns), taste


@dataclass(frozen=True)
class Expansion:
    """Who is no seed, the most similar first, by number and by row."""

    model: LookalikeModel
    order: np.ndarray
    similarities: np.ndarray
    reasons: np.ndarray


def expand(
    frame: Frame, is_seed: np.ndarray, limit: int = PEOPLE, progress: Callable[[float], None] = lambda share: None
) -> Expansion:
    others = np.flatnonzero(~is_seed)
    model = learn(frame.rows(np.flatnonzero(is_seed)), frame.rows(others), len(others), progress)
    best = Best(limit)
    best.add(frame.persons[others], model.score(frame.rows(others)))
    order, scores = best.ranked()
    return Expansion(model, order, similarity(scores), model.reasons(frame.rows(np.searchsorted(frame.persons, order))))


@pytest.fixture(scope="module")
def seeds_and_hidden() -> tuple[Frame, np.ndarray, np.ndarray]:
    frame, taste = people()
    seeds = taste & (np.random.default_rng(1).random(PEOPLE) < 0.5)
    return frame, seeds, taste & ~seeds


@pytest.fixture(scope="module")
def expansion(seeds_and_hidden: tuple[Frame, np.ndarray, np.ndarray]) -> Expansion:
    frame, seeds, _ = seeds_and_hidden
    shown: list[float] = []
    found = expand(frame, seeds, progress=shown.append)
    assert sorted(shown) == shown and 1.0 == shown[-1]
    return found


def test_everybody_but_the_seeds_is_ranked_once(
    seeds_and_hidden: tuple[Frame, np.ndarray, np.ndarray], expansion: Expansion
) -> None:
    frame, seeds, _ = seeds_and_hidden
    assert sorted(frame.persons[~seeds].tolist()) == sorted(expansion.order.tolist())
    assert (np.diff(expansion.similarities) <= 0).all()
    assert 0 < expansion.similarities.min() and expansion.similarities.max() < 1


def test_those_who_would_be_seeds_come_first(
    seeds_and_hidden: tuple[Frame, np.ndarray, np.ndarray], expansion: Expansion
) -> None:
    _, _, hidden = seeds_and_hidden
    first = expansion.order[: int(hidden.sum())] - 1000
    assert hidden[first].mean() > 5 * hidden.mean()


def test_reasons_name_what_the_persons_have_and_the_seeds_have_more_often(
    seeds_and_hidden: tuple[Frame, np.ndarray, np.ndarray], expansion: Expansion
) -> None:
    frame, _, _ = seeds_and_hidden
    top = expansion.model.likenesses[expansion.reasons[0, 0]], expansion.model.likenesses[expansion.reasons[0, 1]]
    assert {"age", "city"} == {each.tag for each in top}
    assert ("city", "c") == next((each.tag, each.value) for each in expansion.model.likenesses if each.tag == "city")
    city = frame.columns["city"]
    assert isinstance(city, Words)
    for person, reasons in zip(expansion.order[:300], expansion.reasons[:300], strict=True):
        for place in reasons[reasons >= 0]:
            likeness = expansion.model.likenesses[place]
            assert likeness.seed_share > likeness.base_share
            if likeness.tag == "city":
                index = city.indexes[person - 1000]
                assert likeness.value == ("unknown" if index < 0 else city.words[index])


def test_contributions_of_tags_add_up_to_the_score(expansion: Expansion, seeds_and_hidden: tuple) -> None:  # type: ignore[type-arg]
    frame, _, _ = seeds_and_hidden
    model = expansion.model
    chunk = frame.rows(slice(0, 500))
    codes = [splitting.codes(frame.columns[splitting.tag])[:500] for splitting in model.splittings]
    total = contributions_of(model.splittings, model.bits, model.forest, model.share, chunk, codes).sum(axis=1)
    assert np.ptp(model.score(chunk) - total) < 1e-6


def test_chunks_score_as_the_whole(expansion: Expansion, seeds_and_hidden: tuple) -> None:  # type: ignore[type-arg]
    frame, _, _ = seeds_and_hidden
    whole = expansion.model.score(frame)
    chunks = [expansion.model.score(frame.rows(slice(start, start + 999))) for start in range(0, PEOPLE, 999)]
    assert np.array_equal(whole, np.concatenate(chunks))
    assert 0 == len(expansion.model.score(frame.rows(slice(0, 0))))


def test_a_chunk_with_other_words_in_another_order_scores_the_same(expansion: Expansion, seeds_and_hidden: tuple) -> None:  # type: ignore[type-arg]
    frame, _, _ = seeds_and_hidden
    chunk = frame.rows(slice(0, 100))
    city = chunk.columns["city"]
    assert isinstance(city, Words)
    turned = Words(np.where(city.indexes >= 0, 4 - city.indexes, -1).astype(np.int32), ("new", "d", "c", "b", "a"))
    other = Frame(chunk.persons, {**chunk.columns, "city": turned})
    assert np.array_equal(expansion.model.score(chunk), expansion.model.score(other))


def test_a_word_that_was_never_seen_and_a_column_of_the_wrong_kind_are_unknown(
    expansion: Expansion,
    seeds_and_hidden: tuple,  # type: ignore[type-arg]
) -> None:
    frame, _, _ = seeds_and_hidden
    chunk = frame.rows(slice(0, 50))
    unknown, new, number = (
        expansion.model.score(Frame(chunk.persons, {**chunk.columns, "city": column}))
        for column in (
            Words(np.full(50, -1, np.int32), ()),
            Words(np.zeros(50, np.int32), ("new",)),
            Numbers(np.full(50, 7.0)),
        )
    )
    assert np.array_equal(unknown, new)
    assert np.array_equal(unknown, number)


def test_of_many_persons_the_trees_order_the_first_only(seeds_and_hidden: tuple, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[type-arg]
    frame, seeds, hidden = seeds_and_hidden
    monkeypatch.setattr("services.scoring.lookalike.model.TREE_WALKS", 400 * 600)
    models: list[LookalikeModel] = [learn(frame.rows(np.flatnonzero(seeds)), frame, population) for population in (0, PEOPLE)]
    assert -np.inf == models[0].trees_from and models[1].share == models[0].share > 0
    bits = models[1].bits.margin([s.codes(frame.columns[s.tag]) for s in models[1].splittings])
    asked = bits >= models[1].trees_from
    assert 0.05 < asked.mean() < 0.2
    whole, quick = models[0].score(frame), models[1].score(frame)
    assert np.array_equal(whole[asked], quick[asked])
    rest = ~seeds
    assert recall_area(quick[rest], hidden[rest]) > recall_area(whole[rest], hidden[rest]) - 0.02


def test_the_same_seeds_give_the_same_list(seeds_and_hidden: tuple, expansion: Expansion) -> None:  # type: ignore[type-arg]
    frame, seeds, _ = seeds_and_hidden
    again = expand(frame, seeds, limit=100)
    assert np.array_equal(expansion.order[:100], again.order)
    assert np.array_equal(expansion.similarities[:100], again.similarities)
    assert np.array_equal(expansion.reasons[:100], again.reasons)


def test_a_tag_that_hardly_anybody_has_does_no_harm() -> None:
    frame, _ = people(500)
    known = np.full(500, np.nan)
    known[[100, 300]] = 1.0, 2.0
    expansion = expand(Frame(frame.persons, {**frame.columns, "rare": Numbers(known)}), np.arange(500) < 20)
    assert np.isfinite(expansion.similarities).all()


@pytest.mark.parametrize("few", [0, 10_000])
def test_similarity_compares_with_the_base_however_many_others_were_shown(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.scoring.lookalike.forest.FEW_SEEDS", few)
    monkeypatch.setattr("services.scoring.lookalike.forest.OTHERS", 2)
    monkeypatch.setattr("services.scoring.lookalike.model.SHARES", (1.0,))
    frame, taste = people()
    expansion = expand(frame, taste)
    # Likelihood ratios against the base average to 1 over the base.
    ratios = expansion.similarities / (1 - expansion.similarities)
    assert ratios.mean() == pytest.approx(1.0, abs=0.35)


def test_too_few_seeds_are_refused_with_their_number() -> None:
    frame, _ = people(500)
    with pytest.raises(TrainingRefused) as caught:
        expand(frame, np.arange(500) < 19)
    assert "TOO_FEW_SEEDS" == caught.value.reason
    assert "19 seeds, at least 20 are needed" == caught.value.detail


def test_twenty_seeds_are_enough() -> None:
    frame, _ = people(500)
    assert 480 == len(expand(frame, np.arange(500) < 20).order)


def test_seeds_who_are_everybody_are_refused() -> None:
    frame, _ = people(500)
    with pytest.raises(TrainingRefused) as caught:
        expand(frame, np.ones(500, np.bool_))
    assert "SEEDS_ARE_EVERYBODY" == caught.value.reason
    with pytest.raises(TrainingRefused) as caught:
        learn(frame, frame.rows(slice(100, 200)))
    assert "SEEDS_ARE_EVERYBODY" == caught.value.reason


def test_seeds_without_a_tag_are_refused() -> None:
    frame, _ = people(500)
    with pytest.raises(TrainingRefused) as caught:
        expand(Frame(frame.persons, {"empty": frame.columns["empty"]}), np.arange(500) < 100)
    assert "NO_TAGS" == caught.value.reason


def test_equal_scores_are_ordered_by_id() -> None:
    for limit, expected in ((4, [1, 5, 7, 9]), (2, [1, 5])):
        best = Best(limit)
        best.add(np.array([9, 5, 7, 1]), np.array([0.0, 1, 1, 2]))
        assert expected == best.ranked()[0].tolist()


def test_the_area_is_one_half_for_ties_and_the_mean_recall_otherwise() -> None:
    wanted = np.array([True, False, False, False])
    assert 0.5 == recall_area(np.zeros(4), wanted)
    assert 0.875 == recall_area(np.array([3.0, 2, 1, 0]), wanted)
    assert 0.125 == recall_area(np.array([0.0, 1, 2, 3]), wanted)


def test_tags_are_chosen_by_what_their_values_tell() -> None:
    description = [
        TagTerm("job", 0.3, 2.0, True),
        TagTerm("job", 0.2, 1.5, True),
        TagTerm("city", 0.01, 5.0, True),
        TagTerm("weekday", 0.9, 1.4, False),
        TagTerm("income", 0.5, 3.0, True),
    ]
    assert ["income", "job", "city"] == choose_tags(description)
    assert ["income"] == choose_tags(description, most=1)
    assert ["job", "city"] == choose_tags(description, never=("income",))
    assert ["weekday"] == choose_tags([term for term in description if not term.significant])
    assert [] == choose_tags([])
