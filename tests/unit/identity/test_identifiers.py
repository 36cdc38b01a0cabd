"""Normal forms: many ways to write a value, one token; placeholders and typos are refused with a reason."""

from __future__ import annotations

import phonenumbers
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.identity.domain.identifiers import Identifier, Rejected, normal_or_reason, normalise
from services.identity.domain.kinds import KINDS, Kind


def value(kind: str, text: str, scope: str = "") -> str:
    return normalise(kind, scope, text).value


def reason(kind: str, text: str, scope: str = "") -> str:
    with pytest.raises(Rejected) as error:
        normalise(kind, scope, text)
    return error.value.reason


@pytest.mark.parametrize(
    "text",
    [
        *("139 1234 5679", "139-1234-5679", "+8613912345679", "008613912345679", "86-13912345679", "(+86)13912345679"),
        *(" 13912345679 ", "１３９１２３４５６７９", "139\u30001234\u30005679", "+86 139 1234 5679"),
    ],
)
def test_one_mobile_has_one_form_however_it_is_written(text: str) -> None:
    assert "+8613912345679" == value("mobile", text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        *(
            ("13800138000", "PLACEHOLDER"),
            ("13888888888", "PLACEHOLDER"),
            ("13912345678", "PLACEHOLDER"),
            ("无", "PLACEHOLDER"),
        ),
        *(("11111111111", "NOT_A_VALID_NUMBER"), ("1391234567", "NOT_A_VALID_NUMBER"), ("010-62345678", "NOT_A_MOBILE")),
        *(("0", "NOT_A_PHONE_NUMBER"), ("-", "PLACEHOLDER"), ("无", "PLACEHOLDER")),
    ],
)
def test_placeholders_and_other_numbers_are_no_mobiles(text: str, why: str) -> None:
    assert why == reason("mobile", text)


@given(st.integers(10_000_000_000, 19_999_999_999))
# With a carrier's prefix for calls abroad (1 2x xx 00) the rest is no number.
@example(12_123_001_234)
def test_the_fast_path_for_mobiles_agrees_with_the_library(number: int) -> None:
    try:
        parsed = phonenumbers.parse(str(number), "CN")
        kind = phonenumbers.number_type(parsed)
        valid = phonenumbers.is_valid_number(parsed) and kind == phonenumbers.PhoneNumberType.MOBILE
    except phonenumbers.NumberParseException:
        valid = False
    found = normal_or_reason("mobile", "", str(number))
    assert found == "PLACEHOLDER" or valid == (found == Identifier(Kind.MOBILE, "", f"+86{number}"))


def test_foreign_mobiles_are_mobiles() -> None:
    assert "+447911123456" == value("mobile", "+44 7911 123456")


@pytest.mark.parametrize("text", ["11010519491231002X", "11010519491231002x", " 110105 19491231 002X ", "110105491231002"])
def test_an_id_card_has_one_form_old_numbers_included(text: str) -> None:
    assert "11010519491231002X" == value("id_card", text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        *(("110105194912310021", "WRONG_CHECK_DIGIT"), ("1101051949123100", "NOT_AN_ID_CARD"), ("x", "NOT_AN_ID_CARD")),
        *(("110105299912310020", "NO_SUCH_DATE"), ("110105194902310026", "NO_SUCH_DATE")),
    ],
)
def test_wrong_id_cards_are_refused(text: str, why: str) -> None:
    assert why == reason("id_card", text)


def test_permits_of_hong_kong_macao_taiwan_and_foreigners_are_id_cards() -> None:
    assert "810000199408230021" == value("id_card", "810000199408230021")


@pytest.mark.parametrize("text", ["LSVAA49J132047371", "lsvaa49j132047371", "LSV AA49J132047371"])
def test_a_vin_has_one_form(text: str) -> None:
    assert "LSVAA49J132047371" == value("vin", text)


def test_the_check_digit_binds_cars_made_in_china_only() -> None:
    assert "WRONG_CHECK_DIGIT" == reason("vin", "LSVAA49J232047371")
    assert "WBAAA49J232047371" == value("vin", "WBAAA49J232047371")
    assert "NOT_A_VIN" == reason("vin", "LSVAA49J13204737I")
    assert "PLACEHOLDER" == reason("vin", "1" * 17)


@pytest.mark.parametrize("text", ["粤B12345", "粤b·12345", "粤B 12345", "粤Ｂ１２３４５"])
def test_a_plate_has_one_form(text: str) -> None:
    assert "粤B12345" == value("plate", text)


@pytest.mark.parametrize("text", ["粤BD12345", "粤BK12345", "粤B12345F", "京A1234学"])
def test_new_energy_and_special_plates_are_plates(text: str) -> None:
    assert text == value("plate", text)


@pytest.mark.parametrize("text", ["无车牌", "unknown", "粤B1234", "粤I12345", "XX12345"])
def test_what_is_no_plate_is_refused(text: str) -> None:
    assert "NOT_A_PLATE" == reason("plate", text)


def test_refused_tracking_is_no_device() -> None:
    assert "PLACEHOLDER" == reason("device", "00000000-0000-0000-0000-000000000000")
    assert value("device", "0C838B21-19DD-82DB") == value("device", "0c838b21-19dd-82db")


def test_scopes_are_needed_where_a_value_means_nothing_without() -> None:
    assert "SCOPE_MISSING" == reason("crm_id", "7")
    assert Identifier(Kind.CRM_ID, "app", "7") == normalise("crm_id", "app", "7")
    assert Identifier(Kind.MOBILE, "", "+8613912345679") == normalise("mobile", "ignored", "13912345679")


def test_mail_addresses_are_folded_and_test_mailboxes_refused() -> None:
    assert "li.na@163.com" == value("email", " Li.Na@163.com ")
    assert "NOT_AN_EMAIL" == reason("email", "li.na@163")
    assert "PLACEHOLDER" == reason("email", "test@qq.com")


@given(st.sampled_from([*KINDS, "nonsense"]), st.text(max_size=40), st.text(max_size=300))
def test_any_text_is_an_identifier_or_has_a_reason_and_normal_forms_are_stable(kind: str, scope: str, text: str) -> None:
    normal = normal_or_reason(kind, scope, text)
    if isinstance(normal, Identifier):
        assert normal == normalise(kind, scope, normal.value)
    else:
        assert normal.isupper()


@pytest.mark.parametrize("text", ["91110000600037341L", "9111 0000-600037341l", "９１１１００００６０００３７３４１Ｌ"])
def test_a_social_credit_code_has_one_form(text: str) -> None:
    assert Identifier(Kind.USCC, "", "91110000600037341L") == normalise("uscc", "", text)


@pytest.mark.parametrize("code", ["N21100006000373414", "Y1350100MC0000ABCC", "A1430000ABCDEFGH16"])
def test_authorities_whose_codes_begin_with_letters_are_as_good_as_companies(code: str) -> None:
    assert code == normalise("uscc", "", code).value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("91110000600037341A", "WRONG_CHECK_DIGIT"),
        ("9111000060003734", "NOT_A_USCC"),
        ("9I110000600037341L", "NOT_A_USCC"),
        ("911100000000000000", "PLACEHOLDER"),
    ],
)
def test_wrong_social_credit_codes_are_refused(text: str, why: str) -> None:
    assert why == normal_or_reason("uscc", "", text)
