"""Who may be told apart: whatever the order in which statements and moves come, and however often."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chassis.consents import OPT_IN, OPT_OUT
from chassis.db import Database
from chassis.testing import DatabaseFactory
from services.scoring import consents, store
from services.scoring.consents import NO_END, Move, Said

PERSONS = np.arange(1, 5)
AT_US = 100
AT = datetime.fromtimestamp(AT_US / 1e6, UTC)

Fact = Said | Move


@dataclass(frozen=True)
class Life:
    """Facts in the order in which they happened, and a stream of batches that bears each at least once."""

    facts: list[Fact]
    stream: list[list[Fact]]


@st.composite
def lives(draw: st.DrawFn) -> Life:
    owners = {anchor: (anchor, 0) for anchor in (1, 2, 3)}
    facts: list[Fact] = []
    for _ in range(draw(st.integers(1, 10))):
        anchor = draw(st.sampled_from(sorted(owners)))
        if draw(st.booleans()):
            owners[anchor] = draw(st.sampled_from(PERSONS.tolist())), owners[anchor][1] + 1
            facts.append(Move(anchor, *owners[anchor]))
        else:
            given = draw(st.booleans())
            ends = draw(st.sampled_from((50, 150, NO_END))) if given else NO_END
            # Few moments, so that some fall together.
            facts.append(Said(anchor, owners[anchor][0], given, draw(st.integers(1, 4)), ends))
    again = draw(st.lists(st.sampled_from(facts), max_size=4))
    order = draw(st.permutations(facts + again))
    cuts = sorted(draw(st.lists(st.integers(0, len(order)), max_size=4)))
    parts = [order[start:end] for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True)]
    return Life(facts, parts)


def expected(facts: Sequence[Fact], regime: str) -> list[bool]:
    """By going through all that was said, person by person."""
    silent = []
    for person in PERSONS.tolist():
        forbidden = allowed = False
        for anchor in (1, 2, 3):
            moves = [fact for fact in facts if isinstance(fact, Move) and fact.anchor_id == anchor]
            owner = moves[-1].person_id if moves else anchor
            said = [fact for fact in facts if isinstance(fact, Said) and fact.anchor_id == anchor]
            if owner != person or not said:
                continue
            newest = max(each.stated_us for each in said)
            last = [each for each in said if each.stated_us == newest]
            if any(not each.given for each in last):
                forbidden = True
            elif min(each.expires_us for each in last) > AT_US:
                allowed = True
        silent.append(forbidden if regime == OPT_OUT else forbidden or not allowed)
    return silent


@pytest.fixture
async def database(databases: DatabaseFactory) -> AsyncIterator[Database]:
    async with databases.database("scoring") as database:
        yield database


async def answers(database: Database) -> list[list[bool]]:
    async with database.read() as uow:
        return [(await consents.silent(uow, PERSONS, regime, AT)).tolist() for regime in (OPT_OUT, OPT_IN)]


async def keep(database: Database, facts: Sequence[Fact]) -> list[int]:
    async with database.transaction() as uow:
        said = [fact for fact in facts if isinstance(fact, Said)]
        return await consents.keep(uow, said, [fact for fact in facts if isinstance(fact, Move)])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lives())
async def test_neither_order_nor_repetition_changes_who_is_silent(database: Database, life: Life) -> None:
    async with database.transaction() as uow:
        await uow.execute("TRUNCATE consent, anchor_owner")
    before = await answers(database)
    for part in life.stream:
        concerned = await keep(database, part)
        after = await answers(database)
        differing = {
            person
            for was, now in zip(before, after, strict=True)
            for person, one, other in zip(PERSONS.tolist(), was, now, strict=True)
            if one != other
        }
        assert differing <= set(concerned)
        before = after
    assert [expected(life.facts, regime) for regime in (OPT_OUT, OPT_IN)] == before


async def test_what_an_erased_person_said_stays_forgotten_and_who_has_the_anchor_next_is_heard(database: Database) -> None:
    async with database.transaction() as uow:
        await store.erase(uow, [1])
        await consents.forget(uow, {10: 5})
    # Late: of the person, of whoever she was before a merge, and of an anchor that was hers.
    for late in (Said(10, 1, False, 3, NO_END, 4), Said(10, 2, False, 3, NO_END, 4), Move(10, 1, 9)):
        assert [] == await keep(database, [late])
    assert [4] == await keep(database, [Said(10, 4, False, 2, NO_END, 6)])
    assert [False, False, False, True] == (await answers(database))[0]
    async with database.read() as uow:
        assert [] == await uow.rows("SELECT 1 FROM anchor_owner")


async def test_the_end_of_a_grant_is_told_once(database: Database) -> None:
    await keep(database, [Said(10, 1, True, 3, AT_US, 1), Said(11, 2, True, 3, NO_END, 1), Said(12, 3, True, 3, AT_US + 1, 1)])
    for told in ([1], []):
        async with database.transaction() as uow:
            assert told == await consents.lapse(uow, AT)
    assert [True, False, False, True] == (await answers(database))[1]
    # Given once more, and ended once more.
    await keep(database, [Said(10, 1, True, 4, AT_US, 1)])
    async with database.transaction() as uow:
        assert [1] == await consents.lapse(uow, AT)
