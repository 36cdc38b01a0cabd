"""A plain deterministic resolver, to show that the overlay can be resolved by what stands on its records alone.

It knows nothing of the truth. Rules: the same id card, unionid or e-mail is the same person; the same mobile or VIN is the same
person if the names sound alike; a mobile under many names is a dealer's; a nameless record goes with the mobile's leading name.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
from pypinyin import Style, lazy_pinyin

from local.overlay.identifiers import PLACEHOLDER_MOBILES, vin_check_digit

MOST_NAMES_ON_A_MOBILE = 4
NOT_NAMES = {"测试", "无", "未知", "测试客户", "客户"}


@cache
def sound(char: str) -> str:
    return lazy_pinyin(char, style=Style.NORMAL)[0]


def clean_name(text: str | None) -> str | None:
    name = "".join((text or "").split())
    return None if not name or name in NOT_NAMES else " ".join(map(sound, name))


def clean_mobile(text: str | None) -> str | None:
    digits = "".join(c for c in unicodedata.normalize("NFKC", text or "") if c.isdigit())
    digits = digits.removeprefix("00").removeprefix("86") if len(digits) > 11 else digits
    return digits if len(digits) == 11 and digits[0] == "1" and int(digits) not in PLACEHOLDER_MOBILES else None


def clean_vin(text: str | None) -> str | None:
    vin = "".join((text or "").split()).upper()
    return vin if len(vin) == 17 and vin[8] == vin_check_digit(vin) else None


def keys(records: Iterable[dict[str, Any]]) -> list[set[tuple[str, ...]]]:
    """Link keys of each record."""
    found: list[set[tuple[str, ...]]] = []
    names_on: defaultdict[str, Counter[str]] = defaultdict(Counter)
    cleaned = []
    for record in records:
        ids = record.get("identifiers", {})
        name, mobile = clean_name(ids.get("name")), clean_mobile(ids.get("mobile"))
        if mobile and name:
            names_on[mobile][name] += 1
        found.append({(kind, ids[kind]) for kind in ("id_card", "unionid", "email") if kind in ids})
        cleaned.append((name, mobile, clean_vin(record.get("vehicle", {}).get("vin"))))
    for own, (name, mobile, vin) in zip(found, cleaned, strict=True):
        if vin and name:
            own.add(("vin", vin, name))
        if mobile and len(names_on[mobile]) <= MOST_NAMES_ON_A_MOBILE:
            leading = names_on[mobile].most_common(1)
            own.add(("mobile", mobile, name or (leading[0][0] if leading else "")))
    return found


def resolve(records: Iterable[dict[str, Any]]) -> np.ndarray:
    """Cluster number of each record."""
    found = keys(records)
    parent = list(range(len(found)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    first_with: dict[tuple[str, ...], int] = {}
    for row, own in enumerate(found):
        for key in own:
            parent[root(row)] = root(first_with.setdefault(key, row))
    return np.array([root(row) for row in range(len(found))])


def pairwise(clusters: np.ndarray, persons: np.ndarray) -> tuple[float, float]:
    """Precision and recall over pairs of records."""

    def pairs(*labels: np.ndarray) -> int:
        counts = np.unique(np.stack(labels), axis=1, return_counts=True)[1]
        return int((counts * (counts - 1) // 2).sum())

    both = pairs(clusters, persons)
    return both / max(1, pairs(clusters)), both / max(1, pairs(persons))
