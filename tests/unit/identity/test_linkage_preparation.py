from __future__ import annotations

from typing import Any

import pytest

from services.identity.linkage.preparation import folded, sound, split_date, stubs, tokens
from services.identity.linkage.profiles import PROFILES, customers, febrl, historical_persons
from services.identity.linkage.run import PreparedFile


def customer(**said: Any) -> dict[str, Any]:
    empty = {"name": None, "address": None, "birth_date": None, "mobiles": [], "vehicles": []}
    return customers.prepare({**empty, **said})


def test_words_lose_case_accents_widths_and_marks() -> None:
    assert ["l", "castle"] == tokens("L.Castle")
    assert ["obrien", "jose"] == tokens("O’Brien, José")
    assert ["castle"] == tokens("Sir Castle", frozenset({"sir"}))
    assert "123" == folded(" １２３ ")
    assert [] == tokens(None)


def test_words_that_sound_alike_have_one_sound() -> None:
    assert sound("taylor") == sound("tayler")
    assert sound("7") == "7"


def test_a_typo_leaves_a_beginning_or_an_end() -> None:
    assert set(stubs(["strange"])) & set(stubs(["strante"])) == {"str"}
    assert set(stubs(["castle"])) & set(stubs(["gastle"])) == {"~stle"}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1852-10-24", (1852, "1024")),
        ("18521024", (1852, "1024")),
        ("1850-81-01", (1850, "8101")),
        # Who knows only the year writes 1 January.
        ("1850-01-01", (1850, None)),
        ("185", (None, None)),
        (None, (None, None)),
    ],
)
def test_a_date_gives_its_year_and_its_day_even_when_there_is_no_such_day(text: str | None, parts: tuple[Any, Any]) -> None:
    assert parts == split_date(text)


def test_a_name_of_one_word_may_be_either_part() -> None:
    empty = {"dob": None, "birth_place": None, "postcode_fake": None, "gender": None, "occupation": None}
    one = historical_persons.prepare({**empty, "full_name": "sir castle"})
    assert ("castle", None, True) == (one["family"], one["given"], one["lone"])
    two = historical_persons.prepare({**empty, "full_name": "lewis b. castle", "birth_place": "po | portsea"})
    assert ("castle", "lewis", False) == (two["family"], two["given"], two["lone"])
    assert ["po", "portsea"] == two["places"]


def test_homophones_and_regional_accents_share_a_sound() -> None:
    assert customer(name="张伟")["sound"] == customer(name="章玮")["sound"]
    assert customer(name="张伟")["sound"] != customer(name="臧伟")["sound"]
    assert customer(name="张伟")["regional_sound"] == customer(name="臧伟")["regional_sound"]
    assert "ouyan" == customer(name="欧阳娜娜")["family"].replace(" ", "")


def test_a_wrong_digit_leaves_a_part_of_a_mobile_intact() -> None:
    right, wrong = customer(mobiles=["+8613800138001"]), customer(mobiles=["+8613800138007"])
    assert set(right["mobile_parts"]) & set(wrong["mobile_parts"])
    late, early = customer(mobiles=["+8613800138001"]), customer(mobiles=["+8613900138001"])
    assert set(late["mobile_parts"]) & set(early["mobile_parts"])


def test_an_address_has_a_house_whatever_the_room() -> None:
    one = customer(address="浙江省杭州市建设路12号3栋201室")
    other = customer(address="杭州市建设路 12 号 5 幢 702")
    assert one["house"] == other["house"] is not None
    assert one["address"] != other["address"]


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_what_a_profile_prepares_is_what_it_declares_and_asks_for(name: str, tmp_path: Any) -> None:
    profile = PROFILES[name]
    record = dict.fromkeys(profile.inputs) | {"source": "a"}
    assert set(profile.columns) == set(profile.prepare(record))
    asked = {column for key in profile.keys for column in key}
    asked |= {column for comparison in profile.comparisons for column in comparison.needs}
    asked |= {column for group in (*profile.training.certain, *profile.training.blocks) for column in group}
    asked |= {level.frequency_of for c in profile.comparisons for level in c.levels if level.frequency_of}
    assert set() == asked - set(profile.columns)
    with PreparedFile(profile, tmp_path / "records.parquet") as prepared:
        prepared.add([record, record])
    assert 2 == prepared.count


def test_a_profile_asks_for_nothing_that_no_record_has() -> None:
    narrow = febrl.ONE_FILE.restricted_to({"born", "postcode", "given_name"})
    assert {("born",)} == set(narrow.keys)
    assert {"given_name", "born", "postcode"} == {comparison.name for comparison in narrow.comparisons}
    assert ((), (("born",),)) == (narrow.training.certain, narrow.training.blocks)
