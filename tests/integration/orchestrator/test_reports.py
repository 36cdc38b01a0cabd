"""Reports on real rows: every breakdown against a count by hand, merges, erasures, occasions, times, pictures, plans."""

from __future__ import annotations

import argparse
import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from troika.identity.v1 import events_pb2 as identity_pb2
from troika.orchestrator.v1 import orchestrator_service_pb2 as pb
from troika.touchpoints.v1 import events_pb2 as touchpoints_pb2

from chassis.testing import DatabaseFactory
from services.orchestrator import terminal
from services.orchestrator.domain.statistics import newcombe
from services.orchestrator.domain.themes import ThemeId, id_of
from services.orchestrator.reports.cells import Breakdown
from services.orchestrator.reports.store import ReportStore
from services.orchestrator.themes import command
from tests.integration.orchestrator.conftest import House, open_house
from tests.integration.orchestrator.test_erasure import erasure
from tests.integration.orchestrator.test_feedback import (
    DELIVERIES,
    ENTITIES,
    EVENTS,
    EVERYBODY,
    event,
    merged,
    moved,
    split,
    update,
)
from tests.integration.orchestrator.test_plans import Explained
from tests.integration.orchestrator.test_rpc import INVALID, refusal
from tests.integration.orchestrator.world import SECRET, People

HOUR = timedelta(hours=1)
BREAKDOWNS = [each for each in Breakdown if each]


@pytest.fixture
async def house(databases: DatabaseFactory) -> AsyncIterator[House]:
    """One that tells of any group of two."""
    async with open_house(databases, People(), smallest_group=2) as house:
        yield house


async def report(house: House, name: str, by: Breakdown = Breakdown.NONE) -> pb.GetThemeReportResponse:
    request = pb.GetThemeReportRequest(name=name, by=pb.ReportBreakdown.ValueType(by.value))
    answer: pb.GetThemeReportResponse = await house.call.GetThemeReport(request)
    return answer


def micros(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)


async def campaign(house: House, **changes: Any) -> tuple[str, set[int]]:
    """A theme with feedback of every kind drawn at random: (name, who reached the goal)."""
    goal = pb.Goal(event="Offer Answered", property="answer", value="yes", window_days=30, value_fen=50_000)
    name = await house.launch(**({"budget": EVERYBODY, "holdout_share": 0.3, "goal": goal} | changes))
    draw = random.Random(5)
    updates = [update(push.delivery_id, draw.randint(1, 9)) for push in await house.pushes()]
    await house.hear(DELIVERIES, touchpoints_pb2.DeliveriesUpdated(updates=updates))
    pushed, kept = await split(house, name)
    winners = {person for person in pushed + kept if draw.random() < 0.2}
    await house.hear(EVENTS, identity_pb2.ResolvedBatch(events=[event(person) for person in sorted(winners)]))
    return name, winners


