"""Reasons as a salesperson reads them: in Chinese with the title that the catalogue gives a tag, else by its description."""

from __future__ import annotations

import numpy as np
from troika.tags.v1.tags_service_pb2 import TAG_TYPE_BOOLEAN, TAG_TYPE_TIME

from services.scoring.frame import Encoding, Kind
from services.scoring.tag_door import PersonTag

_YES_NO = {"yes": "是", "no": "否"}


def value_of(encoding: Encoding, code: float, tag: PersonTag | None) -> str:
    """A value as words: times as days ago, yes-no tags as yes or no."""
    if np.isnan(code) or tag is None or encoding.feature.kind is Kind.CATEGORY:
        return encoding.in_words(code)
    if tag.type == TAG_TYPE_TIME:
        return f"{code:.0f} days ago"
    if tag.type == TAG_TYPE_BOOLEAN:
        return "yes" if code else "no"
    return encoding.in_words(code)


def sentence(name: str, value: str, points: float, tag: PersonTag | None) -> str:
    """The tag, its value, and what that does to the score."""
    if tag is not None and tag.title:
        if tag.type == TAG_TYPE_TIME:
            value = value.replace(" days ago", "天前")
        elif tag.type == TAG_TYPE_BOOLEAN:
            value = _YES_NO.get(value, value)
        return f"{tag.title}:{value}({points:+.0f}分)".translate(_WIDE)
    what = tag.description.rstrip(".") if tag is not None and tag.description else name.replace("_", " ")
    return f"{what}: {value} ({points:+.0f})"


# Chinese text has its own marks; they are kept out of the code, where they are easily mistaken for others.
_WIDE = str.maketrans({":": "\uff1a", "(": "\uff08", ")": "\uff09"})
