"""The shipped campaign as a frame of features."""

from __future__ import annotations

import numpy as np

from local.data.bank_marketing import Contacts
from services.scoring.frame import Column, Frame, Ids, Numbers, Words
from services.scoring.learning.cut import Cut


def cut_of(contacts: Contacts, rows: Ids) -> Cut:
    """These contacts and what they answered."""
    return Cut(frame_of(contacts, rows), np.array(contacts.answers)[rows].astype(np.int32))


def frame_of(contacts: Contacts, rows: Ids) -> Frame:
    """These contacts, numbered by row."""
    columns: dict[str, Column] = {}
    for tag, everybody in contacts.columns.items():
        values = [everybody[row] for row in rows]
        if not any(isinstance(value, str) for value in everybody):
            columns[tag] = Numbers(np.array([np.nan if v is None else float(v) for v in values]))
        else:
            words = tuple(sorted({str(v) for v in values if v is not None}))
            places = {word: place for place, word in enumerate(words)}
            columns[tag] = Words(np.array([places.get(str(v), -1) for v in values], np.int32), words)
    return Frame(np.asarray(rows, np.int64), columns)
