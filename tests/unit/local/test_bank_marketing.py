import io

import pytest

from local.data.bank_marketing import COLUMNS, Contacts, load, read

HEADER = (
    "age;job;marital;education;default;housing;loan;contact;month;day_of_week;duration;campaign;pdays;previous;poutcome;"
    "emp.var.rate;cons.price.idx;cons.conf.idx;euribor3m;nr.employed;y\n"
)
NEW = "56;housemaid;married;unknown;no;yes;unknown;telephone;may;mon;261;1;999;0;nonexistent;1.1;93.994;-36.4;4.857;5191.0;no\n"
KNOWN = "41;services;single;basic.9y;yes;no;no;cellular;nov;fri;12345;2;3;1;success;-1.1;94.2;-40;0.7;4963.6;yes\n"


@pytest.fixture(scope="module")
def contacts() -> Contacts:
    return load()


def test_the_shipped_file_holds_every_contact_with_its_real_answer(contacts: Contacts) -> None:
    assert 33_095 == len(contacts)
    assert 3_749 == sum(contacts.answers)
    assert {33_095} == {len(column) for column in contacts.columns.values()}


def test_duration_is_dropped_at_the_door() -> None:
    contacts = read(io.StringIO(HEADER + NEW + KNOWN))
    assert "duration" not in COLUMNS
    assert not [name for name in contacts.columns if "duration" in name]
    assert not [value for column in contacts.columns.values() for value in column if value in (261, 12345, "261", "12345")]


def test_unknown_values_and_never_contacted_are_absent() -> None:
    new, known = (read(io.StringIO(HEADER + NEW + KNOWN)).attributes(row) for row in (0, 1))
    assert {"education", "has_personal_loan", "pdays"} == known.keys() - new.keys()
    assert 3 == known["pdays"]


def test_columns_are_typed_and_renamed() -> None:
    known = read(io.StringIO(HEADER + KNOWN)).attributes(0)
    expected = {
        "age": 41, "job": "services", "marital": "single", "education": "basic.9y", "has_credit_default": "yes",
        "has_housing_loan": "no", "has_personal_loan": "no", "contact_line": "cellular", "call_month": "nov",
        "call_weekday": "fri", "calls_this_campaign": 2, "pdays": 3, "calls_before": 1, "previous_outcome": "success",
        "emp_var_rate": -1.1, "cons_price_idx": 94.2, "cons_conf_idx": -40.0, "euribor3m": 0.7, "nr_employed": 4963.6,
    }  # fmt: skip
    assert expected == known
    assert [type(value) for value in expected.values()] == [type(value) for value in known.values()]


def test_the_answer_is_no_attribute() -> None:
    contacts = read(io.StringIO(HEADER + NEW + KNOWN))
    assert (False, True) == contacts.answers
    assert "y" not in contacts.columns
