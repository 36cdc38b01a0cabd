"""One function per command and question. Peers are asked outside of transactions: no session waits for another room."""

from __future__ import annotations

from dataclasses import dataclass

from chassis.db import Database
from chassis.errors import FailedPrecondition, NotFound
from services.orchestrator.domain.explaining import Decision, explain
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


async def list_decisions(room: Room, theme_id: ThemeId, after: tuple[int, int], size: int) -> list[Decision]:
    """Up to `size` decisions after a (person, occasion), in that order."""
    async with room.database.read() as uow:
        found(await ThemeStore(uow).in_force(theme_id), theme_id)
        return await DecisionStore(uow).page(theme_id, after, size)


async def explain_decision(room: Room, theme_id: ThemeId, person_id: PersonId, occasion: int) -> tuple[Decision, list[str]]:
    """A decision and the rules behind it; raises FailedPrecondition before launch, NotFound for people outside."""
    async with room.database.read() as uow:
        themes = ThemeStore(uow)
        theme = found(await themes.in_force(theme_id), theme_id)
        decision = await DecisionStore(uow).get(theme_id, person_id, occasion)
        decided_by = await themes.get(theme_id, decision.theme_version) if decision else None
    if decision is not None:
        return decision, explain(decision, (decided_by or theme).definition)
    if theme.launched_at is None or theme.launching:
        raise FailedPrecondition(f"{theme.name} has not decided yet", reason="THEME_NOT_LAUNCHED", field="name")
    raise NotFound(f"{theme.name} had no decision to make about this person", reason="NO_DECISION", field="person_id")
