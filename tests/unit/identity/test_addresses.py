"""Addresses: the ways in which clerks write one door have one normal form, two doors never the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.overlay.homes import spelled
from local.overlay.places import CITIES
from services.identity.domain.addresses import normal

CODES, PLACES = st.integers(0, 10**9), st.integers(0, len(CITIES) - 1)


@given(CODES, PLACES, st.integers(0, 2**62))
def test_however_a_door_is_written_it_is_the_same_door(code: int, city: int, salt: int) -> None:
    assert normal(spelled(code, city, 0)) == normal(spelled(code, city, salt)) != ""


@given(CODES, CODES, PLACES)
def test_other_doors_are_other_addresses(one: int, other: int, city: int) -> None:
    same = spelled(one, city, 0) == spelled(other, city, 0)
    assert same == (normal(spelled(one, city, 0)) == normal(spelled(other, city, 0)))


@pytest.mark.parametrize("text", ["", "无", "未知", "同上", "深圳市南山区", "测试地址1号", "123456", "n/a"])
def test_what_names_no_house_is_no_address(text: str) -> None:
    assert "" == normal(text)


@given(st.text("〇零一二三四五六七八九十百号楼栋室单元北京市省路0１ -", max_size=40))
def test_no_text_breaks_it_and_blanks_and_widths_do_not_matter(text: str) -> None:
    assert normal(text) == normal(text.replace("１", "1").replace(" ", "\u3000"))
