"""How values become bits: every value has one, order is kept, unknown stays unknown."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.scoring.frame import Numbers, Words
from services.scoring.lookalike.bits import MOST_WORDS, RANGES, split

NUMBERS = st.lists(
    st.one_of(st.floats(-1e9, 1e9), st.just(float("nan")), st.integers(0, 4).map(float)), min_size=1, max_size=60
)


@given(NUMBERS, NUMBERS)
def test_numbers_keep_their_order_and_nan_is_unknown(sample: list[float], later: list[float]) -> None:
    splitting = split("x", Numbers(np.array(sample)))
    values = np.array(later)
    if splitting is None:
        assert np.isnan(sample).all()
        return
    codes = splitting.codes(Numbers(values))
    assert np.array_equal(np.isnan(values), codes == 0)
    known = np.sort(values[~np.isnan(values)])
    assert (np.diff(splitting.codes(Numbers(known)).astype(int)) >= 0).all()
    assert codes.max(initial=0) < splitting.size <= 1 + RANGES


@given(NUMBERS)
def test_few_different_numbers_each_have_a_bit_of_their_own(sample: list[float]) -> None:
    distinct = np.unique([value for value in sample if value == value])[:RANGES]
    if len(distinct):
        splitting = split("x", Numbers(distinct))
        assert splitting is not None
        assert list(range(1, len(distinct) + 1)) == splitting.codes(Numbers(distinct)).tolist()
        assert [f"{value:.6g}" for value in distinct] == list(splitting.names)


def test_ranges_are_named_by_the_values_that_lie_in_them() -> None:
    splitting = split("age", Numbers(np.arange(20.0, 60.0)))
    assert splitting is not None
    assert ("20 to 24", "25 to 29") == splitting.names[:2]
    assert ["20 to 24", "25 to 29", "55 to 59"] == [
        splitting.names[code - 1] for code in splitting.codes(Numbers(np.array([3.0, 25.0, 99.0])))
    ]


def test_words_are_known_by_name_wherever_they_stand() -> None:
    splitting = split("job", Words(np.array([0, 1, 1, -1], np.int32), ("student", "driver")))
    assert splitting is not None
    assert ("driver", "student") == splitting.names
    other = Words(np.array([2, 1, 0, -1], np.int32), ("astronaut", "student", "driver"))
    assert [1, 2, 0, 0] == splitting.codes(other).tolist()


def test_of_very_many_words_the_rarest_are_unknown() -> None:
    indexes = np.concatenate([np.arange(MOST_WORDS + 50), np.arange(MOST_WORDS)]).astype(np.int32)
    splitting = split("city", Words(indexes, tuple(f"c{number:03}" for number in range(MOST_WORDS + 50))))
    assert splitting is not None
    assert MOST_WORDS + 1 == splitting.size
    assert [0, 1] == splitting.codes(
        Words(np.array([MOST_WORDS + 1, 0], np.int32), tuple(f"c{n:03}" for n in range(250)))
    ).tolist()


def test_a_tag_that_tells_nobody_from_anybody_is_no_bit() -> None:
    assert split("x", Numbers(np.full(5, np.nan))) is None
    assert split("x", Words(np.zeros(5, np.int32), ("a",))) is None
    assert split("x", Words(np.full(5, -1, np.int32), ("a",))) is None
    assert split("x", Words(np.array([0, -1], np.int32), ("a",))) is not None
