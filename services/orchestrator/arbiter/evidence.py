"""What the house itself knows of the persons of a chunk: who they are now, what they allow, what they got, where they stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chassis.consents import ALL_CHANNELS, OPT_OUT, PERSONALISATION
from chassis.db import UnitOfWork
from chassis.moments import to_us
from chassis.quiet_hours import spans
from services.orchestrator.arbiter import caps
from services.orchestrator.arbiter.asking import Asked
from services.orchestrator.arbiter.deciding import ANY_SIDE, KEPT_OUT_SIDE, PUSH, PUSHED_SIDE, Candidates
from services.orchestrator.arbiter.house import House
from services.orchestrator.arbiter.humans import Members, humans, lookup
from services.orchestrator.arbiter.store import ArbiterStore
from services.orchestrator.domain.channels import CHANNELS, CONSENT_BITS
from services.orchestrator.store.consents import ConsentStore
from services.orchestrator.themes.definitions import Choice, Exclusion
from services.orchestrator.themes.states import Theme, ThemeState

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Evidence:
    """The proposals that are decided on, and what is known of their persons."""

    asked: Asked
    people: Candidates


async def read(uow: UnitOfWork, house: House, theme: Theme, asked: Asked, now: datetime, *, once: bool) -> Evidence:
    """Reads it by index. Erased persons are left out, and of a human who is asked for twice all but the first.

    `once`: nobody will be asked for again, so that the others stay, as merged.
    """
    store, stated, now_us = ArbiterStore(uow), theme.definition, to_us(now)
    erased = await store.erased(asked.person_id.tolist())
    if len(erased):
        # An audience may have been read before tags had heard of it.
        asked = asked.take(~np.isin(asked.person_id, erased))
    families = await store.families(asked.person_id.tolist())
    human, twice = humans(asked.person_id, families)
    if not once and twice.any():
        asked, human, twice = asked.take(~twice), human[~twice], twice[~twice]
    members = Members.of(asked.person_id, families, twice)
    names: list[int] = members.person_id.tolist()
    forbidden = await ConsentStore(uow).forbidden(
        stated.purpose, CONSENT_BITS, house.settings.consent_regimes, now, among=names
    )
    opted_out = np.zeros(len(asked.person_id), np.int64)
    np.bitwise_or.at(opted_out, members.row, lookup(members.person_id, forbidden.persons, forbidden.masks, forbidden.others))
    group = await store.group(stated.exclusion.group, theme.theme_id) if stated.exclusion else {}
    pushed = await store.pushed(names, now - _back(house, stated.exclusion, group.values()))
    to = members.rows_of([row["person_id"] for row in pushed])
    at_us = np.array([row["at_us"] for row in pushed], np.int64)
    codes = np.array([CHANNELS.index(row["channel"]) for row in pushed], np.int64)
    opens_us, counted = caps.opens(house.settings.push_caps, caps.Pushed(to, codes, at_us), len(human), now_us)
    side, merged = await _before(store, theme, asked, members)
    outranked = await store.outranked(asked.person_id.tolist(), await store.higher(ThemeState.RUNNING, stated.priority), now)
    clocks = spans(house.quiet, [*asked.zones, ""], now)
    people = Candidates(
        asked.person_id,
        human,
        asked.score,
        asked.probability,
        asked.channels,
        opted_out.astype(np.uint8),
        opens_us,
        counted,
        _excluded_us(stated.exclusion, group, pushed, to, at_us, len(human)),
        np.array([to_us(until) if until else 0 for until, _ in clocks], np.int64)[asked.zone],
        np.array([*asked.dealers, ""], object)[asked.dealer].tolist(),
        asked.offers,
        asked.wanted,
        side,
        merged | twice,
        asked.left,
        np.isin(asked.person_id, outranked),
        asked.ends_us,
        asked.words,
        await _personal(uow, names, members, now, len(human))
        if stated.choice is Choice.LEARNT
        else np.ones(len(human), np.bool_),
    )
    return Evidence(asked, people)


async def _personal(uow: UnitOfWork, names: Sequence[int], members: Members, now: datetime, rows: int) -> Flags:
    """Who has not switched personalisation off under any of her names."""
    regimes = {PERSONALISATION: OPT_OUT}
    off = await ConsentStore(uow).forbidden(PERSONALISATION, {ALL_CHANNELS: 1}, regimes, now, among=names)
    personal = np.ones(rows, np.bool_)
    personal[members.row[np.isin(members.person_id, off.persons[off.masks != 0])]] = False
    return personal


def _back(house: House, exclusion: Exclusion | None, others: Sequence[int] | Any) -> timedelta:
    """How far back pushes matter."""
    days = max([exclusion.cool_down_days, *others]) if exclusion else 0
    return timedelta(microseconds=max(caps.longest_us(house.settings.push_caps), days * caps.DAY_US))


def _excluded_us(exclusion: Exclusion | None, group: Any, pushed: Sequence[Any], to: Ints, at_us: Ints, rows: int) -> Ints:
    """Until when pushes of other themes of the group keep each away: the longer one of the two cool-downs."""
    until = np.zeros(rows, np.int64)
    if exclusion and group:
        own = exclusion.cool_down_days
        days = np.array([max(own, group[row["theme_id"]]) if row["theme_id"] in group else 0 for row in pushed], np.int64)
        np.maximum.at(until, to, np.where(days > 0, at_us + days * caps.DAY_US, 0))
    return until


async def _before(store: ArbiterStore, theme: Theme, asked: Asked, members: Members) -> tuple[NDArray[np.int8], Flags]:
    """(on which side the theme had each human before, whether its launch decided on her under another name)."""
    rows = len(asked.person_id)
    side, merged = np.full(rows, ANY_SIDE, np.int8), np.zeros(rows, np.bool_)
    look = members.extended | (asked.occasion != 0)
    earlier = await store.earlier(theme.theme_id, members.person_id[look[members.row]].tolist())
    places = members.rows_of([row["person_id"] for row in earlier]).tolist()
    for row, place in zip(earlier, places, strict=True):
        if row["outcome"] != PUSH:
            side[place] = KEPT_OUT_SIDE
        elif side[place] == ANY_SIDE:
            side[place] = PUSHED_SIDE
        merged[place] |= row["occasion"] == 0 == asked.occasion[place] and row["person_id"] != asked.person_id[place]
    return side, merged
