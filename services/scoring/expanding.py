"""Look-alikes over everybody: learns from seeds and a sample, then streams the base through the model and keeps the best.

Who has switched personalisation off is no seed, no example, and never in the answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from chassis.db import Database
from chassis.errors import FailedPrecondition, InvalidArgument
from services.scoring import consents
from services.scoring.cutting import usable
from services.scoring.domain import Floats, TrainingRefused, leaking_features
from services.scoring.frame import Frame, Ids, joined
from services.scoring.lookalike import BASE_SAMPLE, MIN_SEEDS, Likeness, LookalikeModel, choose_tags, learn, similarity
from services.scoring.lookalike.bits import split
from services.scoring.lookalike.choosing import MOST_TAGS, TagTerm
from services.scoring.lookalike.model import MOST_SEEDS, check
from services.scoring.sensitive import refuse_sensitive, sensitive_in
from services.scoring.tag_door import PersonTag, TagDoor

# Of seeds without a predicate so many are read with all tags, and so many others, to find out which tags tell them apart.
LOOKED_AT = (1_000, 3_000)
# Chunks that are scored while the next ones come.
AT_ONCE = 2
# So many of the list get their own reasons; those behind get what their values move on average.
EXACTLY_EXPLAINED = 1_000
# Of a difference between seeds and others, in standard errors: less may be chance when hundreds of values are compared.
SURE = 3.0
REASONS = 3


@dataclass(frozen=True)
class Asked:
    """See ExpandAudienceRequest."""

    seed_ids: tuple[int, ...]
    seed_predicate: str
    among: str
    limit: int
    tags: tuple[str, ...]


class Best:
    """The highest scores so far, and whose; of equal ones the smaller numbers."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._persons, self._scores = [np.empty(0, np.int64)], [np.empty(0)]
        self._held = 0

    def add(self, persons: Ids, scores: Floats) -> None:
        """Persons who were not added before."""
        self._persons.append(persons)
        self._scores.append(scores)
        self._held += len(persons)
        if self._held > 2 * self._limit + 100_000:
            self.ranked()

    def ranked(self) -> tuple[Ids, Floats]:
        """(persons, scores), the best first."""
        persons, scores = np.concatenate(self._persons), np.concatenate(self._scores)
        if len(scores) > self._limit:
            kept = scores >= np.partition(scores, len(scores) - self._limit)[len(scores) - self._limit]
            persons, scores = persons[kept], scores[kept]
        order = np.lexsort((persons, -scores))[: self._limit]
        self._persons, self._scores, self._held = [persons[order]], [scores[order]], len(order)
        return persons[order], scores[order]


class Expanded:
    """Persons, the most similar first, and what speaks for each."""

    def __init__(self, tags: TagDoor, model: LookalikeModel, persons: Ids, scores: Floats, at: datetime) -> None:
        self._tags, self._model, self._at = tags, model, at
        self.persons, self.similarities = persons, similarity(scores)

    @property
    def likenesses(self) -> Sequence[Likeness]:
        """What seeds have in common, the weightiest first."""
        return self._model.likenesses

    async def because(self, part: slice) -> Ids:
        """Persons of a part by three places in `likenesses`, -1 where there are fewer; who is gone by now has none."""
        persons = self.persons[part]
        found = np.full((len(persons), REASONS), -1, np.int64)
        frame = await self._tags.values_of(persons.tolist(), self._model.tags, self._at)
        if not len(frame):
            return found
        order = np.argsort(persons)
        places = order[np.searchsorted(persons[order], frame.persons)]
        exactly = places + (part.start or 0) < EXACTLY_EXPLAINED
        for rows, quickly in ((np.flatnonzero(exactly), False), (np.flatnonzero(~exactly), True)):
            if len(rows):
                found[places[rows]] = await asyncio.to_thread(self._model.reasons, frame.rows(rows), quickly=quickly)
        return found


async def expand(database: Database, tags: TagDoor, asked: Asked) -> Expanded:
    """Ranks everybody `among` who is no seed; raises InvalidArgument and FailedPrecondition."""
    at, random = datetime.now(UTC), np.random.default_rng(0)
    catalogue = await tags.catalogue()
    _check(asked, catalogue)
    seed_field = "seed_ids" if asked.seed_ids else "seed_predicate"
    for field, predicate in (("seed_predicate", asked.seed_predicate), ("among", asked.among)):
        if predicate:
            await tags.count(predicate, field)
    async with database.read() as uow:
        forbidden = await consents.forbidden(uow)
    everybody = await tags.audience("")
    base = await tags.audience(asked.among) if asked.among else everybody
    named = np.unique(np.array(asked.seed_ids, np.int64))
    if asked.seed_predicate:
        named = np.union1d(named, await tags.audience(asked.seed_predicate))
    seeds = np.setdiff1d(named[np.isin(named, everybody)], forbidden)
    others = np.setdiff1d(base, np.union1d(named, forbidden), assume_unique=True)
    if len(seeds) < MIN_SEEDS:
        said = f"{len(seeds)} seeds that may be compared, at least {MIN_SEEDS} are needed"
        raise InvalidArgument(said, reason="TOO_FEW_SEEDS", field=seed_field)
    try:
        check(len(seeds), len(others))
        names = await _chosen(tags, asked, catalogue, seeds, others, at)
        taught = await tags.values_of(_some(seeds, MOST_SEEDS, random).tolist(), names, at)
        sample = await tags.values_of(_some(others, BASE_SAMPLE, random).tolist(), names, at)
        model = await asyncio.to_thread(learn, taught, sample, len(others))
    except TrainingRefused as refusal:
        if refusal.reason in ("TOO_FEW_SEEDS", "SEEDS_ARE_EVERYBODY"):
            field = seed_field if refusal.reason == "TOO_FEW_SEEDS" else "among"
            raise InvalidArgument(refusal.detail, reason=refusal.reason, field=field) from refusal
        raise FailedPrecondition(refusal.detail, reason=refusal.reason, field="tags") from refusal
    best = await _best(tags, asked, model, others, at)
    return Expanded(tags, model, *best.ranked(), at)


