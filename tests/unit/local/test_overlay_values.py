"""The values that the overlay makes pass the checks of real ones, and its noise is the noise it claims."""

import re
from datetime import date

import numpy as np
import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pypinyin import Style, pinyin
from stdnum.cn import ric

from local.overlay import Overlay, handwriting, names
from local.overlay.identifiers import (
    PLACEHOLDER_MOBILES,
    PLATE_CODES,
    account_number,
    device_id,
    distinct,
    draw_mobiles,
    plate,
    vin_check_digit,
    wechat_id,
)

PLATE = re.compile(r"[京津沪冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼渝][A-HJ-NP-Z][A-HJ-NP-Z0-9]{5}")
NEW_ENERGY = re.compile(r"[^\W\d_][A-Z][ABCDEFGHJK][A-HJ-NP-Z0-9]\d{4}")
SALTS = st.integers(0, 2**62 - 1)
MOBILES = st.integers(13_000_000_000, 13_999_999_999).map(str)


@pytest.fixture(scope="module")
def overlay() -> Overlay:
    return Overlay(2_000, 11)


def as_e164(text: str) -> str:
    number = phonenumbers.parse(text, "CN")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def test_every_mobile_is_a_valid_mainland_mobile(overlay: Overlay) -> None:
    staff = [phone for phones in overlay.truth.staff_phones.values() for phone in phones]
    numbers = [phonenumbers.parse(phone) for phone in [*staff, *(person.mobile for person in overlay.truth.persons())]]
    assert all(phonenumbers.is_valid_number(number) for number in numbers)
    assert {phonenumbers.PhoneNumberType.MOBILE} == {phonenumbers.number_type(number) for number in numbers}


def test_nobody_shares_a_mobile_and_none_is_a_placeholder() -> None:
    mobiles = draw_mobiles(np.random.default_rng(3), 50_000)
    assert 50_000 == len(np.unique(mobiles))
    assert not np.isin(mobiles, PLACEHOLDER_MOBILES).any()


def test_every_vin_is_chinese_distinct_and_has_its_check_digit(overlay: Overlay) -> None:
    vins = [car.vin for car in overlay.truth.vehicles()]
    assert len(vins) == len(set(vins))
    assert all(re.fullmatch(r"L[A-HJ-NPR-Z0-9]{16}", vin) and vin[8] == vin_check_digit(vin) for vin in vins)


def test_the_check_digit_agrees_with_the_standards_own_example() -> None:
    assert "X" == vin_check_digit("1M8GDM9AXKP042788")


def test_every_plate_is_well_formed_and_distinct(overlay: Overlay) -> None:
    plates = [car.plate for car in overlay.truth.vehicles()]
    assert len(plates) == len(set(plates))
    assert all(PLATE.fullmatch(text) or NEW_ENERGY.fullmatch(text) for text in plates)
    assert {7, 8} == set(map(len, plates))


@given(st.integers(0, PLATE_CODES - 1), st.booleans())
def test_any_plate_code_gives_a_well_formed_plate(code: int, new_energy: bool) -> None:
    assert (NEW_ENERGY if new_energy else PLATE).fullmatch(plate("沪A", code, new_energy))


def test_every_id_card_has_its_checksum_a_birthday_and_the_age_the_bank_gave(overlay: Overlay) -> None:
    age = {record["record_id"]: record["attributes"]["age"] for record in overlay.records("call_center")}
    person_age = {person.person: age[person.call_center_id] for person in overlay.truth.persons()}
    cards: dict[int, str] = {}
    for source in overlay.sources:
        for record, (_, person) in zip(overlay.records(source), overlay.truth.records(source), strict=True):
            card = record["identifiers"].get("id_card")
            if card:
                assert card == cards.setdefault(person, card)
    assert len(cards) == len(set(cards.values())) > 500
    for person, card in cards.items():
        assert ric.calc_check_digit(card) == card[-1]
        birthday = ric.get_birth_date(card)
        assert person_age[person] == int((date(2026, 7, 1) - birthday).days / 365.25)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_wechat_ids_have_the_shape_of_real_ones(seed: int, number: int) -> None:
    assert re.fullmatch(r"o[\w-]{27}", wechat_id(seed, "account", number))
    assert wechat_id(seed, "account", number)[:6] == wechat_id(seed + 1, "account", number + 1)[:6]


