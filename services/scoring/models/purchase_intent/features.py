"""The tags that purchase intent reads: what was known of a contact before the call."""

from __future__ import annotations

from services.scoring.frame import Feature, Kind

NUMBERS = (
    "age",
    "calls_this_campaign",
    "pdays",
    "calls_before",
    "emp_var_rate",
    "cons_price_idx",
    "cons_conf_idx",
    "euribor3m",
    "nr_employed",
)
CATEGORIES = (
    "job",
    "marital",
    "education",
    "has_credit_default",
    "has_housing_loan",
    "has_personal_loan",
    "contact_line",
    "call_month",
    "call_weekday",
    "previous_outcome",
)
FEATURES = tuple(Feature(tag, Kind.NUMBER) for tag in NUMBERS) + tuple(Feature(tag, Kind.CATEGORY) for tag in CATEGORIES)
