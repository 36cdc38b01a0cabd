"""Small made-up cuts with a known truth."""

from __future__ import annotations

import numpy as np

from services.scoring.domain import Floats
from services.scoring.frame import Column, Frame, Ids, Numbers, Words
from services.scoring.learning.cut import Cut


def cut_of_people(
    rows: int = 3000, seed: int = 0, moments: Ids | None = None, strength: float = 1.0, **more: Floats
) -> tuple[Cut, Floats]:
    """(people of whom age, income and job decide, with unknowns and a column that says nothing; their true log-odds)."""
    random = np.random.default_rng(seed)
    age, income = random.uniform(18, 80, rows), random.lognormal(8, 1, rows)
    job = random.integers(-1, 3, rows).astype(np.int32)
    truth = strength * (np.abs(age - 50) / 15 + 0.5 * np.log(income / 3000) + np.array([0.0, 0.7, -0.7, 0.2])[job]) - 2.0
    labels = (random.random(rows) < 1 / (1 + np.exp(-truth))).astype(np.int32)
    columns: dict[str, Column] = {
        "age": Numbers(np.where(random.random(rows) < 0.1, np.nan, age)),
        "income": Numbers(income),
        "job": Words(job, ("clerk", "nurse", "smith")),
        "shoe": Numbers(random.normal(size=rows)),
    }
    columns |= {tag: Numbers(values) for tag, values in more.items()}
    frame = Frame(np.arange(rows, dtype=np.int64), columns)
    return Cut(frame, labels, moments=np.empty(0, np.int64) if moments is None else moments), truth
