"""One function per command and question. Peers are asked outside of transactions: no session waits for another room."""

from __future__ import annotations

from dataclasses import dataclass

from chassis.db import Database
from chassis.errors import FailedPrecondition, NotFound
from services.orchestrator.domain.explaining import Decision, explain
from services.orchestrator.domain.reporting import Report, fold
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
