"""One function per command and question. Peers are asked outside of transactions: no session waits for another room."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chassis.db import Database
from chassis.errors import FailedPrecondition, NotFound
from services.orchestrator import planning
from services.orchestrator.domain import suggesting
from services.orchestrator.domain.explaining import Decision, explain
from services.orchestrator.domain.reporting import Report, fold
from services.orchestrator.domain.suggesting import Term
from services.orchestrator.domain.themes import PersonId, ThemeId
from services.orchestrator.peers import Scoring, Tags
from services.orchestrator.settings import Settings
from services.orchestrator.store.decisions import DecisionStore
from services.orchestrator.themes.states import found
from services.orchestrator.themes.store import ThemeStore


@dataclass(frozen=True)
class Room:
    """What the handlers work with."""

    database: Database
    tags: Tags
    scoring: Scoring
    settings: Settings


@dataclass(frozen=True)
class Suggestion:
    """A proposed audience; responses are mean probabilities of those who have a score."""

    audience: str
    terms: tuple[Term, ...]
    size: int
    expected_response: float
    eligible_size: int
    eligible_expected_response: float


async def suggest_audience(
    room: Room, *, responders: str, asked: str, eligible: str, excluded_tags: Sequence[str], model: str
) -> Suggestion:
    """Finds the few tag values that hold most of the expected responses among the eligible."""
    await room.tags.count(responders, "responders")
    await room.tags.count(asked, "asked")
    persons = await room.tags.person_ids(eligible, "eligible")
    _, probability = await room.scoring.scores(model, persons, "model")
    leaks = suggesting.leaking(await room.tags.expressions(), {*excluded_tags, *room.settings.score_tags}, [responders, asked])
    described = await room.tags.describe(f"({asked}) AND ({responders})", asked, "responders")
    terms = suggesting.significant(described, leaks)
    membership = np.zeros((len(terms), len(persons)), np.bool_)
    for row, term in zip(membership, terms, strict=True):
        having = await room.tags.person_ids(suggesting.combine(eligible, [term.predicate]), "eligible")
        row[:] = np.isin(persons, having, assume_unique=True)
    keep_share = room.settings.suggest_keep_share
    kept = await asyncio.to_thread(suggesting.cover, membership, np.maximum(probability, 0), keep_share)
    inside = membership[kept].any(axis=0) if kept else np.ones(len(persons), np.bool_)
    audience = suggesting.combine(eligible, [terms[row].predicate for row in kept])
    return Suggestion(
        audience,
        tuple(terms[row] for row in kept),
        await room.tags.count(audience, "eligible"),
        _mean_of_scored(probability[inside]),
        len(persons),
        _mean_of_scored(probability),
    )


def _mean_of_scored(probability: planning.Floats) -> float:
    scored = probability[probability >= 0]
    return float(scored.mean()) if len(scored) else 0.0


async def theme_report(room: Room, theme_id: ThemeId) -> Report:
    """What came of a theme so far."""
    async with room.database.read() as uow:
        theme = found(await ThemeStore(uow).in_force(theme_id), theme_id)
        return fold(await DecisionStore(uow).cells(theme_id), theme.definition.budget.unit_cost_fen)


async def list_decisions(room: Room, theme_id: ThemeId, after: int, size: int) -> list[Decision]:
    """Up to `size` decisions about persons with ids above `after`, ascending."""
    async with room.database.read() as uow:
        found(await ThemeStore(uow).in_force(theme_id), theme_id)
        return await DecisionStore(uow).page(theme_id, after, size)


async def explain_decision(room: Room, theme_id: ThemeId, person_id: PersonId) -> tuple[Decision, list[str]]:
    """A decision and the rules behind it; raises FailedPrecondition before launch, NotFound for people outside."""
    async with room.database.read() as uow:
        theme = found(await ThemeStore(uow).in_force(theme_id), theme_id)
        stored = await DecisionStore(uow).get(theme_id, person_id)
    if stored is None and (theme.launched_at is None or theme.launching):
        raise FailedPrecondition(f"{theme.name} has not decided yet", reason="THEME_NOT_LAUNCHED", field="name")
    if stored is None:
        raise NotFound(f"{theme.name} had no decision to make about this person", reason="NO_DECISION", field="person_id")
    decision, frequency_cap = stored
    return decision, explain(decision, theme.definition, frequency_cap)
