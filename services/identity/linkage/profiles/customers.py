"""The product's own records: what sources told of persons, in Chinese for the most part."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa

from services.identity.domain import addresses, names
from services.identity.linkage import comparisons as by
from services.identity.linkage.preparation import distinct, folded, split_date
from services.identity.linkage.profile import Comparison, Profile, Record, Training

# Pairs of sounds that whole regions do not tell apart.
_REGIONAL = (("zh", "z"), ("ch", "c"), ("sh", "s"), ("ng", "n"), ("l", "n"), ("hu", "f"))
_TWO_CHARACTERS = "欧阳 上官 司马 诸葛 东方 皇甫 尉迟 公孙 慕容 令狐 司徒 夏侯 端木 百里 南宫 长孙 宇文 轩辕"
_COMPOUND = frozenset(_TWO_CHARACTERS.split(" "))
_HOUSE = re.compile(r"^\D*\d+")


def prepare(record: Record) -> dict[str, Any]:
    """`mobiles` and `vehicles` are lists; a fragment of a number is as good as the number where a digit is wrong."""
    name = names.clean(record["name"] or "")
    chinese = bool(name) and "\u4e00" <= name[0] <= "\u9fff"
    length = (2 if name[:2] in _COMPOUND else 1) if chinese else 0
    sound = names.sound_key(name) if chinese else name
    mobiles = distinct(record["mobiles"] or ())
    address = addresses.normal(record["address"] or "")
    house = _HOUSE.match(address)
    year, day = split_date(record["birth_date"])
    return {
        "name": name or None,
        "sound": sound or None,
        "regional_sound": _regional(sound) or None,
        "family": _regional(names.sound_key(name[:length])) if length else None,
        "mobile": mobiles[0] if mobiles else None,
        "mobiles": mobiles,
        "mobile_parts": distinct(part for mobile in mobiles for part in _parts(mobile)),
        "address": address or None,
        "house": house[0] if house else None,
        "born": folded(record["birth_date"]) or None,
        "birth_year": year,
        "birthday": day,
        "vehicles": distinct(record["vehicles"] or ()),
    }


def _regional(sound: str) -> str:
    for one, other in _REGIONAL:
        sound = sound.replace(one, other)
    return sound


def _parts(mobile: str) -> list[str]:
    """Of 11 digits the first seven, the last eight, and both ends without the middle."""
    digits = mobile[-11:]
    return [f"^{digits[:7]}", f"{digits[-8:]}$", f"{digits[:3]}-{digits[-4:]}"] if len(digits) == 11 else []


PROFILE = Profile(
    name="customers",
    inputs=("name", "mobiles", "address", "birth_date", "vehicles"),
    columns={
        name: pa.string()
        for name in ("name", "sound", "regional_sound", "family", "mobile", "address", "house", "born", "birthday")
    }
    | {name: pa.list_(pa.string()) for name in ("mobiles", "mobile_parts", "vehicles")}
    | {"birth_year": pa.int32()},
    prepare=prepare,
    keys=(
        ("mobiles",),
        ("vehicles",),
        ("address",),
        ("sound",),
        ("regional_sound", "born"),
        ("regional_sound", "birth_year"),
        ("regional_sound", "birthday"),
        ("regional_sound", "house"),
        ("regional_sound", "mobile_parts"),
        ("family", "born"),
        ("family", "house"),
        ("family", "mobile_parts"),
        ("house", "born"),
        ("mobile_parts", "born"),
        ("mobile_parts", "house"),
    ),
    key_limit=50,
    comparisons=(
        Comparison(
            "name",
            ("name",),
            (
                by.same("name"),
                by.same("sound"),
                by.same("regional_sound"),
                by.typos("name", 1, longer_than=2),
                by.typos("regional_sound", 1, longer_than=4),
                by.same("family"),
            ),
        ),
        Comparison(
            "mobile",
            ("mobiles",),
            (by.overlap("mobiles"), by.typos("mobile", 1), by.overlap("mobile_parts"), by.typos("mobile", 2)),
        ),
        Comparison(
            "address",
            ("address",),
            (by.same("address"), by.typos("address", 2, longer_than=8), by.same("house"), by.alike("address", 0.85)),
        ),
        Comparison(
            "born",
            ("born",),
            (by.same("born"), by.typos("born", 1), by.same("birth_year", by_frequency=False), by.typos("born", 2)),
        ),
        Comparison("vehicle", ("vehicles",), (by.overlap("vehicles"),)),
    ),
    training=Training(
        certain=(("name", "born"), ("name", "mobile"), ("name", "address")),
        certain_recall=0.7,
        blocks=(("born",), ("mobile",), ("address",), ("name",)),
        sampled_pairs=2_000_000,
    ),
    threshold=0.5,
    cluster_threshold=0.5,
)
