"""The whole of it on a frame in memory; who streams calls `learn` and `LookalikeModel.score` herself."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.scoring.domain import Floats
from services.scoring.frame import Frame, Ids
from services.scoring.lookalike.likenesses import MOST_REASONS, Likeness
from services.scoring.lookalike.model import BASE_SAMPLE, LookalikeModel, check, learn, similarity

CHUNK = 20_000
# NumPy lets go of the interpreter's lock in all that takes long here.
THREADS = 2
# So many of the list get their own reasons; those behind get what their values move on average.
EXACTLY_EXPLAINED = 1_000


@dataclass(frozen=True)
class Expansion:
    """Persons who are no seeds, the most similar first: ids, similarities (0 to 1), three places in `likenesses` each."""

    order: Ids
    similarities: Floats
    reasons: Ids
    likenesses: tuple[Likeness, ...]
    model: LookalikeModel


def expand(
    frame: Frame,
    is_seed: NDArray[np.bool_],
    progress: Callable[[float], None] = lambda share: None,
    limit: int | None = None,
) -> Expansion:
    """Ranks everybody who is no seed; `limit` keeps the best. Equal scores are ordered by id."""
    seeds, others = np.flatnonzero(is_seed), np.flatnonzero(~is_seed)
    check(len(seeds), len(others))
    sample = others
    if len(others) > BASE_SAMPLE:
        sample = np.sort(np.random.default_rng(0).choice(others, BASE_SAMPLE, replace=False))
    model = learn(frame.rows(seeds), frame.rows(sample), len(others), lambda share: progress(0.4 * share))
    scores = np.empty(len(frame))

    def score(start: int) -> None:
        scores[start : start + CHUNK] = model.score(frame.rows(slice(start, start + CHUNK)))

    starts = range(0, len(frame), CHUNK)
    with ThreadPoolExecutor(THREADS) as pool:
        for number, _ in enumerate(pool.map(score, starts)):
            progress(0.4 + 0.5 * (number + 1) / len(starts))
    ranked = best(scores[others], frame.persons[others], limit)
    rows = others[ranked]
    exactly = model.reasons(frame.rows(rows[:EXACTLY_EXPLAINED])) if len(rows) else np.empty((0, MOST_REASONS), np.int64)
    behind = [
        model.reasons(frame.rows(rows[start : start + CHUNK]), quickly=True)
        for start in range(EXACTLY_EXPLAINED, len(rows), CHUNK)
    ]
    progress(1.0)
    reasons = np.concatenate([exactly, *behind])
    return Expansion(frame.persons[rows], similarity(scores[rows]), reasons, model.likenesses, model)


def best(scores: Floats, persons: Ids, limit: int | None = None) -> Ids:
    """Places of the highest scores, falling; equal ones by id."""
    rows = np.arange(len(scores))
    if limit is not None and limit < len(scores):
        rows = np.flatnonzero(scores >= np.partition(scores, len(scores) - limit)[len(scores) - limit])
    return rows[np.lexsort((persons[rows], -scores[rows]))][:limit]
