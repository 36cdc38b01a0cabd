"""Consent in planning: the projection answers as identity's ledger does, and plans obey it."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
from troika.identity.v1 import events_pb2 as identity_pb2
from troika.orchestrator.v1 import orchestrator_service_pb2 as pb

from chassis.consents import DEFAULT_REGIMES, OPT_OUT, regime, uses
from chassis.testing import DatabaseFactory
from services.identity.domain import consents as ledger
from services.identity.domain.consents import State
from services.orchestrator.domain.channels import CONSENT_BITS
from services.orchestrator.store.consents import NO_END, ConsentStore, Statement
from services.orchestrator.store.projections import ProjectionStore
from tests.integration.orchestrator.conftest import open_house
from tests.integration.orchestrator.world import People

ENTITIES = "troika.entities.changed.v1"
EVERYBODY = pb.Budget(max_contacts=1000, max_calls=1000, unit_cost_fen={"app": 1})
NOW = datetime(2026, 3, 1, 8, tzinfo=UTC)
NOW_US = int(NOW.timestamp()) * 1_000_000
PERSONS = 400
REGIMES = dict(DEFAULT_REGIMES) | {"service": "opt_in", "dealer_sharing": "separate"}


def ledger_of(draw: random.Random, person: int) -> list[ledger.Statement]:
    """A few statements through up to three anchors of a person, close together so that they meet."""
    made = []
    for number in range(draw.randint(0, 6)):
        purpose, given = draw.choice(["marketing", "service", "dealer_sharing", "location"]), draw.random() < 0.6
        channel, kind = draw.choice(["app", "wechat", "dealer", "all", "sms"]), draw.choice(ledger.KINDS)
        made.append(
            ledger.Statement(
                ledger.statement_id(f"{person} {number}".encode(), purpose, channel),
                person * 10 + draw.randrange(3),
                purpose,
                channel,
                kind,
                given,
                NOW_US - draw.randint(1, 4),
                draw.choice([ledger.NEVER, NOW_US, NOW_US + 1]) if given else ledger.NEVER,
                void=ledger.void_reason(purpose, channel, kind, given=given),
            )
        )
    return made


def expected(statements: list[ledger.Statement], purpose: str) -> int:
    """The channels that the ledger's own algebra closes."""
    mask = 0
    for channel, bit in CONSENT_BITS.items():
        for use in uses(purpose, channel):
            state = ledger.of_person(statements, use, channel, NOW_US).state
            if state is State.WITHDRAWN or (regime(REGIMES, use, channel) != OPT_OUT and state is not State.GIVEN):
                mask |= bit
    return mask


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_the_projection_answers_as_the_ledger_does(databases: DatabaseFactory, seed: int) -> None:
    draw = random.Random(seed)
    told = {person: ledger_of(draw, person) for person in range(1, PERSONS + 1)}
    # Every third anchor was somebody else's when the statement was made and has moved since.
    moves = [(anchor, anchor // 10, 5) for anchor in range(10, PERSONS * 10 + 10) if anchor % 3 == 0]
    facts = [
        Statement(
            s.anchor_id,
            99_999 if s.anchor_id % 3 == 0 else person,
            s.purpose,
            s.channel,
            s.kind == ledger.SEPARATE,
            s.given,
            s.stated_us,
            s.expires_us or NO_END,
        )
        for person, statements in told.items()
        for s in statements
    ]
    async with databases.database("orchestrator") as database:
        for _ in range(2):
            draw.shuffle(facts)
            for start in range(0, len(facts), 211):
                async with database.transaction() as uow:
                    await ConsentStore(uow).keep(facts[start : start + 211])
            async with database.transaction() as uow:
                await ProjectionStore(uow).move_anchors(moves)
        async with database.read() as uow:
            for purpose in ("marketing", "service", "location"):
                found = await ConsentStore(uow).forbidden(purpose, CONSENT_BITS, REGIMES, NOW)
                masks = dict(zip(found.persons.tolist(), found.masks.tolist(), strict=True))
                wanted = {person: expected(said, purpose) for person, said in told.items()}
                assert len(set(wanted.values())) > 1
                assert wanted == {person: masks.get(person, found.others) for person in told}


def said(person: int, purpose: str, channel: str, *, given: bool, ends: datetime | None = None) -> identity_pb2.ConsentChange:
    return identity_pb2.ConsentChange(
        anchor_id=person,
        person_id=person,
        purpose=purpose,
        channel=channel,
        opted_out=not given,
        stated_at_us=100,
        kind=identity_pb2.CONSENT_KIND_SEPARATE,
        expires_at_us=int(ends.timestamp()) * 1_000_000 if ends else 0,
    )


async def test_nobody_is_planned_who_has_not_agreed_where_agreement_is_needed(databases: DatabaseFactory) -> None:
    regimes = {"service": "opt_out", "marketing": "opt_in", "dealer_sharing": "opt_out"}
    async with open_house(databases, People(), consent_regimes=regimes) as house:
        now = datetime.now(UTC)
        changes = [said(person, "marketing", "app", given=True, ends=now + timedelta(hours=1)) for person in range(1, 100)]
        changes += [said(person, "marketing", "app", given=True, ends=now - timedelta(hours=1)) for person in range(100, 200)]
        changes += [said(person, "marketing", "all", given=False) for person in range(50, 60)]
        await house.hear(ENTITIES, identity_pb2.EntitiesChanged(consent_changes=changes))
        name = await house.launch(budget=EVERYBODY, holdout_share=0.0, purpose="marketing")
        pushed = {push.person_id for push in await house.pushes()}
        assert pushed
        assert pushed <= set(range(1, 100)) - set(range(50, 60))
        outcomes = {d.person_id: d.outcome for d in await house.decisions(name)}
        # 201 has a channel or none; either way nobody may be asked without consent.
        assert {"opted_out"} == {outcomes[person] for person in (51, 101, 201) if person in outcomes}
        explained = await house.call.ExplainDecision(pb.ExplainDecisionRequest(name=name, person_id=51))
        assert "consent: closes everything" == explained.reasons[0]
        before = len(await house.pushes())
        await house.launch(budget=EVERYBODY, holdout_share=0.0)
        assert len(await house.pushes()) > before


async def test_what_erased_persons_said_is_forgotten(databases: DatabaseFactory) -> None:
    async with open_house(databases, People()) as house:
        erasure = identity_pb2.Erasure(erasure_id=1, person_id=7, anchor_ids=[7])
        said_by = [said(person, "marketing", "app", given=False) for person in (7, 8)]
        await house.hear(ENTITIES, identity_pb2.EntitiesChanged(consent_changes=said_by, erasures=[erasure]))
        assert [8] == [row.anchor_id for row in await house.rows("SELECT anchor_id FROM consent")]


async def test_who_forbids_sharing_with_dealers_gets_no_lead(databases: DatabaseFactory) -> None:
    async with open_house(databases, People()) as house:
        changes = [said(person, "dealer_sharing", "all", given=False) for person in range(1, 1001)]
        await house.hear(ENTITIES, identity_pb2.EntitiesChanged(consent_changes=changes))
        await house.launch(budget=EVERYBODY, holdout_share=0.0)
        assert {"app", "wechat"} == {push.channel for push in await house.pushes()}
