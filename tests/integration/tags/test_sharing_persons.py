"""Consent, uses and points follow who is who: a merge adds up, and taken back it is as if it had never been."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from troika.tags.v1 import sharing_service_pb2 as pb

from chassis.db import Database
from services.identity.domain import consents as ledger
from services.identity.domain.consents import State
from services.tags.consents import NO_END, SHARING, Said, keep
from services.tags.domain.catalogue import Kind
from services.tags.sharing import consents, forgetting
from tests.integration.tags import world
from tests.integration.tags.sharing_house import House, consenting, open_house, people, refused, said, told
from tests.integration.tags.world import move

PERSON = Kind.PERSON
NOW_US = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp()) * 1_000_000


def statement(anchor: int, said_by: tuple[int, bool, bool, int]) -> ledger.Statement:
    stated, is_given, separate, ends = said_by
    kind = ledger.SEPARATE if separate else ledger.GENERAL
    return ledger.Statement(
        ledger.statement_id(f"{anchor} {said_by}".encode(), SHARING, ledger.ALL),
        anchor,
        SHARING,
        ledger.ALL,
        kind,
        is_given,
        NOW_US - stated,
        (NOW_US + ends) if is_given and ends else ledger.NEVER,
        void=ledger.void_reason(SHARING, ledger.ALL, kind, given=is_given),
    )


statements = st.lists(
    st.builds(
        statement,
        st.integers(1, 9),
        st.tuples(st.integers(0, 3), st.booleans(), st.booleans(), st.integers(-1, 1)),
    ),
    max_size=25,
)


@given(statements, st.lists(st.integers(1, 4), min_size=9, max_size=9), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_the_projection_answers_as_identitys_ledger_does(
    database: Database, made: list[ledger.Statement], owners: list[int], rnd: random.Random
) -> None:
    """Anchors 7 to 9 are known by what was said alone."""
    async with database.transaction() as uow:
        await uow.execute("TRUNCATE anchor, consent")
        for anchor, owner in enumerate(owners[:6], start=1):
            await uow.execute("INSERT INTO anchor VALUES (1, :anchor, :owner, 1, '{}')", anchor=anchor, owner=owner)
    person_of = dict(enumerate(owners, start=1))
    # Persons were others when they said it.
    facts = [
        Said(
            s.anchor_id,
            person_of[s.anchor_id] if s.anchor_id > 6 else 99,
            SHARING,
            s.channel,
            s.kind == ledger.SEPARATE,
            s.given,
            s.stated_us,
            s.expires_us or NO_END,
        )
        for s in made
    ] * 2
    rnd.shuffle(facts)
    for start in range(0, len(facts), 7):
        async with database.transaction() as uow:
            await keep(uow, facts[start : start + 7])
    expected = {
        person
        for person in set(owners[:6])
        if ledger.of_person([s for s in made if person_of[s.anchor_id] == person], SHARING, "app", NOW_US).state is State.GIVEN
    }
    async with database.read() as uow:
        found = await consents.agreed(uow, [1, 2, 3, 4], NOW_US)
    assert expected == {person for person, _ in found}
    assert {p: sorted(a for a, o in person_of.items() if o == p and a < 7) for p in expected} == {
        person: sorted(anchors) for person, anchors in found
    }


async def test_of_merged_persons_the_strictest_holds_and_apart_each_has_its_own(database: Database) -> None:
    await consenting(database, range(1, 11))
    await people(database, [11])
    await told(database, said(11, given=False))
    async with open_house(database) as house:
        share = await house.share()
        assert 10 == len((await house.read(share)).rows)
        await world.moved(database, move(PERSON, (11, 10, 2)))
        assert 9 == len((await house.read(share)).rows)
        await world.moved(database, move(PERSON, (11, 11, 3)))
        assert 10 == len((await house.read(share)).rows)


async def test_a_merge_taken_back_leaves_points_as_if_it_had_never_been(database: Database) -> None:
    await consenting(database, range(1, 13))
    async with open_house(database) as house:
        share = await house.share()
        await house.read(share)
        assert ([1], 3, 0) == await house.account(11)
        await world.moved(database, move(PERSON, (12, 11, 2)))
        # She was two, and there are two rows of her in the first use.
        assert ([1], 6, 0) == await house.account(11)
        read = await house.read(share)
        assert 11 == len(read.rows)
        assert ([2, 1], 9, 0) == await house.account(11)
        async with refused("NOT_FOUND", "PERSON_NOT_FOUND"):
            await house.account(12)
        await world.moved(database, move(PERSON, (12, 12, 3)))
        assert [([2, 1], 6, 0)] * 2 == [await house.account(n) for n in (11, 12)]
        await house.read(share)
        # As everybody else, who never was anybody else.
        assert [await house.account(1)] * 2 == [await house.account(n) for n in (11, 12)]
        assert [] == (await house.verify()).flaws


async def test_everybody_sees_who_used_what_when_and_for_which_purpose(database: Database) -> None:
    await consenting(database, range(1, 11))
    async with open_house(database) as house:
        shares = [await house.share(), await house.share("insurer", purpose="Tariffs", tags=["age"], points_per_use=5)]
        await house.read(shares[0])
        await house.read(shares[1], "insurer")
        newest = await house.operator.GetDataUse(pb.GetDataUseRequest(person_id=4, page_size=1))
        rest = await house.operator.GetDataUse(
            pb.GetDataUseRequest(person_id=4, page_size=1, page_token=newest.next_page_token)
        )
        assert [("insurer", "Tariffs", ["age"], 5), ("agency", "Study of mobility", ["job"], 3)] == [
            (use.recipient, use.purpose, list(use.tags), use.points) for use in (*newest.uses, *rest.uses)
        ]
        assert (8, 0) == (newest.points_earned, newest.points_spent)
        assert abs(newest.uses[0].used_at.ToDatetime(UTC) - datetime.now(UTC)).total_seconds() < 30


async def spend(house: House, person: int, points: int, op_id: str) -> tuple[int, bool]:
    asked = pb.SpendPointsRequest(person_id=person, points=points, reason="car wash", op_id=op_id)
    done = await house.operator.SpendPoints(asked)
    return done.balance, done.repeated_answer


async def test_points_are_spent_once_and_never_more_than_there_are(database: Database) -> None:
    await consenting(database, range(1, 11))
    async with open_house(database) as house:
        share = await house.share()
        for _ in range(2):
            await house.read(share)
        assert [(2, False), (2, True)] == [await spend(house, 1, 4, "a") for _ in range(2)]
        assert ([2, 1], 6, 4) == await house.account(1)
        async with refused("FAILED_PRECONDITION", "OP_ID_TAKEN"):
            await spend(house, 1, 3, "a")
        async with refused("FAILED_PRECONDITION", "OP_ID_TAKEN"):
            await spend(house, 2, 4, "a")
        async with refused("FAILED_PRECONDITION", "TOO_FEW_POINTS"):
            await spend(house, 1, 3, "b")
        assert (0, False) == await spend(house, 1, 2, "b")
        async with refused("NOT_FOUND", "PERSON_NOT_FOUND"):
            await spend(house, 99, 1, "c")
        uses = (await house.operator.GetDataUse(pb.GetDataUseRequest(person_id=1))).uses
        assert [(3, 3), (3, 3)] == [(use.points, use.points_spent) for use in uses]


async def test_those_who_spend_at_the_same_time_do_not_spend_the_same_points(database: Database) -> None:
    await consenting(database, range(1, 11))
    async with open_house(database) as house:
        share = await house.share(points_per_use=10)
        await house.read(share)

        async def attempt(number: int) -> bool:
            try:
                await spend(house, 1, 3, f"op {number % 6}")
            except Exception:
                return False
            return True

        # Six commands, each sent twice: three of them fit.
        done = await asyncio.gather(*(attempt(n) for n in range(12)))
        assert 6 == sum(done)
        assert ([1], 10, 9) == await house.account(1)


async def test_what_was_spent_while_merged_leaves_nobody_in_debt(database: Database) -> None:
    await consenting(database, range(1, 13))
    async with open_house(database) as house:
        share = await house.share()
        await house.read(share)
        await world.moved(database, move(PERSON, (12, 11, 2)))
        await house.read(share)
        assert (2, False) == await spend(house, 11, 7, "a")
        await world.moved(database, move(PERSON, (12, 12, 3)))
        accounts = [await house.account(n) for n in (11, 12)]
        assert all(0 <= spent <= earned == 6 for _, earned, spent in accounts)
        async with refused("FAILED_PRECONDITION", "TOO_FEW_POINTS"):
            await spend(house, 11, 4, "b")


async def test_erasing_a_person_that_was_merged_for_a_while_leaves_the_other(database: Database) -> None:
    await consenting(database, range(1, 13))
    async with open_house(database) as house:
        share = await house.share()
        await world.moved(database, move(PERSON, (12, 11, 2)))
        await house.read(share)
        await world.moved(database, move(PERSON, (12, 12, 3)))
        await world.changed(database, world.erasure(12, 12))
        assert ([1], 3, 0) == await house.account(11)
        async with database.read() as uow:
            [row] = await uow.rows("SELECT line FROM data_use_inclusion WHERE anchor_id = 0")
        # Not even that she was once one with somebody.
        assert 0 == row.line
        assert [] == (await house.verify()).flaws


@pytest.mark.parametrize("times", [1, 2])
async def test_forgetting_may_be_repeated(database: Database, times: int) -> None:
    await consenting(database, range(1, 11))
    async with open_house(database) as house:
        await house.read(await house.share())
        for _ in range(times):
            async with database.transaction() as uow:
                await forgetting.forget(uow, [1, 2])
        assert [] == (await house.verify()).flaws