def _check(asked: Asked, catalogue: Mapping[str, PersonTag]) -> None:
    if not asked.seed_ids and not asked.seed_predicate:
        raise InvalidArgument("name seeds, or a predicate for them", reason="REQUIRED", field="seed_ids")
    for name in asked.tags:
        tag = catalogue.get(name)
        if tag is None:
            raise InvalidArgument(f"unknown tag {name}", reason="UNKNOWN_TAG", field="tags")
        refuse_sensitive("tags", f'"{name}"', catalogue)
        if not tag.learnable:
            raise InvalidArgument(f"{name} cannot be compared", reason="TAG_NOT_COMPARABLE", field="tags")


async def _chosen(
    tags: TagDoor, asked: Asked, catalogue: Mapping[str, PersonTag], seeds: Ids, others: Ids, at: datetime
) -> list[str]:
    """The tags to compare: those that tell seeds from others best, of all, or of those that were named where they are many."""
    if 0 < len(asked.tags) <= MOST_TAGS:
        return list(asked.tags)
    allowed = list(asked.tags) or [name for name in usable(catalogue) if not sensitive_in([f'"{name}"'], catalogue)]
    if not asked.tags and asked.seed_predicate:
        # Tags that the predicate reads say again who is a seed, and nothing of who is like one.
        allowed = sorted(set(allowed) - _read_by(asked.seed_predicate, catalogue))
        terms = await tags.described(asked.seed_predicate, asked.among)
        if chosen := choose_tags([term for term in terms if term.tag in allowed]):
            return chosen
    if not allowed:
        raise TrainingRefused("NO_TAGS", "there are no tags that may be compared")
    random = np.random.default_rng(0)
    taught = await tags.values_of(_some(seeds, LOOKED_AT[0], random).tolist(), allowed, at)
    sample = await tags.values_of(_some(others, LOOKED_AT[1], random).tolist(), allowed, at)
    return choose_tags(_terms(taught, sample)) or allowed[:MOST_TAGS]


def _terms(seeds: Frame, sample: Frame) -> list[TagTerm]:
    """What an audience description would say, for seeds that no predicate describes."""
    terms = []
    for tag, column in joined([seeds, sample]).columns.items():
        splitting = split(tag, column)
        if splitting is None:
            continue
        inside = np.bincount(splitting.codes(seeds.columns[tag]), minlength=splitting.size)
        outside = np.bincount(splitting.codes(sample.columns[tag]), minlength=splitting.size)
        share, usual = inside / len(seeds), (outside + 1) / (len(sample) + splitting.size)
        surely = share - usual > SURE * np.sqrt(usual * (1 - usual) / len(seeds))
        terms += [
            TagTerm(tag, float(share[code]), float(share[code] / usual[code]), bool(surely[code]))
            for code in range(splitting.size)
        ]
    return terms


def _read_by(predicate: str, catalogue: Mapping[str, PersonTag]) -> set[str]:
    """Tags that a predicate names, directly or through business tags, and business tags that read any of those."""
    business = {name.lower(): tag.expression for name, tag in catalogue.items() if tag.expression}
    read = leaking_features([predicate], business, catalogue)
    return {*read, *(name for name, expression in business.items() if leaking_features([expression], business, read))}


async def _best(tags: TagDoor, asked: Asked, model: LookalikeModel, others: Ids, at: datetime) -> Best:
    """Everybody who is no seed through the model, chunk by chunk, two at a time: NumPy lets go of the interpreter's lock."""
    best, running = Best(asked.limit), deque[asyncio.Task[tuple[Ids, Floats]]]()
    try:
        async for chunk in tags.values(asked.among, model.tags, at):
            running.append(asyncio.create_task(asyncio.to_thread(_scored, model, chunk, others)))
            if len(running) > AT_ONCE:
                best.add(*await running.popleft())
        while running:
            best.add(*await running.popleft())
    finally:
        for task in running:
            task.cancel()
    return best


def _scored(model: LookalikeModel, chunk: Frame, others: Ids) -> tuple[Ids, Floats]:
    if not len(chunk):
        return chunk.persons, np.empty(0)
    # Both are ascending: who came since the question is not among the others and left out.
    inside = others[np.searchsorted(others, chunk.persons[0]) : np.searchsorted(others, chunk.persons[-1], "right")]
    meant = np.isin(chunk.persons, inside, assume_unique=True)
    kept = chunk if meant.all() else chunk.rows(meant)
    return kept.persons, model.score(kept)


def _some(of: Ids, most: int, random: np.random.Generator) -> Ids:
    return np.sort(random.choice(of, most, replace=False)) if len(of) > most else of