@given(st.integers(0, 10**6))
def test_device_ids_are_android_or_ios(number: int) -> None:
    assert re.fullmatch(r"[0-9a-f]{16}|[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}", device_id(7, number))


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_accounts_differ_where_persons_differ(seed: int, one: int, other: int) -> None:
    assert (one == other) == (account_number(seed, one) == account_number(seed, other))


@given(MOBILES, SALTS)
def test_formatting_noise_leaves_the_number_readable(mobile: str, salt: int) -> None:
    assert f"+86{mobile}" == as_e164(handwriting.spaced_phone(mobile, salt))


@given(MOBILES, SALTS)
def test_a_wrong_phone_is_another_string_of_digits(mobile: str, salt: int) -> None:
    wrong = handwriting.wrong_phone(mobile, salt)
    assert wrong != mobile and wrong[:3] == mobile[:3] and len(wrong) in (10, 11, 12)


@given(SALTS)
def test_a_wrong_vin_differs_in_one_character(salt: int) -> None:
    vin = "LTR1A3BC0NT123456"
    wrong = handwriting.wrong_vin(vin, salt)
    assert 1 == sum(a != b for a, b in zip(vin, wrong, strict=True))


@given(SALTS)
def test_formatting_noise_leaves_vins_and_plates_readable(salt: int) -> None:
    assert "LTR1A3BC0NT123456" == "".join(handwriting.spaced_vin("LTR1A3BC0NT123456", salt).split()).upper()
    assert "粤BD12345" == re.sub(r"[·\s-]", "", handwriting.spaced_plate("粤BD12345", salt)).upper()


@given(st.sampled_from(names.SURNAMES), st.sampled_from(names.GIVEN), SALTS)
def test_a_mistyped_name_sounds_the_same_and_looks_different(surname: str, given_name: str, salt: int) -> None:
    wrong = handwriting.mistyped_name(surname, given_name, salt)
    assert 1 == sum(a != b for a, b in zip(surname + given_name, wrong, strict=True))
    assert names.romanised(surname + given_name) == names.romanised(wrong)


def test_the_table_of_sounds_agrees_with_a_pinyin_dictionary() -> None:
    assert sum(map(len, names.SOUNDS.values())) == len(names.SOUND_OF)
    for char, sound in names.SOUND_OF.items():
        assert sound in {reading.replace("ü", "v") for reading in pinyin(char, style=Style.NORMAL, heteronym=True)[0]}


def test_every_character_of_every_name_has_a_homophone() -> None:
    assert all(len(names.SOUNDS[names.SOUND_OF[char]]) > 1 for name in (*names.SURNAMES, *names.GIVEN) for char in name)


def test_surnames_fall_as_they_do_in_the_population_and_namesakes_happen() -> None:
    size = 100_000
    drawn = names.draw_names(np.random.default_rng(5), np.arange(size) % 2 == 0)
    people = ["".join(drawn.parts(person)) for person in range(size)]
    share = sum(name.startswith(("王", "李", "张")) for name in people) / size
    assert 0.2127 / 0.8426 == pytest.approx(share, abs=0.005)  # of the surnames in the table, which are 84 % of the population
    assert 10 <= people.count("张伟") <= 40  # one in 4,700 of the population


def test_distinct_draws_again_until_nothing_repeats() -> None:
    rng = np.random.default_rng(1)
    values = distinct(lambda at: rng.integers(0, 12, len(at)), 10, taken=np.array([3, 4]))
    assert {0, 1, 2, 5, 6, 7, 8, 9, 10, 11} == set(values.tolist())
