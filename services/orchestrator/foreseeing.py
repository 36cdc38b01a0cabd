"""What a launch would decide now: the same passes over the same rules, nothing kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from chassis.moments import to_us
from services.orchestrator.arbiter.bits import Persons
from services.orchestrator.arbiter.deciding import PUSH, Purse
from services.orchestrator.arbiter.house import Deciding
from services.orchestrator.arbiter.judging import Judge
from services.orchestrator.arbiter.passing import Arbiter
from services.orchestrator.arbiter.store import clock_of
from services.orchestrator.domain.channels import CHANNELS
from services.orchestrator.handlers import Room
from services.orchestrator.launching import asked_about, chunks_of
from services.orchestrator.themes.checking import offers_for
from services.orchestrator.themes.states import Theme


@dataclass
class Foreseen:
    """Counts over an audience: who is in it, through what each can be reached, what became of them, and what pushes bring."""

    audience: int = 0
    reach: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    channels: Counter[str] = field(default_factory=Counter)
    responses: float = 0.0
    cost_fen: int = 0


async def foresee(room: Room, theme: Theme) -> Foreseen:
    """Decides for everybody, chunk by chunk, with one purse for all, in the day and hour that suit each."""
    arbiter = Arbiter(room.database, room.tags, room.scoring, room.settings)
    house = replace(arbiter.house, quiet=None)
    async with room.database.read() as uow:
        offers = await offers_for(uow, theme.definition, theme.offer_versions)
        deciding = Deciding.told(theme, offers, house)
        purse: Purse = await Judge(uow, house, deciding, await clock_of(uow)).foresee()
    ends_us = to_us(datetime.now(UTC) + timedelta(days=room.settings.launch_lifetime_days))
    seen = Foreseen()
    async for ranked in chunks_of(room, theme, Persons()):
        asked = await asked_about(arbiter.asking, theme, offers, ranked, ends_us)
        async with room.database.read() as uow:
            judge = Judge(uow, house, deciding, await clock_of(uow), foreseen=purse)
            known, purse = await judge.look(asked, once=True)
        judged = judge.judge(known, purse)
        said, people = judged.verdicts, judged.evidence.people
        seen.audience += len(people.person_id)
        for code, name in enumerate(CHANNELS):
            seen.reach[name] += int((people.channels >> np.uint8(code) & 1).sum())
        seen.outcomes.update(reason or outcome for outcome, reason in zip(said.outcome, said.reason, strict=True))
        seen.channels.update(CHANNELS[channel] for channel in said.channel if channel >= 0)
        pushed = np.array([outcome == PUSH for outcome in said.outcome], np.bool_)
        seen.responses += float(np.maximum(people.probability[pushed], 0).sum())
        seen.cost_fen += sum(said.cost_fen)
    return seen
