"""From a theme's predicate to one decision per person: ask the peers first, decide on our own state after."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chassis.db import UnitOfWork
from services.orchestrator.domain.deciding import (
    APP_BIT,
    CHANNEL_BITS,
    CHANNELS,
    DEALER_BIT,
    NO_CHANNEL_CODE,
    OUTCOMES,
    WECHAT_BIT,
    Candidates,
    Plan,
    Rules,
    decide,
    delivery_id,
)
from services.orchestrator.peers import Scoring, Tags
from services.orchestrator.store.consents import ConsentStore
from services.orchestrator.store.projections import ProjectionStore
from services.orchestrator.themes.definitions import ThemeDefinition
from services.orchestrator.themes.states import Theme

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Audience:
    """What the peers know of everybody a theme is for, as aligned columns; persons ascending and unique."""

    person_id: Ints
    score: Floats
    probability: Floats
    channels: NDArray[np.uint8]
    dealer_code: NDArray[np.str_]


async def gather(tags: Tags, scoring: Scoring, stated: ThemeDefinition) -> Audience:
    """Streams the audience with scores in chunks. No transaction may be open: this takes as long as the peers take."""
    persons, scores, probabilities = [np.empty(0, np.int64)], [np.empty(0)], [np.empty(0)]
    channels, dealers = [np.empty(0, np.uint8)], [np.empty(0, np.str_)]
    async for chunk in tags.reach(stated.audience, "theme.audience"):
        score = probability = np.zeros(len(chunk.person_id))
        if stated.model:
            score, probability = await scoring.scores(stated.model, chunk.person_id, "theme.model")
        persons.append(chunk.person_id)
        scores.append(score)
        probabilities.append(probability)
        bits = chunk.has_app * APP_BIT | chunk.has_wechat * WECHAT_BIT | (chunk.dealer != "") * DEALER_BIT
        channels.append(bits.astype(np.uint8))
        dealers.append(chunk.dealer)
    # A person moving between chunks while we stream must still be decided on once.
    unique, first = np.unique(np.concatenate(persons), return_index=True)
    return Audience(
        unique,
        np.concatenate(scores)[first],
        np.concatenate(probabilities)[first],
        np.concatenate(channels)[first],
        np.concatenate(dealers)[first],
    )


@dataclass(frozen=True)
class Decided:
    """An audience, what the orchestrator knows of it, and the decisions, all aligned."""

    audience: Audience
    candidates: Candidates
    plan: Plan


async def decide_for(
    uow: UnitOfWork,
    audience: Audience,
    theme: Theme,
    now: datetime,
    *,
    frequency_cap: int,
    window: timedelta,
    regimes: Mapping[str, str],
) -> Decided:
    """Decides for an audience with the consents and earlier pushes that this transaction sees."""
    projections = ProjectionStore(uow)
    forbidden = await ConsentStore(uow).forbidden(theme.definition.purpose, CHANNEL_BITS, regimes, now)
    opted_out = _lookup(audience.person_id, (forbidden.persons, forbidden.masks), forbidden.others)
    recent = _lookup(audience.person_id, await projections.pushed_since(now - window), 0)
    _, dealer = np.unique(audience.dealer_code, return_inverse=True)
    candidates = Candidates(
        audience.person_id,
        audience.score,
        audience.probability,
        audience.channels,
        np.where(audience.dealer_code == "", -1, dealer).astype(np.int32),
        opted_out.astype(np.uint8),
        recent.astype(np.int32),
    )
    stated = theme.definition
    rules = Rules(
        stated.budget.max_contacts,
        stated.budget.max_calls,
        tuple((band.from_score, tuple(map(CHANNELS.index, band.channels))) for band in stated.bands),
        stated.purpose,
        stated.holdout_share,
        frequency_cap,
        theme.salt,
    )
    # A thread: ranking a million people takes seconds that the doors must not wait for.
    return Decided(audience, candidates, await asyncio.to_thread(decide, candidates, rules))


def _lookup(persons: Ints, table: tuple[Ints, Ints], missing: int) -> Ints:
    """Values of `table` (persons ascending, values) for each person, `missing` where there is none."""
    keys, values = table
    if not len(keys):
        return np.full(len(persons), missing, np.int64)
    at = np.minimum(np.searchsorted(keys, persons), len(keys) - 1)
    return np.where(keys[at] == persons, values[at], missing)


def records(theme: Theme, decided: Decided, now: datetime) -> list[tuple[Any, ...]]:
    """Rows for `LaunchStore.keep_plan`."""
    people, plan = decided.candidates, decided.plan
    columns = zip(
        people.person_id.tolist(),
        plan.outcome.tolist(),
        plan.channel.tolist(),
        people.score.tolist(),
        people.probability.tolist(),
        plan.position.tolist(),
        plan.call_rank.tolist(),
        people.channels.tolist(),
        people.opted_out.tolist(),
        people.recent_pushes.tolist(),
        decided.audience.dealer_code.tolist(),
        strict=True,
    )
    return [
        (
            theme.theme_id,
            person,
            OUTCOMES[outcome],
            "" if channel == NO_CHANNEL_CODE else CHANNELS[channel],
            score,
            probability,
            position,
            call_rank,
            channels,
            opted_out,
            recent,
            dealer_code,
            None if channel == NO_CHANNEL_CODE else delivery_id(theme.salt, person),
            now,
        )
        for (
            person, outcome, channel, score, probability, position, call_rank, channels, opted_out, recent, dealer_code
        ) in columns
    ]  # fmt: skip
