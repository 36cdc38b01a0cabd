"""Columns that were filled in after the outcome are named; columns that were known before are not."""

from __future__ import annotations

import csv
import gzip
from importlib.resources import files

import numpy as np
import pytest

from local.data.bank_marketing import load
from services.scoring.frame import Column, Frame, Numbers, Words
from services.scoring.learning.cut import Cut
from services.scoring.learning.leaks import find_leaks
from tests.unit.scoring.bank_frame import cut_of
from tests.unit.scoring.made_up import cut_of_people


def with_column(cut: Cut, tag: str, column: Column) -> Cut:
    return Cut(Frame(cut.frame.persons, {**cut.frame.columns, tag: column}), cut.labels)


@pytest.fixture(scope="module")
def honest() -> Cut:
    random = np.random.default_rng(9)
    more = {f"extra{number}": random.normal(size=4000) for number in range(4)}
    return cut_of_people(4000, seed=3, **more)[0]


def test_honest_columns_are_not_suspected(honest: Cut) -> None:
    assert [] == find_leaks(honest)


def test_a_copy_of_the_outcome_is_certain(honest: Cut) -> None:
    random = np.random.default_rng(0)
    planted = honest.labels + random.normal(0, 0.1, len(honest.labels))
    [found] = find_leaks(with_column(honest, "follow_up_minutes", Numbers(planted)))
    assert ("follow_up_minutes", 1.0) == (found.column, found.strength)


def test_a_date_that_only_buyers_have_is_named(honest: Cut) -> None:
    delivered = np.where(honest.labels > 0, np.random.default_rng(0).normal(size=len(honest.labels)), np.nan)
    assert ["delivered_on"] == [s.column for s in find_leaks(with_column(honest, "delivered_on", Numbers(delivered)))]


def test_words_that_are_sure_both_ways_are_named_with_the_words(honest: Cut) -> None:
    random = np.random.default_rng(0)
    told = random.random(len(honest.labels)) < 0.2
    words = Words(np.where(told, honest.labels, -1).astype(np.int32), ("hopeless", "hot"))
    [found] = find_leaks(with_column(honest, "remark_of_sales", words))
    assert "remark_of_sales" == found.column
    assert '"hot" is followed by the outcome in 100%, "hopeless" in 0%' == found.why


def test_a_column_that_outweighs_all_others_is_asked_about(honest: Cut) -> None:
    random = np.random.default_rng(0)
    duration = np.exp(random.normal(5, 1, len(honest.labels)) + 1.4 * honest.labels)
    [found] = find_leaks(with_column(honest, "duration", Numbers(duration)))
    assert ("duration", 0.7) == (found.column, found.strength)


def test_a_judgement_is_asked_about_by_its_name_only_when_it_says_something(honest: Cut) -> None:
    random = np.random.default_rng(0)
    noise = random.normal(size=len(honest.labels))
    assert [] == find_leaks(with_column(honest, "Lead Quality", Numbers(noise)))
    [found] = find_leaks(with_column(honest, "Lead Quality", Numbers(noise + 0.4 * honest.labels)))
    assert ("Lead Quality", 0.3) == (found.column, found.strength)


def test_a_column_of_which_nothing_is_known_is_no_leak(honest: Cut) -> None:
    assert [] == find_leaks(with_column(honest, "nothing", Numbers(np.full(len(honest.labels), np.nan))))


def test_the_length_of_the_call_is_noticed_when_it_is_left_in_and_nothing_else_is() -> None:
    with gzip.open(str(files("local.data.bank_marketing") / "bank-additional-dev.csv.gz"), "rt") as lines:
        seconds = np.array([float(row["duration"]) for row in csv.DictReader(lines, delimiter=";")])
    rows = np.random.default_rng(0).permutation(len(seconds))[:8000]
    campaign = cut_of(load(), rows)
    assert [] == find_leaks(campaign)
    [found] = find_leaks(with_column(campaign, "duration", Numbers(seconds[rows])))
    assert ("duration", 0.7) == (found.column, found.strength)
