"""The data sets of bench models: where they lie, and how a table becomes a frame as the product's trainings get it.

`TROIKA_DATA` names a folder of the layout of DATA.md; without it, the folder `shared/data` beside the project is read.
Most of these sets carry no open licence, so none is shipped: a set that is not there is left out of the figures.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from services.scoring.frame import Column, Frame, Numbers, Words

DATA = Path(os.environ.get("TROIKA_DATA", Path(__file__).parents[2] / "shared" / "data"))

FILES: Mapping[str, str] = {
    "bank_marketing": "bank_marketing/bank-additional-dev.csv.gz",
    "caravan_insurance": "caravan_insurance/train.csv.gz",
    "lead_scoring": "lead_scoring/lead_scoring-dev.csv.gz",
    "telco_churn": "telco_churn/telco_churn-dev.csv.gz",
    "online_shoppers": "online_shoppers/online_shoppers-dev.csv.gz",
    "hillstrom_email": "hillstrom_email/hillstrom-dev.csv.gz",
    "starbucks_promotion": "starbucks_promotion/training.csv.gz",
    "insurance_campaign": "insurance_campaign/train.csv.gz",
    "car_reviews": "car_reviews/train.txt.gz",
    "shop_reviews": "chinese_reviews/online_shopping_10_cats.csv.gz",
    "takeaway_reviews": "chinese_reviews/waimai_10k.csv.gz",
    "car_complaints": "car_complaints/car_complain.csv.gz",
}


def path(name: str) -> Path:
    """Where the file of a set lies; FileNotFoundError says which folder was looked in."""
    file = DATA / FILES[name]
    if not file.exists():
        raise FileNotFoundError(f"{file}: set TROIKA_DATA to a folder of the layout of DATA.md")
    return file


def there(name: str) -> bool:
    """Whether the set can be measured on this machine."""
    return (DATA / FILES[name]).exists()


def table(name: str) -> pd.DataFrame:
    """A set as its file has it, in the order of the file; an empty cell is NaN, "NA" and "None" are words."""
    separator = ";" if name == "bank_marketing" else ","
    return pd.read_csv(path(name), sep=separator, keep_default_na=False, na_values=[""], encoding="utf-8-sig")


def frame_of(columns: pd.DataFrame, categories: Collection[str] = ()) -> Frame:
    """Every column as a feature, rows numbered from 0: numbers as numbers, the rest (and `categories`) as words."""
    made: dict[str, Column] = {}
    for tag in columns.columns:
        column = columns[tag]
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column) and tag not in categories:
            made[tag] = Numbers(column.to_numpy(np.float64))
        else:
            codes, words = pd.factorize(column.astype("string"), sort=True)
            made[tag] = Words(codes.astype(np.int32), tuple(map(str, words)))
    return Frame(np.arange(len(columns), dtype=np.int64), made)


@dataclass(frozen=True)
class BinarySet:
    """A set with one yes-no outcome. `frame` has every column of the file that is no name of a row and not the outcome."""

    name: str
    frame: Frame
    labels: npt.NDArray[np.int32]
    # What the file has but nobody knows when the score is wanted; found by meaning, see the function that makes the set.
    known_afterwards: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def honest(self) -> Frame:
        """The frame without what is known only afterwards."""
        columns = {tag: column for tag, column in self.frame.columns.items() if tag not in self.known_afterwards}
        return Frame(self.frame.persons, columns)


def bank_marketing() -> BinarySet:
    """Calls in the order in which they were made. `duration` is known when the call, and its outcome, are over."""
    rows = table("bank_marketing")
    # The file's own ways of saying "not known": 999 days since a call that there never was, and the word.
    rows["pdays"] = rows["pdays"].where(rows["pdays"] != 999)
    labels = (rows.pop("y") == "yes").to_numpy(np.int32)
    for column in rows.select_dtypes(exclude="number").columns:
        rows[column] = rows[column].where(rows[column] != "unknown")
    return BinarySet("bank_marketing", frame_of(rows), labels, ("duration",))


def caravan_insurance() -> BinarySet:
    """Customers by postcode figures and policies; the two customer types are numbers of a list, not quantities."""
    rows = table("caravan_insurance").drop(columns="ORIGIN")
    labels = rows.pop("CARAVAN").to_numpy(np.int32)
    return BinarySet("caravan_insurance", frame_of(rows, ("MOSTYPE", "MOSHOOFD")), labels)


def lead_scoring() -> BinarySet:
    """Leads of a school, with what its sales team wrote down later.

    `Tags`, `Lead Quality` and `Lead Profile` are the team's words after it had talked to the lead ("Will revert after
    reading the email", "Closed by Horizzon", "Potential Lead"); the four Asymmetrique columns are scores that a vendor
    gave from the same later activity; the two last activities are overwritten by whatever came last, a conversion's own
    mails included. The names of rows are left out.
    """
    rows = table("lead_scoring").drop(columns=["Prospect ID", "Lead Number"])
    labels = rows.pop("Converted").to_numpy(np.int32)
    for column in rows.select_dtypes(exclude="number").columns:
        # "Select" is what the form shows before anybody chose.
        rows[column] = rows[column].where(rows[column] != "Select")
    return BinarySet(
        "lead_scoring",
        frame_of(rows),
        labels,
        (
            "Tags",
            "Lead Quality",
            "Lead Profile",
            "Last Activity",
            "Last Notable Activity",
            "Asymmetrique Activity Index",
            "Asymmetrique Profile Index",
            "Asymmetrique Activity Score",
            "Asymmetrique Profile Score",
        ),
    )


def telco_churn() -> BinarySet:
    """IBM's sample of telephone customers; the name of a row is left out."""
    rows = table("telco_churn").drop(columns="customerID")
    labels = (rows.pop("Churn") == "Yes").to_numpy(np.int32)
    # Customers of no month yet have a blank.
    rows["TotalCharges"] = pd.to_numeric(rows["TotalCharges"], errors="coerce")
    return BinarySet("telco_churn", frame_of(rows), labels)


def online_shoppers() -> BinarySet:
    """Sessions of a shop; four columns are numbers of a list, not quantities."""
    rows = table("online_shoppers")
    labels = rows.pop("Revenue").to_numpy(np.int32)
    return BinarySet("online_shoppers", frame_of(rows, ("OperatingSystems", "Browser", "Region", "TrafficType")), labels)
