"""The shipped real campaign (UCI Bank Marketing, see ATTRIBUTION.md), read without the column that leaks the outcome."""

import csv
import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, TextIO

Value = int | float | str
Column = tuple[Value | None, ...]

_FILE: Final = "bank-additional-dev.csv.gz"
_ANSWER: Final = "y"
_NEVER_CONTACTED_BEFORE: Final = "999"  # in `pdays` only


def _days(text: str) -> int | None:
    return None if text == _NEVER_CONTACTED_BEFORE else int(text)


def _word(text: str) -> str | None:
    return None if text == "unknown" else text


# Column of the file -> name of the attribute and its type. `duration` is missing on purpose: it is known only after the call.
COLUMNS: Final[Mapping[str, tuple[str, Callable[[str], Value | None]]]] = {
    "age": ("age", int),
    "job": ("job", _word),
    "marital": ("marital", _word),
    "education": ("education", _word),
    "default": ("has_credit_default", _word),
    "housing": ("has_housing_loan", _word),
    "loan": ("has_personal_loan", _word),
    "contact": ("contact_line", _word),
    "month": ("call_month", _word),
    "day_of_week": ("call_weekday", _word),
    "campaign": ("calls_this_campaign", int),
    "pdays": ("pdays", _days),
    "previous": ("calls_before", int),
    "poutcome": ("previous_outcome", _word),
    "emp.var.rate": ("emp_var_rate", float),
    "cons.price.idx": ("cons_price_idx", float),
    "cons.conf.idx": ("cons_conf_idx", float),
    "euribor3m": ("euribor3m", float),
    "nr.employed": ("nr_employed", float),
}


@dataclass(frozen=True)
class Contacts:
    """The contacts in the order of the calls: typed columns (None where the bank did not know) and the real answers."""

    columns: Mapping[str, Column]
    answers: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.answers)

    def attributes(self, row: int) -> dict[str, Value]:
        """What the bank knew of one contact before the call; unknown attributes are absent."""
        return {name: value for name, column in self.columns.items() if (value := column[row]) is not None}


def read(lines: TextIO) -> Contacts:
    """Read the semicolon-separated file; columns that `COLUMNS` does not name never leave this function."""
    rows = csv.reader(lines, delimiter=";")
    header = next(rows)
    cells = list(zip(*rows, strict=True))
    by_name = dict(zip(header, cells, strict=True))
    columns = {name: tuple(map(convert, by_name[source])) for source, (name, convert) in COLUMNS.items()}
    return Contacts(columns, tuple(answer == "yes" for answer in by_name[_ANSWER]))


def load() -> Contacts:
    """Read the shipped file (33,095 contacts, 11.3 % of which said yes)."""
    with (files(__name__) / _FILE).open("rb") as packed, gzip.open(packed, "rt", encoding="ascii", newline="") as lines:
        return read(lines)
