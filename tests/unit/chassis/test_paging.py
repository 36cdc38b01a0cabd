"""A page token comes back as it went out, in its own list only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis import paging
from chassis.errors import InvalidArgument

KEYS = st.lists(st.integers(0, paging.BIGINT_MAX), min_size=1, max_size=3).map(tuple)


@given(st.text(), KEYS)
def test_a_token_carries_its_key(listing: str, key: tuple[int, ...]) -> None:
    listing = listing.encode(errors="replace").decode()
    assert key == paging.read(listing, paging.token(listing, *key), (0,))


@given(KEYS)
def test_a_token_of_another_list_is_refused(key: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        paging.read("decisions", paging.token("themes", *key), (0,))
    assert "page_token" == caught.value.field


@given(st.text(min_size=1))
def test_made_up_tokens_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        paging.read("themes", text, (0,))


def test_without_a_token_the_list_begins_at_its_beginning() -> None:
    assert (7,) == paging.read("themes", "", (7,))


@pytest.mark.parametrize(("asked", "shown"), [(0, 100), (5, 5), (10**9, 1000)])
def test_sizes_are_kept_within_bounds(asked: int, shown: int) -> None:
    assert shown == paging.size(asked, 100, 1000)
