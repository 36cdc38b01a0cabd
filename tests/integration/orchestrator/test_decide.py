"""Decide behind its door: what may be shown, the log, feedback in any order, what is learnt, merges, erasure."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import grpc
import numpy as np
import orjson
import pytest
from troika.identity.v1 import events_pb2 as identity_pb2
from troika.orchestrator.v1 import decide_service_pb2 as pb

from chassis.rpc import reason_of
from chassis.testing import DatabaseFactory
from services.orchestrator.offers import offer_log, permissions
from services.orchestrator.offers.definitions import Variant
from services.orchestrator.offers.offer_log import FAILED, SUCCEEDED, UNLEARNT, WAITING, sums_since
from services.orchestrator.store.consents import ConsentStore, Statement
from services.orchestrator.store.erasures import ErasureStore, Tombstone
from services.orchestrator.themes.definitions import Filling
from tests.conftest import Servers
from tests.integration.orchestrator.showroom import Showroom, open_showroom


@pytest.fixture
async def room(databases: DatabaseFactory) -> AsyncIterator[Showroom]:
    async with open_showroom(databases) as room:
        yield room


def consent(person: int, purpose: str, channel: str = "all", opted_out: bool = True, **more: Any) -> identity_pb2.ConsentChange:
    stated: dict[str, Any] = {
        "person_id": person,
        "anchor_id": person + 10_000,
        "purpose": purpose,
        "channel": channel,
        "opted_out": opted_out,
        "stated_at_us": time.time_ns() // 1000,
    }
    return identity_pb2.ConsentChange(**(stated | more))


def event(person: int, decision: str, name: str = "Offer Clicked", **properties: Any) -> identity_pb2.ResolvedEvent:
    return identity_pb2.ResolvedEvent(
        event_id=bytes(16),
        name=name,
        occurred_at_us=time.time_ns() // 1000,
        person=identity_pb2.AnchorOwner(anchor_id=person + 10_000, entity_id=person, version=1),
        properties_json=orjson.dumps({"decision": decision, **properties}),
    )


async def test_a_decision_shows_an_offer_says_its_chance_and_is_durable(room: Showroom) -> None:
    offers = {await room.offer() for _ in range(4)}
    await room.look()
    answer = await room.decide()
    assert answer.offer in offers
    assert ("drawn", 0.25, "Hello", "Come by", 1) == (
        answer.why, pytest.approx(answer.propensity), answer.title, answer.body, answer.offer_version
    )  # fmt: skip
    [row] = await room.rows("SELECT * FROM offer_decision")
    assert (answer.decision.removeprefix("decisions/"), 1, WAITING) == (row.decision_id.hex(), row.person_id, row.state)
    assert timedelta(minutes=60) == row.due_at - row.decided_at
    # Who fills a slot on a channel that does not work is told so, and may prefer another slot.
    assert not answer.channel_failing
    async with room.database.transaction() as uow:
        await uow.execute("INSERT INTO channel_health (channel, failing, reason, at) VALUES ('app', true, 'calls_fail', now())")
    await room.look()
    assert [True, False] == [(await room.decide(channel=channel)).channel_failing for channel in ("app", "web")]


async def test_decisions_go_on_when_the_server_closes_their_connections(room: Showroom, servers: Servers) -> None:
    offer = await room.offer()
    await room.look()
    assert offer == (await room.decide()).offer
    [(name,)] = await room.rows("SELECT current_database()")
    root = await asyncpg.connect(servers.postgres_dsn)
    await root.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    await root.close()
    # The caller's channel asks again when it is told that something is down.
    assert offer == (await room.decide()).offer
    assert 2 == (await room.rows("SELECT count(*) FROM offer_decision"))[0][0]


async def test_nothing_is_decided_before_the_catalogue_is_read(room: Showroom) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await room.call.Decide(pb.DecideRequest(person_id=1, slot="home", channel="app", language="en"), timeout=0.5)
    assert error.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


async def test_eligibility_is_the_audience_as_tags_has_it(room: Showroom) -> None:
    students = await room.offer(audience="job = 'student'")
    services = await room.offer(audience="job = 'services'")
    await room.look()
    jobs = dict(room.people.table.execute("SELECT id, job FROM person").fetchall())
    for person in range(1, 60):
        answer = await room.decide(person)
        expected = {"student": students, "services": services}.get(jobs[person], "")
        assert expected == answer.offer
        assert ("none" if not expected else "drawn") == answer.why
        assert answer.audience_age_s < 60
    # Nobody known is in no audience.
    assert "" == (await room.decide(0)).offer


async def test_rules_of_the_slot_come_first_but_show_nothing_that_cannot_be_shown(room: Showroom) -> None:
    first, second, third, out = [await room.offer() for _ in range(3)] + [await room.offer(stock=0)]
    await room.rules(pinned=[out, second], excluded=[first])
    await room.look()
    answer = await room.decide()
    assert (second, "pinned", 1.0) == (answer.offer, answer.why, answer.propensity)
    assert {first, second, third} >= {(await room.decide(slot="other")).offer for _ in range(20)}
    await room.rules(ordered=[third, second])
    await room.look()
    answer = await room.decide()
    assert (third, "ordered") == (answer.offer, answer.why)


async def test_the_same_request_gives_the_same_decision_and_another_one_is_refused(room: Showroom) -> None:
    for _ in range(5):
        await room.offer()
    await room.look()
    answers = await asyncio.gather(*(room.decide(request_id="r1") for _ in range(20)))
    answers.append(await room.decide(request_id="r1"))
    assert 1 == len({(a.decision, a.offer, a.propensity) for a in answers})
    assert 1 == (await room.rows("SELECT count(*) FROM offer_decision"))[0][0]
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await room.decide(2, request_id="r1")
    assert ("REQUEST_ID_REUSED", "request_id") == reason_of(error.value)
    # In a batch each stands for itself: what is refused has no decision, the others have theirs.
    asked = [
        pb.DecideRequest(person_id=person, slot="home", channel="app", language="en", request_id=key)
        for person, key in ((1, "r1"), (2, "r1"), (2, "r2"), (2, "r2"), (1, ""))
    ]
    batch = (await room.call.BatchDecide(pb.BatchDecideRequest(requests=asked))).answers
    assert (answers[0].decision, "") == (batch[0].decision, batch[1].decision)
    assert batch[2] == batch[3]
    assert 3 == len({a.decision for a in (batch[0], batch[2], batch[4])})
    # Another caller's keys are its own.
    other = await room.touchpoints.Decide(
        pb.DecideRequest(person_id=1, slot="home", channel="app", language="en", request_id="r1")
    )
    assert other.decision != answers[0].decision


async def test_marketing_needs_consent_on_that_channel_at_that_moment(room: Showroom) -> None:
    offer = await room.offer(purpose="marketing")
    await room.look()
    assert offer == (await room.decide()).offer
    # On the web it must have been given.
    assert "" == (await room.decide(channel="web")).offer
    await room.changed(consent_changes=[consent(1, "marketing", "all", opted_out=False)])
    assert offer == (await room.decide(channel="web")).offer
    assert "" == (await room.decide(0, channel="web")).offer
    await room.changed(consent_changes=[consent(1, "marketing", "app")])
    assert "" == (await room.decide()).offer
    found = await room.call.ExplainOffer(pb.ExplainOfferRequest(decision=(await room.decide()).decision))
    assert [(offer, "NO_CONSENT")] == [(each.offer, each.reason) for each in found.left_out]


async def test_consent_of_one_person_is_what_planners_read_of_everybody(room: Showroom) -> None:
    rng, now = np.random.default_rng(4), datetime.now(UTC)
    now_us = int(now.timestamp() * 1e6)
    statements = [
        Statement(
            int(rng.integers(1, 40)), int(rng.integers(1, 20)), str(rng.choice(["marketing", "dealer_sharing"])),
            str(rng.choice(["all", "app", "web", "car", "dealer"])), bool(rng.random() < 0.5), bool(rng.random() < 0.6),
            int(now_us - rng.integers(1, 10)), int(now_us + rng.choice([-5, 10**9])),
        )
        for _ in range(60)
    ]  # fmt: skip
    # An anchor is one person's.
    statements = [s._replace(person_id=s.anchor_id % 19 + 1) for s in statements]
    channels = {"app": 1, "web": 2, "car": 4, "dealer": 8}
    regimes = room.decider.settings.consent_regimes
    async with room.database.transaction() as uow:
        for each in statements:
            await ConsentStore(uow).keep([each])
        await uow.execute("INSERT INTO anchor_owner VALUES (3, 19, 1), (5, 2, 1)")
        found = await ConsentStore(uow).forbidden("marketing", channels, regimes, now)
    masks = dict(zip(found.persons.tolist(), found.masks.tolist(), strict=True))
    everybody = list(range(1, 25))
    for person, known in zip(everybody, await permissions.ask(room.database, everybody, now, timedelta(days=7)), strict=True):
        for channel, bit in channels.items():
            expected = bool(masks.get(person, found.others) & bit)
            assert expected == known.closed("marketing", channel, regimes, now), (person, channel)


async def test_personalisation_off_is_neutral_and_teaches_nothing(room: Showroom) -> None:
    everybody = {await room.offer(content_tags=("student",)), await room.offer()}
    await room.offer(audience="job IS NOT NULL")
    await room.changed(consent_changes=[consent(1, "personalisation")])
    await room.look()
    answers = [await room.decide() for _ in range(16)]
    assert everybody == {a.offer for a in answers}
    assert {("neutral", 0.5)} == {(a.why, a.propensity) for a in answers}
    rows = await room.rows("SELECT DISTINCT words::text, matched, state FROM offer_decision")
    assert [("[]", 0.0, UNLEARNT)] == [tuple(row) for row in rows]
    explained = await room.call.ExplainOffer(pb.ExplainOfferRequest(decision=answers[0].decision))
    assert ["PERSONAL"] == [each.reason for each in explained.left_out]
    assert "personalisation is off" in explained.reasons[-1]


async def test_an_offer_is_shown_only_so_often(room: Showroom, databases: DatabaseFactory) -> None:
    async with open_showroom(databases, offer_cap=2) as capped:
        one = await capped.offer()
        await capped.look()
        assert [one, one, ""] == [(await capped.decide()).offer for _ in range(3)]
        # Who she was before she merged counts, too.
        merged = identity_pb2.ClusterChange(entity_kind=1, operation="merge", survivor_id=2, other_id=1, op_id=5)
        await capped.changed(cluster_changes=[merged])
        assert "" == (await capped.decide(2)).offer
        assert one == (await capped.decide(3)).offer


async def test_feedback_counts_within_its_window_whoever_tells_it_and_is_learnt_once(room: Showroom) -> None:
    for _ in range(3):
        await room.offer()
    await room.look()
    shown = [await room.decide(person) for person in range(1, 9)]
    assert "" == await room.feedback(shown[0].decision)
    assert "" == await room.feedback(shown[0].decision)
    assert "DECISION_NOT_FOUND" == await room.feedback("decisions/" + "0" * 32)
    at = datetime.now(UTC)
    assert "TOO_EARLY" == await room.feedback(shown[1].decision, time=at - timedelta(hours=1))
    assert "TOO_LATE" == await room.feedback(shown[1].decision, time=at + timedelta(hours=2))
    assert "" == await room.feedback(shown[1].decision, "opened")
    await room.hear(event(3, shown[2].decision), event(4, shown[3].decision, "Offer Answered", answer="yes"))
    await room.hear(event(5, shown[4].decision, "Offer Answered", answer="no"), event(7, shown[7].decision))
    assert not await room.learner.learn_once()
    assert {} == await sums_since(room.database, -1)
    await room.close_windows()
    await room.learner.learn_once()
    won = Counter(answer.offer for answer in (shown[0], shown[2], shown[3]))
    seen = Counter(answer.offer for answer in shown)
    for _ in range(2):
        sums = await sums_since(room.database, -1)
        assert dict(seen) == {f"offers/{i}": outer[0, 0] for i, (_, outer, _) in sums.items()}
        assert dict(won) == {f"offers/{i}": rewarded[0] for i, (_, _, rewarded) in sums.items() if rewarded[0]}
        await room.learner.learn_once()
    # Told by the bus after the window was counted, of a moment within it.
    async with room.database.transaction() as uow:
        await uow.execute("UPDATE offer_decision SET due_at = now() + interval '1 minute'")
    await room.hear(event(6, shown[5].decision))
    await room.learner.learn_once()
    sums = await sums_since(room.database, -1)
    assert 4 == sum(rewarded[0] for _, _, rewarded in sums.values())
    assert 8 == sum(outer[0, 0] for _, outer, _ in sums.values())
    states = {row.state for row in await room.rows("SELECT DISTINCT state FROM offer_decision")}
    assert {FAILED, SUCCEEDED} == states


async def test_what_was_learnt_reaches_the_next_decision(room: Showroom) -> None:
    good, poor = await room.offer(), await room.offer()
    await room.look()
    shown = await asyncio.gather(*(room.decide(person) for person in range(1, 401)))
    await asyncio.gather(*(room.feedback(a.decision) for n, a in enumerate(shown) if a.offer == good and n % 2))
    await room.close_windows()
    await room.learner.learn_once()
    await room.look()
    later = [await room.decide(person) for person in range(401, 441)]
    assert {good} == {a.offer for a in later if a.propensity > 0.5}
    assert min(a.propensity for a in later) >= 0.002
    assert later[0].policy_version != shown[0].policy_version
    assert poor not in {a.offer for a in later if a.propensity > 0.5}
    judged = await room.call.EvaluatePolicy(pb.EvaluatePolicyRequest(slot="home"))
    values = {each.policy: each.doubly_robust for each in judged.policies}
    assert {"uniform", "greedy", "best_fixed", "bandit"} == set(values)
    assert judged.decisions == 400
    assert values["greedy"].low > values["uniform"].high
    assert judged.logged.mean == pytest.approx(judged.successes / 400)


async def test_somebody_who_merged_may_answer_and_nobody_else(room: Showroom) -> None:
    await room.offer()
    await room.look()
    decision = (await room.decide(5)).decision
    await room.hear(event(6, decision))
    assert [(0,)] == [tuple(r) for r in await room.rows("SELECT outcomes FROM offer_decision")]
    merged = identity_pb2.ClusterChange(entity_kind=1, operation="merge", survivor_id=6, other_id=5, op_id=5)
    await room.changed(cluster_changes=[merged])
    await room.hear(event(6, decision))
    assert [(2,)] == [tuple(r) for r in await room.rows("SELECT outcomes FROM offer_decision")]


async def test_words_of_a_person_match_content_and_stay_in_the_log(room: Showroom) -> None:
    await room.offer(content_tags=("student", "A"))
    await room.look()
    table = room.people.table
    [(student,)] = table.execute("SELECT min(id) FROM person WHERE job = 'student' AND answer_class IS NULL").fetchall()
    explained = await room.call.ExplainOffer(pb.ExplainOfferRequest(decision=(await room.decide(student)).decision))
    assert ["student"] == list(explained.words)
    assert any("50% of this offer's" in reason for reason in explained.reasons)
    assert 1 == explained.candidates


async def test_who_is_erased_leaves_no_row_and_late_decisions_are_nobodys(room: Showroom) -> None:
    await room.offer()
    await room.look()
    await asyncio.gather(*(room.decide(person) for person in (1, 2)))
    await room.close_windows()
    await room.learner.learn_once()
    before = await sums_since(room.database, -1)
    await room.changed(erasures=[identity_pb2.Erasure(erasure_id=1, person_id=1, anchor_ids=[10_001])])
    assert [(2,)] == [tuple(r) for r in await room.rows("SELECT person_id FROM offer_decision")]
    after = await sums_since(room.database, -1)
    assert all((before[i][1] == after[i][1]).all() for i in before)
    await room.decide(1)
    assert [(0,), (2,)] == [tuple(r) for r in await room.rows("SELECT person_id FROM offer_decision ORDER BY 1")]


async def test_a_decision_that_an_erasure_overtakes_is_written_as_nobodys(room: Showroom) -> None:
    await room.offer()
    await room.look()
    await room.decide(3)
    [kept] = (await offer_log.kept(room.database, [(await room.rows("SELECT decision_id FROM offer_decision"))[0][0]])).values()
    late = [kept.decided._replace(decision_id=bytes([n]) * 16, person_id=n) for n in (3, 4)]
    async with room.database.transaction() as uow:
        # The erasure is under way: the writer waits for it and then knows of it.
        await ErasureStore(uow).erase([Tombstone(10_003, 3)])
        alone = room.database.pinned()
        writing = asyncio.create_task(offer_log.add(alone, late))
        await asyncio.sleep(0.3)
        assert not writing.done()
    assert {each.decision_id for each in late} == await writing
    await alone.close()
    assert [0, 4] == [row[0] for row in await room.rows("SELECT person_id FROM offer_decision ORDER BY 1")]


async def test_a_theme_keeps_its_holdout_out_of_its_offers(room: Showroom) -> None:
    offer = await room.offer()
    await room.running_theme(offer, holdout_share=0.5)
    await room.look()
    shown = {person: (await room.decide(person)).offer for person in range(1, 101)}
    assert 30 < sum(not each for each in shown.values()) < 70
    assert shown == {person: (await room.decide(person)).offer for person in range(1, 101)}


async def test_variables_in_words_are_filled_with_the_values_of_a_running_theme_or_the_words_are_not_shown(
    room: Showroom,
) -> None:
    words = Variant("app", "en", "{model: word} for {price: number}", "until {end: time}")
    offer, plain = await room.offer(variants=(words,)), await room.offer()
    await room.look()
    first = await room.decide(request_id="r1")
    assert (plain, "Come by") == (first.offer, first.body)
    told = await room.call.ExplainOffer(pb.ExplainOfferRequest(decision=first.decision))
    assert [(offer, "NO_VARIANT")] == [(each.offer, each.reason) for each in told.left_out]
    # A theme that says less cannot fill them, however much it is worth.
    await room.running_theme(offer, 0.0, 500, (Filling("model", word="X1"),))
    end = datetime(2026, 12, 31, 10, tzinfo=UTC)
    values = (
        Filling("model", word="X5"),
        Filling("price", number=650000.0),
        Filling("end", time=end),
        Filling("other", number=1.0),
    )
    await room.running_theme(offer, 0.0, 100, values)
    await room.rules(pinned=[offer])
    await room.look()
    filled = await room.decide(request_id="r2")
    assert (offer, "X5 for 650000", "until 2026-12-31 18:00") == (filled.offer, filled.title, filled.body)
    assert filled.title == (await room.decide(request_id="r2")).title
    # Once nothing fills them any more, a repeat shows nothing rather than braces.
    async with room.database.transaction() as uow:
        await uow.execute("UPDATE theme SET state = 6")
    await room.look()
    assert ("", "", plain) == (*(await again(room, "r2")), (await room.decide()).offer)


async def again(room: Showroom, request_id: str) -> tuple[str, str]:
    found = await room.decide(request_id=request_id)
    return found.offer, found.body


async def test_hot_questions_use_their_indexes(room: Showroom) -> None:
    await room.offer()
    await room.look()
    for statement, arguments, index in (
        (permissions._ASK, ([5], datetime.now(UTC)), "ix_offer_decision_person_id"),
        (permissions._ASK, ([5], datetime.now(UTC)), "ix_consent_person_id"),
        ("SELECT 1 FROM offer_decision WHERE state = 1 AND due_at <= now()", (), "ix_offer_decision_waiting"),
        ("SELECT 1 FROM offer_decision WHERE state = 2 AND rewarded_at IS NOT NULL", (), "ix_offer_decision_won_late"),
        ("SELECT 1 FROM offer_sums WHERE version > 1", (), "ix_offer_sums_version"),
    ):
        async with room.database.transaction() as uow:
            await uow.execute("SET LOCAL enable_seqscan = off")
            plan = "\n".join(row[0] for row in await uow.fetch(f"EXPLAIN {statement}", *arguments))
        assert index in plan, plan
