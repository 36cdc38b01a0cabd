"""A chunk of proposals on its way through the arbiter: rules, what is left to spend, what is kept and what goes out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from chassis.db import UnitOfWork
from chassis.moments import from_us, to_us
from chassis.quiet_hours import zone_of
from services.orchestrator.arbiter import evidence, pacing, recording
from services.orchestrator.arbiter.asking import Asked
from services.orchestrator.arbiter.caps import ANY
from services.orchestrator.arbiter.deciding import (
    PUSH,
    UNLIMITED,
    Purse,
    Rules,
    Verdicts,
    decide,
    delivery_id,
    fallbacks,
    packed,
)
from services.orchestrator.arbiter.drawing import Learnt
from services.orchestrator.arbiter.evidence import Evidence
from services.orchestrator.arbiter.house import Deciding, House
from services.orchestrator.arbiter.store import ArbiterStore, Record
from services.orchestrator.domain.channels import ADVISORS, CALL_CENTER, CALL_LIST, CHANNELS, PERSONAL, WECOM, desk, mask_of
from services.orchestrator.events import Push
from services.orchestrator.offers import offer_log
from services.orchestrator.offers.stock import StockStore
from services.orchestrator.themes.definitions import Choice, Pacing

# What an offer may come back from.
_PASSING = ("", "OUT_OF_STOCK")


@dataclass(frozen=True)
class Judged:
    """What became of a chunk; the verdicts are aligned with the evidence."""

    evidence: Evidence
    verdicts: Verdicts


class Judge:
    """Decides for one theme, within a transaction that has the arbiter's turn, or in a snapshot to see what would be."""

    def __init__(self, uow: UnitOfWork, house: House, deciding: Deciding, now: datetime, foreseen: Purse | None = None) -> None:
        """`foreseen`: what is left of a purse of `foresee` when nothing is kept."""
        self._uow, self._house, self._deciding, self._now = uow, house, deciding, now
        self._store, self._theme = ArbiterStore(uow), deciding.theme
        self._today: date = now.astimezone(house.zone).date()
        self._foreseen = foreseen
        # What was learnt of the offers, where that chooses among them.
        self._learnt: Learnt | None = None
        # Codes of channels that do not work, and of those that take so many pushes and no more.
        self._failing: frozenset[int] = frozenset()
        self._counted: frozenset[int] = frozenset()

    async def look(self, asked: Asked, *, once: bool) -> tuple[Evidence, Purse]:
        """All that a decision rests on; see evidence.read for who is left out."""
        known = await evidence.read(self._uow, self._house, self._theme, asked, self._now, once=once)
        if self._theme.definition.choice is Choice.LEARNT:
            self._learnt = await recording.learnt(
                self._uow, self._deciding, asked.content, self._now, self._house, keeping=self._foreseen is None
            )
        told = await self._store.conditions()
        conditions = {CHANNELS.index(name): condition for name, condition in told.items() if name in CHANNELS}
        self._failing = frozenset(code for code, (failing, _) in conditions.items() if failing)
        left = {code: pushes for code, (_, pushes) in conditions.items() if pushes is not None}
        self._counted = frozenset(left)
        if self._foreseen is None:
            purse = await self._purse()
            purse.quotas = [left.get(code, UNLIMITED) for code in range(len(CHANNELS))]
        else:
            purse = self._foreseen
        theirs, settings = {CHANNELS.index(name) for name in self._theme.definition.channels}, self._house.settings
        desks = {CALL_CENTER} if CALL_LIST in theirs else set()
        if WECOM in theirs:
            desks.add(ADVISORS)
        dealers = sorted((set(known.people.dealer) | desks) - {"", *purse.dealers})
        for code, (ranks, today, most) in (await self._store.dealers(dealers, self._theme.theme_id, self._today)).items():
            usual = settings.call_center_calls_per_day if code == CALL_CENTER else settings.dealer_calls_per_day
            free = (usual if most is None else most) - today
            purse.ranks[code], purse.dealers[code] = ranks, free if self._foreseen is None else UNLIMITED
        return known, purse

    def judge(self, known: Evidence, purse: Purse) -> Judged:
        """Decides, and spends from the purse."""
        return Judged(known, decide(known.people, self._rules(), purse, to_us(self._now)))

    async def foresee(self) -> Purse:
        """What is left in all, as if it could be spent today: days move pushes, they do not end them."""
        purse = await self._purse(keeping=False)
        purse.contacts_today, purse.calls_today, purse.cost_today = purse.contacts, purse.calls, purse.cost
        return purse

    async def _purse(self, *, keeping: bool = True) -> Purse:
        stated = self._theme.definition
        spent, budget, days = await self._store.spent(self._theme.theme_id, self._today), stated.budget, None
        if budget.pacing is Pacing.EVEN and stated.schedule.ends_at is not None:
            days = pacing.days_left(self._today, stated.schedule.ends_at, self._house.zone)
        contacts, calls, cost = (
            pacing.today_left(most, spent[f"{name}_before"], spent[f"{name}_today"], days)
            for name, most in (
                ("contacts", budget.max_contacts),
                ("calls", budget.max_calls),
                ("cost", UNLIMITED if budget.max_cost_fen is None else budget.max_cost_fen),
            )
        )
        stock = await self._store.stock(self._deciding.offer_ids, self._now, keeping=keeping)
        return Purse(
            *contacts,
            *calls,
            *cost,
            to_us(pacing.next_day(self._now, self._house.zone)),
            spent["contacts_before"] + spent["contacts_today"],
            stock=[stock.get(offer, UNLIMITED) for offer in self._deciding.offer_ids],
        )

    def _rules(self) -> Rules:
        stated, settings = self._theme.definition, self._house.settings
        offered = zip(self._deciding.offers, self._deciding.words, strict=True)
        return Rules(
            stated.purpose,
            # What does not work comes last: it is tried where nothing else is open.
            tuple(
                (band.from_score, tuple(sorted(map(CHANNELS.index, band.channels), key=self._failing.__contains__)))
                for band in stated.bands
            ),
            bool(stated.model),
            stated.goal.value_fen,
            tuple(stated.budget.unit_cost_fen.get(channel, 0) for channel in CHANNELS),
            tuple(
                sum(1 << code for code in words) if offer.unavailable(self._now) in _PASSING else 0 for offer, words in offered
            ),
            stated.holdout_share,
            self._theme.salt,
            settings.global_holdout_share,
            settings.global_holdout_salt,
            self._learnt,
        )

    def records(self, judged: Judged) -> list[Record]:
        """Rows of `decision`, aligned with the verdicts."""
        theme, ids, said = self._theme, self._deciding.offer_ids, judged.verdicts
        asked, people = judged.evidence.asked, judged.evidence.people
        ends, wanted = asked.ends_us.tolist(), asked.wanted.tolist()
        failing = sum(1 << code for code in self._failing)
        moments = {us: from_us(us) for us in {*said.due_us, *ends}}
        persons, occasions = asked.person_id.tolist(), asked.occasion.tolist()
        columns = zip(
            persons, occasions, said.outcome, said.reason, said.due_us, ends, wanted, said.offer, said.channel,
            people.score.tolist(), people.probability.tolist(), said.value, said.cost_fen, said.position, said.call_rank,
            people.channels.tolist(), people.opted_out.tolist(), _closed(judged, self._now).tolist(), people.pushes.tolist(),
            people.dealer, np.array([*asked.zones, ""], object)[asked.zone].tolist(), strict=True,
        )  # fmt: skip
        return [
            (
                theme.theme_id, person, occasion, theme.version, outcome, reason, moments[due] if due else None, moments[end],
                ids[asked_for] if asked_for >= 0 else None, ids[offer] if offer >= 0 else None,
                CHANNELS[channel] if channel >= 0 else "", score, probability, value, cost, position, rank, channels, opted_out,
                closed, failing, recent, dealer, zone,
                delivery_id(theme.salt, person, occasion) if outcome == PUSH else None, self._now,
            )
            for (
                person, occasion, outcome, reason, due, end, asked_for, offer, channel, score, probability, value, cost,
                position, rank, channels, opted_out, closed, recent, dealer, zone,
            ) in columns
        ]  # fmt: skip

    def pushes(self, judged: Judged, records: Sequence[Record]) -> list[Push]:
        """What goes out, the most valuable first."""
        said, people = judged.verdicts, judged.evidence.people
        stated, name, now_us = self._theme.definition, self._theme.name, to_us(self._now)
        last_us = now_us + round(self._house.settings.push_lifetime_hours * 3_600_000_000)
        settings = self._house.settings
        caps = tuple((name if name != ANY else "", most, days) for name, (most, days) in settings.push_caps.items())
        zones = np.array([*judged.evidence.asked.zones, ""], object)[judged.evidence.asked.zone].tolist()
        open_ = (people.channels & ~people.opted_out & ~_closed(judged, self._now)).tolist()
        masks = {band.channels: mask_of(band.channels) for band in stated.bands}
        alike: dict[tuple[int, int, int], tuple[str, ...]] = {}
        pushed = [row for row, outcome in enumerate(said.outcome) if outcome == PUSH]
        found: list[Push] = []
        for row in sorted(pushed, key=said.position.__getitem__):
            channel, offer, score = said.channel[row], said.offer[row], float(people.score[row])
            words = self._deciding.words[offer]
            key = channel, offer, open_[row] & masks[stated.band(score).channels]
            if key not in alike:
                alike[key] = tuple(CHANNELS[other] for other in fallbacks(channel, key[2], words))
            called = channel in PERSONAL
            found.append(
                Push(
                    records[row][-2],
                    name,
                    records[row][1],
                    CHANNELS[channel],
                    words[channel],
                    score,
                    said.call_rank[row],
                    _reasons(score, said.call_rank[row]) if called else (),
                    alike[key],
                    people.dealer[row] if called else "",
                    now_us,
                    last_us,
                    # For calls, too: where the dealer cannot be told it goes to the person, and not in her night.
                    settings.quiet_hours,
                    _clock(zones[row]) or settings.time_zone,
                    caps,
                )
            )
        return found

    async def keep(self, judged: Judged, records: Sequence[Record], *, anew: bool) -> None:
        """Stores decisions (`anew`: there was no proposal before), and counts what they spend."""
        if not records:
            return
        said, theme = judged.verdicts, self._theme
        await (self._store.add(records) if anew else self._store.settle(records))
        dealers = zip(judged.evidence.people.dealer, said.channel, strict=True)
        calls = Counter(desk(channel, dealer) for dealer, channel in dealers if channel in PERSONAL)
        contacts = sum(position > 0 for position in said.position)
        await self._store.spend(theme.theme_id, self._today, contacts, calls.total(), sum(said.cost_fen))
        await self._store.call(theme.theme_id, self._today, calls)
        await self._store.give(Counter(CHANNELS[channel] for channel in said.channel if channel in self._counted))
        if self._learnt is not None:
            people = judged.evidence.people
            drawn = recording.decisions(self._learnt, self._deciding, people, said, records, self._now)
            if drawn:
                await offer_log.add(self._uow, drawn)
        limited = [offer.definition.stock is not None for offer in self._deciding.offers]
        ids = self._deciding.offer_ids
        holds = [(ids[o], records[row][-2]) for row, o in enumerate(said.offer) if o >= 0 and limited[o]]
        if holds:
            lifetime = timedelta(hours=self._house.settings.push_lifetime_hours, days=theme.definition.goal.window_days)
            if refused := [verdict for verdict in await StockStore(self._uow).reserve(holds, lifetime) if verdict]:
                raise RuntimeError(f"pieces that were counted are refused: {refused[0]}")


def _closed(judged: Judged, now: datetime) -> NDArray[np.uint8]:
    """Channels that caps close."""
    return packed(judged.evidence.people.opens_us > to_us(now))


def _clock(zone: str) -> str:
    """The zone, if it is one."""
    return zone if zone_of(zone) else ""


def _reasons(score: float, call_rank: int) -> tuple[str, ...]:
    """What whoever speaks to the person may be told; other channels have nobody to tell."""
    place = f"place {call_rank} of these calls"
    return (f"score {score:.0f} of 1000", place) if score >= 0 else (place,)
