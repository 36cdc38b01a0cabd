"""The shipped campaign as a frame of features."""

from __future__ import annotations

import numpy as np

from local.data.bank_marketing import Contacts
from services.scoring.frame import Column, Frame, Ids, Kind, Numbers, Words
from services.scoring.models.purchase_intent.features import FEATURES


def frame_of(contacts: Contacts, rows: Ids) -> Frame:
    """These contacts, numbered by row."""
    columns: dict[str, Column] = {}
    for feature in FEATURES:
        values = [contacts.columns[feature.tag][row] for row in rows]
        if feature.kind is Kind.NUMBER:
            columns[feature.tag] = Numbers(np.array([np.nan if v is None else float(v) for v in values]))
        else:
            words = tuple(sorted({str(v) for v in values if v is not None}))
            places = {word: place for place, word in enumerate(words)}
            columns[feature.tag] = Words(np.array([places.get(str(v), -1) for v in values], np.int32), words)
    return Frame(np.asarray(rows, np.int64), columns)
