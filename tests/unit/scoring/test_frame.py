"""Columns and encodings: unknown is NaN, whatever is unknown about it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scoring import fit
from services.scoring.domain import TrainingRefused
from services.scoring.frame import (
    Column,
    Encoding,
    Feature,
    Frame,
    Kind,
    Numbers,
    Words,
    fit_encodings,
    joined,
    matrix_of,
)
from services.scoring.learning.cut import Cut

AGE, JOB = Feature("age", Kind.NUMBER), Feature("job", Kind.CATEGORY)
values = st.lists(st.none() | st.sampled_from(["student", "retired", "服务", "admin."]), min_size=1, max_size=30)
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False, width=32)


def words_column(words: list[str | None]) -> Words:
    vocabulary = tuple(dict.fromkeys(w for w in words if w is not None))
    return Words(np.array([-1 if w is None else vocabulary.index(w) for w in words], np.int32), vocabulary)


def decoded(column: Words) -> list[str | None]:
    return [None if i < 0 else column.words[i] for i in column.indexes]


def same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


@given(values, st.sets(st.sampled_from(["student", "retired", "服务"])))
def test_a_word_in_a_column_and_alone_become_the_same_number(words: list[str | None], known: set[str]) -> None:
    encoding = Encoding(JOB, tuple(sorted(known)))
    codes = encoding.column(words_column(words)).tolist()
    for word, code in zip(words, codes, strict=True):
        assert same(code, encoding.value(word))
        assert (word in known) == (not math.isnan(code))
        assert (word if word in known else "unknown") == encoding.in_words(code)


@given(numbers)
def test_a_number_in_a_column_and_alone_become_the_same_number(number: float | None) -> None:
    column = Numbers(np.array([np.nan if number is None else number]))
    assert same(float(Encoding(AGE).column(column)[0]), Encoding(AGE).value(number))


@given(st.lists(values, min_size=1, max_size=5))
def test_joined_chunks_keep_every_word_whatever_each_chunk_calls_it(chunks: list[list[str | None]]) -> None:
    frames = [Frame(np.arange(len(chunk)), {"job": words_column(chunk)}) for chunk in chunks]
    column = joined(frames).columns["job"]
    assert isinstance(column, Words)
    assert [word for chunk in chunks for word in chunk] == decoded(column)


def test_a_yes_no_tag_may_be_a_boolean_or_a_word() -> None:
    encoding = Encoding(Feature("has_loan", Kind.CATEGORY), ("no", "yes"))
    assert [1.0, 0.0] == encoding.column(Numbers(np.array([1.0, 0.0]))).tolist()
    assert [1.0, 0.0] == [encoding.value(True), encoding.value(False)]
    assert math.isnan(encoding.column(Numbers(np.array([np.nan])))[0])


def test_a_word_where_a_number_belongs_is_unknown() -> None:
    assert math.isnan(Encoding(AGE).value("old"))
    assert np.isnan(Encoding(AGE).column(words_column(["old", None]))).all()


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({}, "FEATURE_MISSING"),
        ({"age": Numbers(np.array([np.nan, np.nan]))}, "FEATURE_MISSING"),
        ({"age": words_column(["old", None])}, "FEATURE_NOT_A_NUMBER"),
        ({"age": Numbers(np.array([1.0, 2.0])), "job": words_column([None, None])}, "FEATURE_MISSING"),
    ],
)
def test_a_feature_that_is_not_there_is_refused(columns: dict[str, Column], reason: str) -> None:
    with pytest.raises(TrainingRefused) as caught:
        fit_encodings([AGE, JOB], Frame(np.array([1, 2]), columns))
    assert reason == caught.value.reason


def test_encodings_of_a_cut_know_its_words_and_no_others() -> None:
    cut = Frame(np.array([1, 2]), {"age": Numbers(np.array([30.0, 40.0])), "job": words_column(["b", "a"])})
    encodings = fit_encodings([AGE, JOB], cut)
    later = Frame(np.array([3]), {"age": Numbers(np.array([np.nan])), "job": words_column(["c"])})
    assert [[30.0, 1.0], [40.0, 0.0]] == matrix_of(encodings, cut).tolist()
    assert np.isnan(matrix_of(encodings, later)).all()


@given(values, st.integers(0, 2**32))
def test_a_cut_survives_the_way_to_the_training_process(words: list[str | None], seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, len(words)).astype(np.int32)
    treated = random.random(len(words)) < 0.5
    frame = Frame(np.arange(len(words)), {"job": words_column(words), "age": Numbers(random.normal(size=len(words)))})
    cut = Cut(frame, labels, ("a", "b", "c"), np.arange(len(words)), treated)
    module, got, trusted = fit.unpack(fit.pack("some.module", cut, {"job"}))
    assert ("some.module", {"job"}, cut.classes) == (module, trusted, got.classes)
    assert got.treated is not None
    assert (labels.tolist(), treated.tolist()) == (got.labels.tolist(), got.treated.tolist())
    assert (frame.persons.tolist(), cut.moments.tolist()) == (got.frame.persons.tolist(), got.moments.tolist())
    job, age = got.frame.columns["job"], got.frame.columns["age"]
    assert isinstance(job, Words) and isinstance(age, Numbers)
    assert words == decoded(job)
    assert np.array_equal(frame.columns["age"].values, age.values)  # type: ignore[union-attr]
