"""Names that sound alike agree; titles, spaces and placeholders say nothing."""

from __future__ import annotations

import pytest

from services.identity.domain.names import clean, sound_key


@pytest.mark.parametrize("text", ["张伟", "张　伟", " 张伟先生", "章伟", "张 玮女士"])
def test_homophones_spaces_and_titles_make_no_difference(text: str) -> None:
    assert "zhang wei" == sound_key(clean(text))


@pytest.mark.parametrize(
    "text", ["", " ", "测试", "测试客户", "无", "未知", "客户", "先生", "张先生", "王", "13912345679", "test1", "N/A"]
)
def test_what_is_no_name_is_nothing(text: str) -> None:
    assert "" == clean(text)


def test_syllables_stay_apart() -> None:
    assert sound_key("西安") != sound_key("先")


def test_latin_names_are_folded() -> None:
    assert clean("John  O'NEIL") == clean("john oneil")