def part_of(row: Any, by: Breakdown) -> str:
    match by:
        case Breakdown.CHANNEL:
            return str(row.channel)
        case Breakdown.OFFER:
            return f"offers/{row.offer_id}" if row.offer_id else ""
        case Breakdown.DEALER:
            return str(row.dealer_code)
        case Breakdown.WAVE:
            return "proposed" if row.occasion else f"layer {row.layer}" if row.layer else "launch"
        case Breakdown.BAND:
            return str(min(4, int(row.score // 200)) * 200) if row.score >= 0 else ""
        case _:
            return str(row.theme_version or "")


async def test_every_breakdown_is_what_a_count_by_hand_finds(house: House) -> None:
    name, winners = await campaign(house)
    async with house.transaction() as uow:
        await uow.execute("UPDATE decision SET layer = person_id % 11, theme_version = person_id % 2")
    rows = await house.rows(
        "SELECT d.*, COALESCE(v.state, 0) AS state FROM decision d LEFT JOIN delivery v USING (delivery_id)"
    )
    for by in BREAKDOWNS:
        check(by, rows, winners, await report(house, name, by), await report(house, name))


def check(
    by: Breakdown, rows: Any, winners: set[int], told: pb.GetThemeReportResponse, plain: pb.GetThemeReportResponse
) -> None:
    assert sorted({part_of(row, by) for row in rows}) == sorted(part.key for part in told.parts)
    for part in told.parts:
        mine = [row for row in rows if part_of(row, by) == part.key]
        pushed, kept = ([row for row in mine if row.outcome == side] for side in ("push", "holdout"))
        counts = {stage.stage: stage.count for stage in part.funnel}
        accepted = [row for row in pushed if 3 <= row.state < 9]
        assert (len(mine), len(pushed), len(accepted)) == (counts["audience"], counts["pushed"], counts["accepted"])
        assert sum(row.cost_fen for row in accepted) == part.money.cost_fen
        if part.hidden:
            assert {"opened", "answered", "goal"}.isdisjoint(counts)
            assert not part.HasField("pushed")
            continue
        won = [sum(row.person_id in winners for row in side) for side in (pushed, kept)]
        assert (len(pushed), won[0], won[0]) == (part.pushed.persons, part.pushed.goals, counts["goal"])
        assert 50_000 * won[0] == part.money.return_fen
        if by.comparable and part.HasField("effect"):
            effect = newcombe(won[0], len(pushed), won[1], len(kept))
            assert (effect.value, effect.low, effect.high) == (part.effect.value, part.effect.low, part.effect.high)
            assert effect.low * 50_000 * len(pushed) == pytest.approx(part.money.incremental_return_fen.low)
        assert by.comparable or not part.HasField("effect")
    if by is Breakdown.WAVE:
        assert [*(f"layer {n}" for n in range(1, 11)), "launch"] == [part.key for part in told.parts]
    summed: Counter[str] = Counter()
    for part in told.parts:
        summed.update({stage.stage: stage.count for stage in part.funnel if stage.stage in ("audience", "chosen", "pushed")})
    whole = {stage.stage: stage.count for stage in told.funnel}
    assert {stage: whole[stage] for stage in summed} == summed
    told.ClearField("parts")
    assert told == plain


async def test_who_fell_out_is_told_with_the_reason(house: House) -> None:
    name, _ = await campaign(house, budget=pb.Budget(max_contacts=100, max_calls=0, unit_cost_fen={}))
    told = await report(house, name)
    stages = {stage.stage: stage for stage in told.funnel}
    assert told.decisions["budget"] == stages["chosen"].lost["budget"] > 0
    assert told.decisions["holdout"] == stages["pushed"].lost["holdout"]
    assert 100 == stages["chosen"].count == stages["pushed"].count + told.decisions["holdout"]
    assert sum(told.decisions.values()) == stages["audience"].count


async def test_a_merge_counts_in_every_part_and_an_unmerge_takes_it_back(house: House) -> None:
    name, winners = await campaign(house)
    pushed, _ = await split(house, name)
    person, other = next(p for p in pushed if p not in winners), 900_001
    before = await report(house, name, Breakdown.CHANNEL)
    await house.hear(EVENTS, identity_pb2.ResolvedBatch(events=[event(other, anchor=55)]))
    assert before == await report(house, name, Breakdown.CHANNEL)
    await house.hear(ENTITIES, identity_pb2.EntitiesChanged(cluster_changes=[merged(other, person, 1)]))
    after = await report(house, name, Breakdown.CHANNEL)
    assert before.pushed.goals + 1 == after.pushed.goals
    assert 1 == sum(a.pushed.goals - b.pushed.goals for a, b in zip(after.parts, before.parts, strict=True))
    goal = next(each for each in after.response_times if each.kind == "goal")
    assert goal.persons + goal.earlier == after.pushed.goals
    await house.hear(ENTITIES, identity_pb2.EntitiesChanged(cluster_changes=[merged(other, person, 2, "unmerge")]))
    assert before == await report(house, name, Breakdown.CHANNEL)
    await house.hear(ENTITIES, identity_pb2.EntitiesChanged(anchor_moves=[moved(55, person, 9)]))
    assert after.pushed == (await report(house, name)).pushed


async def test_erased_persons_stay_in_all_counts_but_in_no_dealer_and_no_time(house: House) -> None:
    name, winners = await campaign(house)
    pushed, kept = await split(house, name)
    gone = [*sorted(winners & set(pushed))[:2], *kept[:2]]
    before = {by: await report(house, name, by) for by in Breakdown}
    dealers = {row.person_id: row.dealer_code for row in await house.rows("SELECT person_id, dealer_code FROM decision")}
    await house.hear(ENTITIES, *(erasure(person) for person in gone))
    for by in Breakdown:
        after = await report(house, name, by)
        if by is not Breakdown.DEALER:
            for each in (before[by], after):
                each.ClearField("response_times")
                for part in each.parts:
                    part.ClearField("response_times")
            assert before[by] == after
            continue
        sizes = [{part.key: part.funnel[0].count for part in each.parts} for each in (before[by], after)]
        left = Counter(sizes[0])
        for person in gone:
            left[dealers[person]] -= 1
            left[""] += 1
        assert left == sizes[1]
    [_, goal] = (await report(house, name)).response_times
    assert len((winners & set(pushed)) - set(gone)) == goal.persons


async def test_a_person_pushed_twice_is_one_person_of_the_first_push(house: House) -> None:
    name, winners = await campaign(house)
    pushed, _ = await split(house, name)
    person, fresh = next(p for p in pushed if p in winners), [900_002, 900_003]
    before = await report(house, name, Breakdown.WAVE)
    async with house.transaction() as uow:
        await uow.execute(
            "INSERT INTO decision (theme_id, person_id, occasion, theme_version, outcome, reason, expires_at, offer_id,"
            " channel, score, cost_fen, delivery_id, decided_at) SELECT :theme, p, 7, 1, 'push', '', now(), 1, 'app', 100, 1,"
            " 'd' || p, now() FROM unnest(CAST(:persons AS bigint[])) AS p",
            theme=id_of(name),
            persons=[person, *fresh],
        )
    after = await report(house, name, Breakdown.WAVE)
    launch, later = after.parts
    assert ["launch", "proposed"] == [launch.key, later.key]
    assert before.parts[0].pushed == launch.pushed
    assert (2, 0) == (later.pushed.persons, later.pushed.goals)
    assert 3 == next(stage.count for stage in later.funnel if stage.stage == "pushed")
    assert before.pushed.persons + 2 == after.pushed.persons
    assert before.pushed.goals == after.pushed.goals


async def test_times_run_from_the_hand_over_to_the_first_answer_and_goal(house: House) -> None:
    name = await house.launch(budget=EVERYBODY, holdout_share=0.1)
    rows = await house.rows("SELECT person_id, delivery_id, decided_at FROM decision WHERE outcome = 'push' ORDER BY person_id")
    answered, won, early = rows[:10], rows[10:15], rows[15]
    updates = [
        update(row.delivery_id, 7, answer="yes", occurred_at_us=micros(row.decided_at + n * HOUR))
        for n, row in enumerate(answered, 1)
    ]
    await house.hear(DELIVERIES, touchpoints_pb2.DeliveriesUpdated(updates=updates))
    events = [event(row.person_id, occurred_at_us=micros(row.decided_at + 30 * HOUR)) for row in won]
    # Another anchor of the same person was faster.
    events.append(event(won[0].person_id, anchor=70_001, occurred_at_us=micros(won[0].decided_at + 20 * HOUR)))
    events.append(event(early.person_id))
    await house.hear(EVENTS, identity_pb2.ResolvedBatch(events=events))
    async with house.transaction() as uow:
        later = "UPDATE decision SET decided_at = decided_at + interval '1 day' WHERE person_id = :person"
        await uow.execute(later, person=early.person_id)
    answer, goal = (await report(house, name)).response_times
    assert ("answer", 10, 0) == (answer.kind, answer.persons, answer.earlier)
    assert [1.9, 3.25, 5.5, 7.75, 9.1] == pytest.approx(list(answer.quantile_hours), abs=1e-6)
    assert {1.0: 2, 3.0: 3, 6.0: 5} == {each.from_hours: each.persons for each in answer.histogram if each.persons}
    assert ("goal", 5, 1) == (goal.kind, goal.persons, goal.earlier)
    assert {12.0: 1, 24.0: 4} == {each.from_hours: each.persons for each in goal.histogram if each.persons}


async def test_a_theme_that_never_ran_has_an_empty_report_and_pictures(house: House) -> None:
    name = await house.make()
    told = await report(house, name, Breakdown.DEALER)
    assert [0] * 10 == [stage.count for stage in told.funnel]
    assert [] == list(told.parts)
    for picture in (1, 2, 3):
        drawn = await house.call.GetThemeReportPicture(pb.GetThemeReportPictureRequest(name=name, picture=picture))
        assert ("image/svg+xml", True) == (drawn.media_type, b"<svg" in drawn.content)
    unknown = house.call.GetThemeReportPicture(pb.GetThemeReportPictureRequest(name="themes/4711", picture=1))
    assert grpc.StatusCode.NOT_FOUND == (await refusal(unknown))[0]
    nothing = house.call.GetThemeReportPicture(pb.GetThemeReportPictureRequest(name=name))
    assert INVALID == (await refusal(nothing))[0]


async def test_a_terminal_shows_the_report_and_stores_its_picture(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _ = await campaign(house)
    monkeypatch.setenv("TROIKA_TOKEN", f"operator.{SECRET}")
    parser = argparse.ArgumentParser()
    command.arguments(parser)

    async def run(*words: str) -> tuple[int, str]:
        flags = parser.parse_args(["report", name, "--target", house.target, *words])
        code = await asyncio.to_thread(terminal.run, flags)
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    code, words = await run("--by", "dealer", "--picture", str(tmp_path / "effect.png"))
    assert 0 == code
    told = await report(house, name)
    assert {"audience", "D001", "none", "effect"} <= set(words.split())
    assert f"{told.pushed.goals:,} of {told.pushed.persons:,}" in words
    assert (tmp_path / "effect.png").read_bytes().startswith(b"\x89PNG")
    code, words = await run("--json", "--picture", str(tmp_path / "spring.svg"), "--kind", "times")
    assert (0, True) == (code, '"response_times"' in words)
    assert b"Time from push" in (tmp_path / "spring.svg").read_bytes()
    (tmp_path / "funnel.svg").mkdir()
    with pytest.raises(SystemExit, match="PICTURE_NOT_WRITTEN"):
        await run("--picture", str(tmp_path / "funnel.svg"))
    for wrong in ("funnel.gif", str(tmp_path / "nowhere" / "funnel.svg")):
        with pytest.raises(SystemExit):
            parser.parse_args(["report", name, "--picture", wrong])


async def test_a_report_reads_its_own_theme_by_index(house: House) -> None:
    async with house.transaction() as uow:
        for statement in (
            "INSERT INTO decision (theme_id, person_id, occasion, outcome, reason, expires_at, delivery_id, decided_at)"
            " SELECT t, p, 0, CASE p % 4 WHEN 0 THEN 'push' WHEN 1 THEN 'holdout' ELSE 'budget' END, '', now(),"
            " CASE p % 4 WHEN 0 THEN t || '-' || p END, now() FROM generate_series(1, 40) t, generate_series(1, 2000) p",
            "INSERT INTO delivery SELECT delivery_id, 4, '', '', now() FROM decision WHERE delivery_id IS NOT NULL",
            # So many that looking up a theme's own is cheaper than reading all.
            "INSERT INTO delivery SELECT 'older-' || n, 4, '', '', now() FROM generate_series(1, 100000) n",
            "INSERT INTO goal SELECT t, p, p, 1, now() FROM generate_series(1, 40) t, generate_series(1, 2000, 20) p",
            "INSERT INTO person_alias SELECT p, p + 1, p, now() FROM generate_series(100001, 140000, 2) p",
            "INSERT INTO anchor_owner SELECT p, p + 1, 1 FROM generate_series(100000, 140000, 3) p",
        ):
            await uow.execute(statement)
        tables = ("decision", "delivery", "goal", "person_alias", "anchor_owner")
        for table in tables:
            await uow.execute(f"ANALYZE {table}")
    for by in Breakdown:
        async with house.transaction() as uow:
            for ask in ("cells", "times"):
                explained = Explained(uow)
                with suppress(IndexError):
                    await getattr(ReportStore(explained), ask)(ThemeId(40), by)
                assert "pk_decision" in explained.plan
                # Who merged, and whose anchors moved, may be read as a whole where a theme has chosen many.
                assert [] == [table for table in tables[:3] if f"Seq Scan on {table}" in explained.plan]
