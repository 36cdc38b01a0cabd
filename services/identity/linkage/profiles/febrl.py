"""febrl: persons of an Australian town, generated with typing, scanning and phonetic errors (Christen 2005)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa

from services.identity.linkage import comparisons as by
from services.identity.linkage.preparation import distinct, folded, sound, split_date, stubs, tokens
from services.identity.linkage.profile import Comparison, Profile, Record, Training

_TEXTS = ("given_name", "surname", "street_number", "address_1", "address_2", "suburb", "postcode", "state")


def prepare(record: Record) -> dict[str, Any]:
    """Fields as they are, trimmed; parts of all name and address fields together, because fields get swapped."""
    fields: dict[str, Any] = {name: folded(record[name]) or None for name in _TEXTS}
    names = tokens(f"{fields['given_name'] or ''} {fields['surname'] or ''}")
    street = tokens(f"{fields['address_1'] or ''} {fields['address_2'] or ''} {fields['suburb'] or ''}")
    year, day = split_date(record["date_of_birth"])
    return fields | {
        "born": folded(record["date_of_birth"]) or None,
        "birth_year": year,
        "birthday": day,
        "insurance": folded(record["soc_sec_id"]) or None,
        "names": distinct(names),
        "sounds": distinct(sound(name) for name in names),
        "stubs": stubs(names),
        "street": distinct(word for word in street if len(word) > 2),
    }


ONE_FILE = Profile(
    name="febrl3",
    inputs=(*_TEXTS, "date_of_birth", "soc_sec_id"),
    columns={name: pa.string() for name in _TEXTS}
    | {"born": pa.string(), "birth_year": pa.int32(), "birthday": pa.string(), "insurance": pa.string()}
    | {name: pa.list_(pa.string()) for name in ("names", "sounds", "stubs", "street")},
    prepare=prepare,
    keys=(
        ("insurance",),
        ("born",),
        ("names", "postcode"),
        ("names", "birthday"),
        ("names", "birth_year"),
        ("names", "street"),
        ("names", "street_number"),
        ("sounds", "postcode"),
        ("sounds", "birth_year"),
        ("stubs", "street"),
        ("stubs", "postcode"),
        ("street", "postcode", "street_number"),
        ("street", "birth_year"),
        ("postcode", "birth_year"),
        ("birthday", "postcode"),
    ),
    key_limit=100,
    comparisons=(
        Comparison(
            "given_name",
            ("given_name",),
            (
                by.same("given_name"),
                by.listed("given_name", "names"),
                by.typos("given_name", 1),
                by.alike("given_name", 0.88),
                by.typos("given_name", 2, longer_than=4),
            ),
        ),
        Comparison(
            "surname",
            ("surname",),
            (
                by.same("surname"),
                by.listed("surname", "names"),
                by.typos("surname", 1),
                by.alike("surname", 0.88),
                by.typos("surname", 2, longer_than=4),
            ),
        ),
        Comparison("born", ("born",), (by.same("born"), by.typos("born", 1), by.typos("born", 2), by.within("birth_year", 1))),
        Comparison("insurance", ("insurance",), (by.same("insurance"), by.typos("insurance", 1), by.typos("insurance", 2))),
        Comparison(
            "address",
            ("address_1",),
            (by.same("address_1"), by.typos("address_1", 2), by.overlap("street")),
        ),
        Comparison("street_number", ("street_number",), (by.same("street_number"), by.typos("street_number", 1))),
        Comparison("postcode", ("postcode",), (by.same("postcode"), by.typos("postcode", 1))),
        Comparison("suburb", ("suburb",), (by.same("suburb"), by.typos("suburb", 2), by.listed("suburb", "street"))),
    ),
    training=Training(
        certain=(("insurance",), ("given_name", "surname", "born")),
        certain_recall=0.8,
        blocks=(("born",), ("postcode", "street_number"), ("insurance",)),
        sampled_pairs=1_000_000,
    ),
    threshold=0.5,
    cluster_threshold=0.5,
)

TWO_FILES = replace(ONE_FILE, name="febrl4", two_files=True)
