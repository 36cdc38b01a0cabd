"""The arbiter on a real database: each rule, deferrals that are decided anew, and themes that stop."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from troika.identity.v1 import events_pb2 as identity_pb2
from troika.touchpoints.v1 import events_pb2 as touchpoints_pb2

from chassis.testing import DatabaseFactory
from services.orchestrator.arbiter.store import ArbiterStore
from services.orchestrator.domain.explaining import explain
from services.orchestrator.offers import judging
from services.orchestrator.offers.choosing import WHYS
from services.orchestrator.offers.definitions import Variant
from services.orchestrator.offers.learning import Learner
from services.orchestrator.store.decisions import DecisionStore
from services.orchestrator.themes.definitions import Band, Choice, Exclusion, Goal, Pacing, Schedule
from services.orchestrator.themes.states import ThemeState
from services.orchestrator.themes.store import ThemeStore
from tests.integration.orchestrator.court import EVERYBODY, MORNING, Court, court
from tests.integration.orchestrator.world import People

DAY = timedelta(days=1)


@pytest.fixture
async def bench(databases: DatabaseFactory) -> AsyncIterator[Court]:
    async with court(databases, People(200, seed=4), MORNING) as opened:
        yield opened


async def test_a_launch_decides_on_everybody_once(bench: Court) -> None:
    theme = await bench.launch(chunk=37, holdout_share=0.2)
    words = await bench.words(theme)
    assert set(range(1, 201)) == set(words)
    counted = Counter(words.values())
    assert {"push", "holdout", "no_score", "no_channel"} == set(counted)
    assert 15 < counted["holdout"] < 60
    pushes = await bench.pushes()
    assert sorted(person for person, word in words.items() if word == "push") == sorted(p.person_id for p in pushes)
    assert len(pushes) == len({push.delivery_id for push in pushes})
    spent = (await bench.rows("SELECT * FROM spending"))[0]
    assert (counted["push"] + counted["holdout"], sum({"app": 1, "wechat": 2, "dealer": 500}[p.channel] for p in pushes)) == (
        spent.contacts,
        spent.cost_fen,
    )


async def test_proposals_are_decided_once_each_and_repeats_change_nothing(bench: Court) -> None:
    theme = await bench.theme()
    for _ in range(2):
        await bench.propose(theme, range(1, 50))
        await bench.propose(theme, range(1, 20), occasion=2)
        await bench.work()
    outcomes = await bench.outcomes(theme)
    assert 49 + 19 == len(outcomes)
    assert Counter(outcomes.values())["push"] == len(await bench.pushes()) == len({p.delivery_id for p in await bench.pushes()})


async def test_a_proposal_waits_for_its_moment_and_ends_with_its_last_reason(bench: Court) -> None:
    theme = await bench.theme(bands=(Band(0.0, ("app",)),))
    await bench.propose(theme, range(1, 100), due_at=MORNING + timedelta(hours=1), ends=timedelta(hours=2))
    await bench.work()
    assert {"proposed"} == set((await bench.words(theme)).values())
    await bench.state(theme, ThemeState.PAUSED)
    bench.pass_on(hours=3)
    await bench.work()
    assert {"proposed"} == set((await bench.words(theme)).values())
    await bench.state(theme, ThemeState.RUNNING)
    await bench.work()
    assert {"expired"} == set((await bench.words(theme)).values())


async def test_what_a_finished_theme_put_off_is_dropped(bench: Court) -> None:
    theme = await bench.theme()
    await bench.propose(theme, range(1, 10), due_at=MORNING + DAY)
    await bench.state(theme, ThemeState.FINISHED)
    await bench.work()
    assert {"theme_finished"} == set((await bench.words(theme)).values())


async def test_caps_count_over_all_themes_and_open_again(databases: DatabaseFactory) -> None:
    async with court(databases, People(60), MORNING, push_caps={"any": [2, 7], "app": [1, 3]}) as bench:
        one, two, three = [await bench.theme(bands=(Band(0.0, ("app", "wechat")),)) for _ in range(3)]
        for theme in (one, two, three):
            await bench.propose(theme, range(1, 61), ends=30 * DAY)
            await bench.work()
        assert 2 == max(Counter(push.person_id for push in await bench.pushes()).values())
        by_channel = Counter((push.person_id, push.channel) for push in await bench.pushes())
        assert 1 == max(count for (_, channel), count in by_channel.items() if channel == "app")
        put_off = await bench.rows(f"SELECT person_id, due_at FROM decision WHERE theme_id = {three} AND outcome = 'deferred'")
        assert {MORNING + 3 * DAY, MORNING + 7 * DAY} == {row.due_at for row in put_off}
        bench.pass_on(days=7)
        await bench.work()
        words = await bench.words(three)
        assert {"push"} == {words[row.person_id] for row in put_off if row.due_at == MORNING + 7 * DAY}


async def test_a_channel_that_does_not_work_comes_last_and_the_decision_says_so(bench: Court) -> None:
    now_us = round(datetime.now(UTC).timestamp() * 1e6)

    async def tell(failing: bool, at_us: int) -> None:
        state = touchpoints_pb2.ChannelState(channel="app", failing=failing, reason="calls_fail" if failing else "")
        strange = touchpoints_pb2.ChannelState(channel="pigeons", failing=True)
        await bench.told("troika.channels.health.v1", touchpoints_pb2.ChannelsHealth(channels=[state, strange], at_us=at_us))

    async def channels(**changes: object) -> tuple[Counter[str], str]:
        theme = await bench.theme(bands=(Band(0.0, ("app", "dealer")),), **changes)
        await bench.propose(theme, range(1, 101))
        await bench.work()
        async with bench.database.read() as uow:
            [pushed, *_] = [d for d in await DecisionStore(uow).page(theme, (0, 0), 200) if d.channel == "dealer"]
            definition = (await ThemeStore(uow).deciding(theme)).definition  # type: ignore[union-attr]
        rows = await bench.rows(f"SELECT channel FROM decision WHERE theme_id = {theme} AND outcome = 'push'")
        told = next(line for line in explain(pushed, definition) if line.startswith("channel"))
        return Counter(row.channel for row in rows), told

    before, told = await channels()
    assert "did not work" not in told
    await tell(True, now_us)
    # What was said earlier comes late.
    await tell(False, now_us - 1)
    during, told = await channels()
    assert "app did not work and came last" in told
    # Only who has no dealer is still tried through the app.
    assert 0 < during["app"] < before["app"]

    async def failing() -> list[str]:
        async with bench.database.read() as uow:
            return [name for name, (fails, _) in (await ArbiterStore(uow).conditions()).items() if fails]

    assert ["app", "pigeons"] == await failing()
    await tell(False, now_us + 1)
    assert ["pigeons"] == await failing()
    # Who says nothing any more says nothing about channels either.
    async with bench.database.transaction() as uow:
        await uow.execute("UPDATE channel_health SET failing = true, at = now() - interval '3 minutes'")
    assert [] == await failing()
    # Who counts pushes gets no more, whatever went out since; the others take the next channel, or wait.
    state = touchpoints_pb2.ChannelState(channel="app", left=7)
    health = touchpoints_pb2.ChannelsHealth(channels=[state], at_us=now_us + 2_000_000)
    await bench.told("troika.channels.health.v1", health)
    themes = [await bench.launch(chunk=9, bands=(Band(0.0, ("app", "wechat")),), audience=f"id % 3 = {n}") for n in range(2)]
    taken = [row for row in await bench.pushes() if row.theme in {f"themes/{theme}" for theme in themes}]
    assert 7 == sum(push.channel == "app" for push in taken) < sum(push.channel == "wechat" for push in taken)
    assert {"push", "quota", "no_channel", "no_score"} == {
        word for theme in themes for word in (await bench.words(theme)).values()
    }
    tomorrow = await bench.rows(f"SELECT DISTINCT due_at FROM decision WHERE theme_id = {themes[0]} AND reason = 'quota'")
    assert [MORNING + timedelta(hours=15)] == [row.due_at for row in tomorrow]


async def test_quiet_hours_are_the_persons_own_and_everything_is_asked_again_after_them(databases: DatabaseFactory) -> None:
    night = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)
    zones = ("Asia/Shanghai", "Europe/Berlin", "America/New_York", "nowhere")
    async with court(databases, People(120, zones=zones), night, quiet_hours="21:00-09:00") as bench:
        theme = await bench.theme(model="", bands=(Band(0.0, ("app",)),))
        await bench.propose(theme, range(1, 121))
        await bench.work()
        zone = {person: zones[person % 4] for person in range(1, 121)}
        words = await bench.words(theme)
        # 23:00 in Shanghai, 16:00 in Berlin, 10:00 in New York.
        assert {"quiet_hours"} == {
            words[p] for p in words if zone[p] in ("Asia/Shanghai", "nowhere") and words[p] != "no_channel"
        }
        assert {"push"} == {
            words[p] for p in words if "/" in zone[p] and zone[p] != "Asia/Shanghai" and words[p] != "no_channel"
        }
        for push in await bench.pushes():
            # Her own hours go along: who sends later asks them again.
            assert ("21:00-09:00", zone[push.person_id]) == (push.quiet_hours, push.time_zone)
            assert push.expires_at_us == (night + timedelta(hours=72)).timestamp() * 1_000_000
        waiting = [person for person, word in words.items() if word == "quiet_hours"]
        morning = datetime(2026, 3, 3, 1, 0, tzinfo=UTC)
        due = await bench.rows("SELECT DISTINCT due_at FROM decision WHERE outcome = 'deferred'")
        assert [morning] == [row.due_at for row in due]
        mover, silent, *others = waiting
        bench.people.table.execute("UPDATE person SET time_zone = 'America/New_York' WHERE id = ?", (mover,))
        await bench.forbid(silent)
        bench.moment = morning
        await bench.work()
        words = await bench.words(theme)
        # It is 20:00 there, and nine in the evening an hour later.
        assert ("push", "opted_out", {"push"}) == (words[mover], words[silent], {words[person] for person in others})


async def test_who_leaves_the_audience_while_waiting_is_left_alone(databases: DatabaseFactory) -> None:
    async with court(databases, People(60), MORNING - timedelta(hours=2), quiet_hours="21:00-09:00") as bench:
        theme = await bench.launch(audience="job = 'services'", bands=(Band(0.0, ("app",)),))
        waiting = [person for person, word in (await bench.words(theme)).items() if word == "quiet_hours"]
        bench.people.table.execute("UPDATE person SET job = 'student' WHERE id = ?", (waiting[0],))
        bench.moment = MORNING
        await bench.work()
        words = await bench.words(theme)
        assert "left_audience" == words[waiting[0]]
        assert {"push"} == {words[person] for person in waiting[1:]}


async def test_an_even_budget_is_spent_day_by_day_on_the_best(bench: Court) -> None:
    budget = replace(EVERYBODY, max_contacts=60, pacing=Pacing.EVEN)
    ends_at = MORNING + 2 * DAY
    theme = await bench.launch(
        chunk=20,
        budget=budget,
        schedule=Schedule(None, ends_at),
        bands=(Band(0.0, ("app", "wechat")),),
        audience="probability > 0",
    )
    for day in (1, 2, 3):
        rows = await bench.rows("SELECT person_id, probability, decided_at FROM decision WHERE outcome = 'push'")
        assert 20 * day == len(rows) == len(await bench.pushes())
        # The shares are of days, in the zone of the house.
        bench.moment = datetime(2026, 3, 2 + day, 1, 0, tzinfo=UTC) if day < 2 else ends_at - timedelta(hours=2)
        await bench.work()
    by_day = [[row.probability for row in rows if row.decided_at == moment] for moment in sorted({r.decided_at for r in rows})]
    assert min(by_day[0]) >= max(by_day[1]) >= min(by_day[1]) >= max(by_day[2])
    bench.moment = ends_at + DAY
    await bench.work()
    assert {"push", "pacing", "no_channel", "budget"} >= set((await bench.words(theme)).values())
    assert 60 == len(await bench.pushes())


async def test_a_dealer_takes_so_many_calls_a_day_of_all_themes_together(databases: DatabaseFactory) -> None:
    async with court(databases, People(200), MORNING, dealer_calls_per_day=4) as bench:
        async with bench.database.transaction() as uow:
            await uow.execute("INSERT INTO dealer_capacity VALUES ('D002', 7)")
        themes = [await bench.launch(bands=(Band(0.0, ("dealer",)),)) for _ in range(2)]
        assert {"D001": 4, "D002": 7} == Counter(push.dealer_code for push in await bench.pushes())
        assert "capacity" in (await bench.words(themes[0])).values()
        bench.pass_on(days=1)
        await bench.work()
        assert {"D001": 8, "D002": 14} == Counter(push.dealer_code for push in await bench.pushes())
        ranks = sorted((push.theme, push.dealer_code, push.rank) for push in await bench.pushes())
        assert len(ranks) == len(set(ranks))
        for name, code in {(theme, dealer) for theme, dealer, _ in ranks}:
            mine = [rank for theme, dealer, rank in ranks if (theme, dealer) == (name, code)]
            assert list(range(1, len(mine) + 1)) == mine


async def test_themes_of_a_group_keep_their_distance(bench: Court) -> None:
    one = await bench.launch(exclusion=Exclusion("cars", 2), audience="id <= 50")
    other = await bench.launch(exclusion=Exclusion("cars", 5), audience="id <= 50")
    free = await bench.launch(exclusion=Exclusion("tyres", 5), audience="id <= 50")
    pushed = {person for person, word in (await bench.words(one)).items() if word == "push"}
    words = await bench.words(other)
    assert pushed == {person for person, word in words.items() if word == "exclusion"}
    assert pushed == {person for person, word in (await bench.words(free)).items() if word == "push"}
    bench.pass_on(days=4, hours=23)
    await bench.work()
    assert pushed == {person for person, word in (await bench.words(other)).items() if word == "exclusion"}
    bench.pass_on(hours=1)
    await bench.work()
    assert pushed == {person for person, word in (await bench.words(other)).items() if word == "push"}


async def test_the_theme_of_higher_priority_comes_first(databases: DatabaseFactory) -> None:
    async with court(databases, People(60), MORNING, push_caps={"any": [1, 7]}) as bench:
        low = await bench.theme(priority=1, bands=(Band(0.0, ("app",)),))
        high = await bench.theme(priority=900, bands=(Band(0.0, ("app",)),))
        await bench.propose(low, range(1, 61))
        await bench.propose(high, range(31, 61))
        # The worker would take the higher one first; a launch cannot know of it but by asking.
        launched = await bench.launch(priority=2, bands=(Band(0.0, ("app",)),))
        assert {"priority"} <= set((await bench.words(launched)).values())
        await bench.work()
        pushed_high = {p for p, word in (await bench.words(high)).items() if word == "push"}
        assert pushed_high.isdisjoint(p for p, word in (await bench.words(low)).items() if word == "push")
        assert pushed_high


async def test_a_push_that_costs_more_than_it_brings_is_not_sent(bench: Court) -> None:
    theme = await bench.launch(goal=Goal("Offer Answered", "answer", "yes", 30, 1000), bands=(Band(0.0, ("dealer",)),))
    rows = await bench.rows(
        f"SELECT outcome, probability, value FROM decision WHERE theme_id = {theme} AND outcome <> 'no_channel'"
    )
    assert {"push", "no_value", "no_score"} >= {row.outcome for row in rows}
    assert all(row.probability >= 0.5 for row in rows if row.outcome == "push")
    assert all(row.probability < 0.5 for row in rows if row.outcome == "no_value")
    assert all(row.value == pytest.approx(row.probability * 1000 - 500) for row in rows if row.outcome == "push")


async def test_an_offer_goes_out_as_often_as_there_are_pieces(bench: Court) -> None:
    rare, plenty = await bench.offer(stock=5), await bench.offer(audience="id > 100")
    theme = await bench.launch(chunk=20, offers=(rare, plenty), bands=(Band(0.0, ("app",)),))
    pushes = Counter(push.offer for push in await bench.pushes())
    assert 5 == pushes[f"offers/{rare}"]
    assert pushes[f"offers/{plenty}"] > 20
    assert {"stock"} == {
        word for p, word in (await bench.words(theme)).items() if p <= 100 and word not in ("push", "no_score", "no_channel")
    }
    [offer] = await bench.rows(f"SELECT reserved, taken FROM offer WHERE offer_id = {rare}")
    assert (5, 0) == tuple(offer)
    assert {p.offer for p in await bench.pushes() if p.person_id <= 100} <= {f"offers/{rare}"}
    failed, taken, *_ = [push.delivery_id for push in await bench.pushes() if push.offer == f"offers/{rare}"]
    for _ in range(2):
        await bench.delivered((failed, 9, ""), (taken, 7, "yes"))
    [offer] = await bench.rows(f"SELECT reserved, taken FROM offer WHERE offer_id = {rare}")
    assert (3, 1) == tuple(offer)
    bench.pass_on(days=1)
    await bench.work()
    assert 6 == Counter(push.offer for push in await bench.pushes())[f"offers/{rare}"]


async def test_a_proposed_offer_is_the_one_that_goes_out(bench: Court) -> None:
    first, second = await bench.offer(), await bench.offer()
    theme = await bench.theme(offers=(first, second), bands=(Band(0.0, ("app",)),))
    await bench.propose(theme, range(1, 100), offer_id=second)
    await bench.work()
    assert {f"offers/{second}"} == {push.offer for push in await bench.pushes()}


async def test_people_who_turn_out_to_be_one_are_one(bench: Court) -> None:
    await bench.merge(1, 2, 1)
    await bench.merge(1, 3, 2)
    await bench.merge(4, 1, 3)
    theme = await bench.launch(chunk=3, model="", bands=(Band(0.0, ("app", "wechat", "dealer")),))
    words = await bench.words(theme)
    family = [words[person] for person in (1, 2, 3, 4)]
    assert 1 >= family.count("push")
    assert {"merged"} <= set(family)
    journey = await bench.theme(model="", holdout_share=0.5)
    for occasion in range(1, 20):
        await bench.propose(journey, [1 + occasion % 4], occasion=occasion)
        await bench.work()
    sides = set((await bench.words(journey)).values()) - {"no_channel"}
    assert 1 == len(sides)


async def test_people_who_merged_share_caps_and_forbid_for_each_other(databases: DatabaseFactory) -> None:
    async with court(databases, People(60), MORNING, push_caps={"any": [1, 7]}) as bench:
        reached = [person for (person,) in bench.people.table.execute("SELECT id FROM person WHERE has_app = 1 LIMIT 6")]
        a, b, c, d, e, f = reached
        first = await bench.theme(model="", bands=(Band(0.0, ("app",)),))
        await bench.propose(first, [a, c])
        await bench.work()
        await bench.merge(b, a, 1)
        await bench.forbid(f)
        await bench.merge(e, f, 2)
        second = await bench.theme(model="", bands=(Band(0.0, ("app",)),))
        await bench.propose(second, [a, b, c, d, e])
        await bench.work()
        words = await bench.words(second)
        assert ["frequency_cap"] * 3 + ["push", "opted_out"] == [words[person] for person in (a, b, c, d, e)]
        await bench.merge(b, a, 3, "split")
        third = await bench.theme(model="", bands=(Band(0.0, ("app",)),))
        await bench.propose(third, [a, b])
        await bench.work()
        words = await bench.words(third)
        assert ["frequency_cap", "push"] == [words[person] for person in (a, b)]


async def test_a_clock_that_goes_backwards_counts_nothing_twice_and_forgets_nothing(databases: DatabaseFactory) -> None:
    async with court(databases, People(60), MORNING, push_caps={"any": [1, 7]}) as bench:
        budget = replace(EVERYBODY, max_contacts=20)
        first = await bench.launch(budget=budget, bands=(Band(0.0, ("app",)),))
        pushed = {p for p, word in (await bench.words(first)).items() if word == "push"}
        bench.pass_on(days=-3)
        second = await bench.launch(bands=(Band(0.0, ("app",)),))
        words = await bench.words(second)
        assert {"frequency_cap"} == {words[person] for person in pushed}
        due = await bench.rows(f"SELECT DISTINCT due_at FROM decision WHERE theme_id = {second} AND reason = 'frequency_cap'")
        assert [MORNING + 7 * DAY] == [row.due_at for row in due]
        bench.pass_on(days=11)
        await bench.propose(first, range(1, 61))
        await bench.work()
        assert "budget" in (await bench.words(first)).values()
        assert 20 == [push.theme for push in await bench.pushes()].count(f"themes/{first}")


async def test_a_theme_edited_while_it_runs_decides_by_the_new_version_from_then_on(bench: Court) -> None:
    theme = await bench.theme(bands=(Band(0.0, ("app",)),))
    await bench.propose(theme, range(1, 50))
    await bench.work()
    async with bench.database.transaction() as uow:
        await uow.execute(
            "INSERT INTO theme_version SELECT (jsonb_populate_record(v, jsonb_build_object('version', 2, 'definition',"
            " jsonb_set(v.definition, '{bands}', CAST(:bands AS jsonb))))).* FROM theme_version v WHERE theme_id = :id",
            bands='[{"from_score": 0, "channels": ["wechat"]}]',
            id=theme,
        )
        await uow.execute("UPDATE theme SET approved_version = 2, version = 2 WHERE theme_id = :id", id=theme)
    await bench.propose(theme, range(50, 100))
    await bench.work()
    rows = await bench.rows("SELECT DISTINCT theme_version, channel FROM decision WHERE outcome = 'push' ORDER BY 1")
    assert [(1, "app"), (2, "wechat")] == [tuple(row) for row in rows]


async def test_offers_that_are_learnt_are_drawn_logged_heard_of_and_judged(bench: Court) -> None:
    offers = [await bench.offer(content_tags=("student",)), await bench.offer(), await bench.offer(audience="id > 150")]
    await bench.hear(
        consent_changes=[
            identity_pb2.ConsentChange(
                anchor_id=9, person_id=9, purpose="personalisation", channel="all", opted_out=True, stated_at_us=1
            )
        ]
    )
    bands = (Band(0.0, ("app", "wechat")),)
    theme = await bench.launch(chunk=60, model="", offers=tuple(offers), bands=bands, choice=Choice.LEARNT)
    pushes = {push.delivery_id: push for push in await bench.pushes()}
    rows = await bench.rows(
        "SELECT encode(decision_id, 'hex') AS name, d.*, a.offers FROM offer_decision d JOIN offer_arms a USING (arms_id)"
    )
    assert set(pushes) == {row.name for row in rows}
    students = {p for (p,) in bench.people.table.execute("SELECT id FROM person WHERE job = 'student'")}
    for row in rows:
        push = pushes[row.name]
        assert (f"theme_{theme}", push.person_id, push.channel) == (row.slot, row.person_id, row.channel)
        assert push.offer == f"offers/{row.offer_id}"
        competed = [offer for offer, code in zip(row.offers, row.codes, strict=True) if not code]
        assert (offers if row.person_id > 150 else offers[:2]) == competed
        personal = row.person_id != 9
        assert (["student"] if row.person_id in students and personal else []) == row.words
        assert (("drawn", 1) if personal else ("neutral", 0)) == (WHYS[row.why], row.state)
        # Nothing was learnt yet.
        assert row.propensity == pytest.approx(1 / len(competed), abs=0.02)
    assert {f"offers/{offer}" for offer in offers} == {push.offer for push in pushes.values()}
    # What comes of a push comes of the offer, in whatever order.
    yes, no, opened = [row.name for row in rows if row.person_id != 9][:3]
    at_us = round((MORNING + timedelta(hours=3)).timestamp() * 1e6)
    for name, state, answer in ((yes, 7, "yes"), (no, 7, "no"), (opened, 5, ""), (yes, 5, ""), ("strange", 7, "yes")):
        update = touchpoints_pb2.DeliveryUpdate(delivery_id=name, state=state, answer=answer, occurred_at_us=at_us)
        await bench.told("troika.deliveries.updated.v1", touchpoints_pb2.DeliveriesUpdated(updates=[update]))
    heard = await bench.rows(
        "SELECT encode(decision_id, 'hex') AS name, outcomes, rewarded_at FROM offer_decision WHERE outcomes > 0"
    )
    assert {(yes, 0b101, True), (no, 0b1000, False), (opened, 0b1, False)} == {
        (row.name, row.outcomes, row.rewarded_at is not None) for row in heard
    }
    learner = Learner(bench.database, 1.0, timedelta(days=4000), late_s=0.0)
    assert not await learner.learn_once()
    sums = await bench.rows("SELECT offer_id FROM offer_sums")
    assert set(offers) == {row.offer_id for row in sums}
    verdict = await judging.evaluate(bench.database, f"theme_{theme}", MORNING - DAY, 1000)
    assert (len(pushes) - ("neutral" in {WHYS[row.why] for row in rows}), 1) == (verdict.decisions, verdict.successes)


async def test_every_way_to_people_is_used_by_those_it_leads_to(databases: DatabaseFactory) -> None:
    channels = ("push", "wechat_mini", "sms", "wecom", "call_list")
    variants = tuple(Variant(channel, "en", f"By {channel}", "Come by") for channel in channels)
    async with court(databases, People(210, ways=True), MORNING, push_caps={"any": [9, 7], "sms": [1, 7]}) as bench:
        for person, channel in ((2, "sms"), (3, "app"), (7, "wechat"), (5, "wechat"), (4, "phone")):
            await bench.forbid(person, channel)
        offer = await bench.offer(variants=variants)
        by_list = await bench.launch(model="", offers=(offer,), bands=(Band(0.0, ("call_list",)),))
        spoken = {push.person_id: push for push in await bench.pushes()}
        # The numbers of those who were told by telephone, whom no rule keeps; the call centre's list is ranked.
        assert {person for person in range(1, 211) if person % 2 == 0 and person != 4} == set(spoken)
        assert set(range(1, 105)) == {push.rank for push in spoken.values()}
        assert (4, "opted_out") in (await bench.words(by_list)).items()
        theme = await bench.launch(model="", offers=(offer,), bands=(Band(0.0, channels),))
        taken = {push.person_id: push.channel for push in await bench.pushes() if push.theme == f"themes/{theme}"}
        leads = {"push": 3, "wechat_mini": 7, "sms": 2, "wecom": 5, "call_list": 2}
        shut = {(2, "sms"), (3, "push"), (7, "wechat_mini"), (7, "wecom"), (5, "wecom"), (4, "call_list")}
        ways = {p: [c for c in channels if p % leads[c] == 0 and (p, c) not in shut] for p in range(1, 211)}
        assert {person: open_[0] for person, open_ in ways.items() if open_} == taken
        assert {"push", "wechat_mini", "sms", "wecom", "call_list"} == set(taken.values())
        words = await bench.words(theme)
        assert ["opted_out", "opted_out", "opted_out", "no_channel"] == [words[person] for person in (3, 5, 7, 11)]
