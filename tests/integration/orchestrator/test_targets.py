"""Dealers' targets behind their door: actuals from the chain, lists by expected value, kept each day and measured."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from troika.identity.v1 import events_pb2 as identity_pb2
from troika.orchestrator.v1 import target_service_pb2 as pb

from chassis.db import UnitOfWork
from chassis.testing import DatabaseFactory
from services.orchestrator import terminal
from services.orchestrator.leads import command as lead_command
from services.orchestrator.targets import command as target_command
from services.orchestrator.targets.closing import Metric
from services.orchestrator.targets.keeping import ListKeeper
from services.orchestrator.targets.store import TargetStore
from tests.integration.orchestrator.lead_house import LeadHouse, event, merged, moved, open_lead_house, withdrawn
from tests.integration.orchestrator.test_leads import INVALID, PRECONDITION, refusal
from tests.integration.orchestrator.world import SECRET, People

DRIVES, ORDERS = pb.TARGET_METRIC_TEST_DRIVES, pb.TARGET_METRIC_ORDERS
# The middle of a month, so that days before and after are in it whenever the test runs.
NOW = datetime(2026, 11, 15, 4, tzinfo=UTC)


@pytest.fixture
async def house(databases: DatabaseFactory) -> AsyncIterator[LeadHouse]:
    async with open_lead_house(databases, People(300)) as house:
        house.board.now = lambda: NOW
        yield house


def at(number: int, name: str, person: int, moment: datetime, **more: Any) -> identity_pb2.ResolvedEvent:
    made = event(number, name, person, **more)
    made.occurred_at_us = round(moment.timestamp() * 1e6)
    return made


async def aim(house: LeadHouse, *targets: pb.DealerTarget, dealer: str = "D001", month: str = "2026-11") -> Any:
    request = pb.SetTargetsRequest(dealer_code=dealer, month=month, targets=targets)
    return list((await house.target.SetTargets(request)).targets)


def goal(metric: int = ORDERS, count: int = 10, **more: Any) -> pb.DealerTarget:
    return pb.DealerTarget(metric=metric, goal=count, **({"value_fen": 100} | more))  # type: ignore[arg-type]


async def opportunities(house: LeadHouse, metric: int = ORDERS, **more: Any) -> list[pb.Opportunity]:
    asked = pb.ListOpportunitiesRequest(dealer_code="D001", metric=metric, **({"page_size": 100} | more))  # type: ignore[arg-type]
    return list((await house.target.ListOpportunities(asked)).opportunities)


def forget_lists(house: LeadHouse) -> None:
    house.board._lists.clear()


async def test_targets_are_stated_upon_versions_all_or_none(house: LeadHouse) -> None:
    kept = await aim(house, goal(), goal(DRIVES, 20, advisor="A1"))
    assert [("", ORDERS, 1, "operator"), ("A1", DRIVES, 1, "operator")] == [
        (t.advisor, t.metric, t.version, t.author) for t in kept
    ]
    stale = house.target.SetTargets(
        pb.SetTargetsRequest(dealer_code="D001", month="2026-11", targets=[goal(count=30, version=1), goal(DRIVES, version=7)])
    )
    assert (PRECONDITION, "VERSION_CHANGED", "targets[1].version") == await refusal(stale)
    assert [10, 20] == [line.target.goal for line in (await report(house)).lines]
    assert [2] == [t.version for t in await aim(house, goal(count=30, version=1)) if t.metric == ORDERS]
    twice = pb.SetTargetsRequest(dealer_code="D001", month="2026-11", targets=[goal(), goal()])
    assert (INVALID, "TARGET_TWICE", "targets[1].metric") == await refusal(house.target.SetTargets(twice))
    none = house.target.GetTargetReport(pb.GetTargetReportRequest(dealer_code="D001", month="2026-10"))
    assert (PRECONDITION, "NO_TARGETS", "dealer_code") == await refusal(none)


async def report(house: LeadHouse, **more: Any) -> pb.GetTargetReportResponse:
    answer: pb.GetTargetReportResponse = await house.target.GetTargetReport(
        pb.GetTargetReportRequest(dealer_code="D001", **more)
    )
    return answer


async def test_actuals_are_counted_from_the_chain_in_the_months_of_the_houses_clock(house: LeadHouse) -> None:
    await aim(house, goal(count=5), goal(DRIVES, 2), goal(count=3, advisor="A1"))
    month = datetime(2026, 10, 31, 16, tzinfo=UTC)  # midnight in China
    dealer = {"source": "dealer:D001", "advisor": "A1"}
    await house.tell(
        at(1, "Order Placed", 1, month, **dealer),
        at(2, "Order Placed", 2, month - timedelta(seconds=1), **dealer),
        at(3, "Order Placed", 3, NOW, source="dealer:D001"),
        at(4, "Order Placed", 3, NOW - timedelta(hours=1), source="dealer:D001"),
        at(5, "Order Placed", 4, NOW, source="dealer:D002"),
        at(6, "Test Drive Done", 5, NOW, **dealer),
    )
    found = await report(house)
    assert {("", ORDERS): (2, 3), ("", DRIVES): (1, 1), ("A1", ORDERS): (1, 2)} == {
        (line.target.advisor, line.target.metric): (line.actual, line.gap) for line in found.lines
    }
    assert found.days_left == pytest.approx(15.5, abs=0.01)
    # A merge makes two orders of one interest one.
    await house.change(cluster_changes=[merged(1, 3, 7)], anchor_moves=[moved(10_003, 1, 5)])
    assert 1 == next(
        line.actual for line in (await report(house)).lines if not line.target.advisor and line.target.metric == ORDERS
    )
    past = await aim(house, goal(count=1), month="2026-10")
    assert 1 == len(past)
    over = await report(house, month="2026-10")
    assert (1, 0, 0.0) == (over.lines[0].actual, over.lines[0].candidates, over.days_left)


async def test_the_list_is_by_expected_value_with_reasons_and_what_to_do(house: LeadHouse) -> None:
    await aim(house, goal(value_fen=1000, values_fen={"X7": 9000}), goal(DRIVES))
    mine = [row[0] for row in house.people.select("id", "dealer_code = 'D001' AND probability IS NOT NULL")]
    theirs = [row[0] for row in house.people.select("id", "dealer_code = 'D002' AND probability IS NOT NULL")]
    await house.dealer("D001", "A1")
    await house.tell(
        at(1, "Lead Created", mine[0], NOW - timedelta(days=9), model="X7", source="dealer:D001"),
        at(2, "Order Placed", mine[1], NOW - timedelta(days=9), source="dealer:D001"),
        at(3, "Test Drive Done", mine[2], NOW - timedelta(days=9), source="dealer:D001"),
        at(4, "Lead Created", theirs[0], NOW - timedelta(days=2), source="dealer:D001"),
    )
    await house.later(0)
    found = await opportunities(house)
    assert found == sorted(found, key=lambda each: -each.expected_fen)
    assert list(range(1, len(found) + 1)) == [each.rank for each in found]
    by_person = {each.person_id: each for each in found}
    # Whoever ordered brings no other order now; whose lead the dealer has is its customer, whatever tags say.
    assert set(mine) - {mine[1]} | {theirs[0]} == set(by_person)
    first = by_person[mine[0]]
    assert (9000, "A1", "call_now") == (first.value_fen, first.advisor, first.next_action)
    assert "make_offer" == by_person[mine[2]].next_action
    assert by_person[mine[5]].next_action in ("invite_test_drive", "call_to_ask")
    assert ["reason of 30 points", "reason of 20 points", "reason of 10 points"] == list(first.reasons)
    chance = house.people.table.execute("SELECT probability FROM person WHERE id = ?", (mine[0],)).fetchone()[0]
    assert 1 - (1 - chance) ** (15.5 / 30) == pytest.approx(first.probability, rel=0.01)
    assert {mine[0], theirs[0]} == {each.person_id for each in await opportunities(house, advisor="A1")} & {mine[0], theirs[0]}
    drives = {each.person_id for each in await opportunities(house, DRIVES)}
    assert {mine[1], mine[2]}.isdisjoint(drives) and mine[0] in drives
    page = await house.target.ListOpportunities(pb.ListOpportunitiesRequest(dealer_code="D001", metric=ORDERS, page_size=7))
    rest = pb.ListOpportunitiesRequest(dealer_code="D001", metric=ORDERS, page_size=7, page_token=page.next_page_token)
    assert found[:14] == [*page.opportunities, *(await house.target.ListOpportunities(rest)).opportunities]
    wrong = house.target.ListOpportunities(pb.ListOpportunitiesRequest(dealer_code="D001", metric=3))
    assert (PRECONDITION, "NO_TARGETS", "metric") == await refusal(wrong)


async def test_who_may_not_be_told_to_dealers_is_on_no_list_and_who_is_not_to_be_told_apart_is_not(house: LeadHouse) -> None:
    await aim(house, goal())
    before = [each.person_id for each in await opportunities(house)]
    best, second, third = before[:3]
    await house.change(
        consent_changes=[
            withdrawn(best, "dealer_sharing"),
            withdrawn(second, "marketing"),
            withdrawn(third, "personalisation", "all"),
        ]
    )
    forget_lists(house)
    house.scoring.explained.clear()
    found = await opportunities(house)
    assert {best, second} == set(before) - {each.person_id for each in found}
    [hidden] = [each for each in found if each.neutral]
    assert (third, [], -1.0) == (hidden.person_id, list(hidden.reasons), hidden.score)
    assert hidden.rank > 3
    assert third not in house.scoring.explained


async def test_the_gap_says_how_many_it_takes_or_that_the_list_is_too_short(house: LeadHouse) -> None:
    await aim(house, goal(count=3), goal(DRIVES, 5000), goal(count=2, advisor="A9"))
    lines = {(line.target.advisor, line.target.metric): line for line in (await report(house)).lines}
    orders = lines["", ORDERS]
    assert 0 < orders.needed_low < orders.needed < orders.needed_high <= orders.candidates
    assert orders.expected > 3 and orders.chance > 0.5
    assert f"speak to about {orders.needed} customers" in orders.words
    drives = lines["", DRIVES]
    assert (-1, -1, 0.0) == (drives.needed, drives.needed_high, drives.chance)
    assert "does not close the gap" in drives.words
    assert (0, -1) == (lines["A9", ORDERS].candidates, lines["A9", ORDERS].needed)


async def test_a_crowd_asks_scoring_once(house: LeadHouse) -> None:
    await aim(house, goal())
    await asyncio.gather(*(report(house) for _ in range(6)))
    assert 1 == house.scoring.rankings
    house.people.has_model = False
    forget_lists(house)
    missing = house.target.GetTargetReport(pb.GetTargetReportRequest(dealer_code="D001"))
    assert PRECONDITION == (await refusal(missing))[0]


async def test_each_day_is_kept_once_whatever_replicas_do_and_a_failure_is_tried_again(house: LeadHouse) -> None:
    await aim(house, goal(), goal(DRIVES))
    await aim(house, goal(), dealer="D002")
    house.people.has_model = False
    assert await ListKeeper(house.board).work_once()
    assert ["MODEL_NOT_FOUND", "MODEL_NOT_FOUND"] == [
        row.failure
        for row in (await house.rows("SELECT failure FROM opportunity_day"), await ListKeeper(house.board).work_once())[0]
        if row.failure
    ] * 2
    house.people.has_model = True
    async with house.database.transaction() as uow:
        await uow.execute("UPDATE opportunity_day SET lease_until = now()")
        await uow.execute("INSERT INTO opportunity_day SELECT 'D001', '2025-01-01', NULL, now(), now(), ''")
        await uow.execute("INSERT INTO opportunity SELECT 'D001', '2025-01-01', 2, 1, 1, 1, 0.1, 1, ''")
    keepers = [ListKeeper(house.board) for _ in range(3)]
    for _ in range(3):
        await asyncio.gather(*(keeper.work_once() for keeper in keepers))
    days = await house.rows("SELECT dealer_code, finished_at FROM opportunity_day ORDER BY 1")
    assert [("D001", NOW), ("D002", NOW)] == [tuple(row) for row in days]
    stored = await house.rows("SELECT person_id FROM opportunity WHERE dealer_code = 'D001' AND metric = 2 ORDER BY rank")
    assert [each.person_id for each in await opportunities(house)] == [row.person_id for row in stored]
    assert not await ListKeeper(house.board).work_once()


async def test_lists_are_measured_against_the_dealers_own_order(house: LeadHouse) -> None:
    await aim(house, goal())
    assert await ListKeeper(house.board).work_once()
    listed = [row.person_id for row in await house.rows("SELECT person_id FROM opportunity ORDER BY rank")]
    measure = pb.MeasureOpportunitiesRequest(dealer_code="D001", metric=ORDERS)
    early = await house.target.MeasureOpportunities(measure)
    assert (0, "no_data") == (early.lists, early.own_order.verdict)
    # The dealer calls the last of the list first; those in front order all the same.
    number = 0
    for hour, person in enumerate(reversed(listed)):
        number += 1
        await house.tell(at(number, "Lead Contacted", person, NOW + timedelta(minutes=5 * hour + 1), source="dealer:D001"))
    for person in [*listed[:9], listed[40]]:
        number += 1
        await house.tell(at(number, "Order Placed", person, NOW + timedelta(days=8), source="dealer:D001"))
    # An order from before the list says nothing about it, one from after the window neither.
    await house.tell(at(900, "Order Placed", listed[60], NOW - timedelta(days=1)))
    await house.tell(at(901, "Order Placed", listed[61], NOW + timedelta(days=15)))
    house.board.now = lambda: NOW + timedelta(days=16)
    found = await house.target.MeasureOpportunities(measure)
    assert (1, len(listed), 10) == (found.lists, found.places, found.conversions)
    assert "better" == found.own_order.verdict
    assert found.list_area > 0.8 > 0.3 > found.own_order.area
    assert found.own_order.low > 0
    # Who went into somebody else meanwhile is that somebody; who was erased is nobody.
    await house.change(
        cluster_changes=[merged(listed[0], listed[70], 7)], anchor_moves=[moved(10_000 + listed[70], listed[0], 5)]
    )
    again = await house.target.MeasureOpportunities(measure)
    assert 11 == again.conversions
    gone = identity_pb2.Erasure(erasure_id=1, person_id=listed[1], anchor_ids=[10_000 + listed[1]])
    await house.change(erasures=[gone])
    assert 10 == (await house.target.MeasureOpportunities(measure)).conversions
    async with house.database.read() as uow:
        rows = await TargetStore(uow).outcomes("D001", Metric.ORDERS, NOW.date(), timedelta(days=14), NOW, (1,))
    assert [] == list(rows)


async def test_the_command_line_does_what_the_doors_do(
    house: LeadHouse, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "operator.token"
    token.write_text(f"operator.{SECRET}\n")
    dealer = tmp_path / "dealer.json"
    dealer.write_text('{"dealer_code": "D001", "capacity_per_day": 40, "advisors": [{"advisor": "A1", "capacity_per_day": 9}]}')

    async def run(verb: str, *words: str) -> tuple[int, str]:
        parser = argparse.ArgumentParser()
        {"leads": lead_command, "targets": target_command}[verb].arguments(parser)
        flags = parser.parse_args([*words, "--target", house.address, "--token-file", str(token)])
        code = await asyncio.to_thread(terminal.run, flags)
        out, err = capfd.readouterr()
        return code, out + err

    assert (0, "none\n") == await run("leads", "list")
    assert (0, True) == ((done := await run("leads", "register", str(dealer)))[0], "D001    1" in done[1])
    assert 0 == (await run("leads", "create", "7", "--interest", "X5"))[0]
    code, told = await run("leads", "assign", "--dry-run")
    assert (0, True) == (code, "has room" in told and "0 had been let lapse" in told)
    assert 0 == (await run("leads", "assign"))[0]
    code, told = await run("leads", "tasks", "--dealer", "D001", "--json")
    [task] = orjson.loads(told)["tasks"]
    assert ("first_call", "A1") == (task["kind"], task["advisor"])
    code, told = await run("leads", "complete", task["name"], "visit_agreed", "--next", "2099-01-01")
    assert (0, True) == (code, "next: follow_up at 2099-01-01 00:00" in told and "invited" in told)
    assert 0 == (await run("leads", "advance", "1", "lost", "--reason", "price"))[0]
    code, told = await run("leads", "show", "leads/1")
    assert (0, True) == (code, "price" in told and "A1" in told)
    assert (0, True) == ((done := await run("leads", "dealers"))[0], "A1" in done[1])
    assert (0, True) == ((done := await run("leads", "reactivate", "lost", "--dry-run"))[0], "0 silent" in done[1])
    code, told = await run("targets", "report", "D001")
    assert (1, "NO_TARGETS (dealer_code): D001 has no targets in 2026-11\n") == (code, told)
    assert 0 == (await run("targets", "set", "D001", "orders", "5", "--month", "2026-11", "--value-fen", "100000"))[0]
    code, told = await run("targets", "report", "D001")
    assert (0, True) == (code, "speak to about" in told and "15.5 days are left" in told)
    code, told = await run("targets", "list", "D001", "orders", "--limit", "3")
    assert (0, 4, True) == (code, len(told.splitlines()), "reason of 30 points; reason of 20 points" in told)
    code, told = await run("targets", "measure", "D001", "orders")
    assert (0, True) == (code, "0 lists" in told and "no data" in told)


async def test_hot_questions_about_targets_are_answered_by_index(house: LeadHouse) -> None:
    async with house.database.transaction() as uow:
        await uow.execute(
            "INSERT INTO lead_step (step_key, anchor_id, person_id, version, human_id, lead_id, stage, reached, interest,"
            " brand, area, source, dealer_code, advisor, reason, author, note, occurred_at)"
            " SELECT decode(lpad(to_hex(n), 32, '0'), 'hex'), n + 100000, n, 1, n, n, 5 + n % 3, true, '', '', '', '',"
            " 'D' || n % 500, '', '', '', '', now() FROM generate_series(1, 30000) n"
        )
        await uow.execute(
            "INSERT INTO lead (founding_step_id, human_id, interest, brand, area, source, named_dealer, stage, furthest, since,"
            " opened_at, last_at, lost_reason, dealer_code) SELECT n, n, '', '', '', '', '', 1, 1, now(), now(), now(), '',"
            " 'D' || n % 500 FROM generate_series(1, 30000) n"
        )
        await uow.execute(
            "INSERT INTO opportunity SELECT 'D' || n % 500, current_date, 2, n, 1, 1, 0.1, 1, ''"
            " FROM generate_series(1, 30000) n"
        )
        await uow.execute(
            "INSERT INTO opportunity_day SELECT 'D' || n, current_date, NULL, now(), now(), '' FROM generate_series(0, 499) n"
        )
        for table in ("lead", "lead_step", "opportunity", "opportunity_day"):
            await uow.execute(f"ANALYZE {table}")
    plans: dict[str, str] = {}

    class Explained(UnitOfWork):
        """Runs every statement as EXPLAIN and keeps what PostgreSQL says it would do."""

        name = ""

        async def rows(self, statement: str, **given: Any) -> Sequence[Any]:
            told = "\n".join(row[0] for row in await super().rows(f"EXPLAIN {statement}", **given))
            plans[self.name] = plans.get(self.name, "") + told
            return []

    async with house.database.transaction() as uow:
        explained = Explained(uow.connection)
        store = TargetStore(explained)
        now = datetime.now(UTC)
        explained.name = "actuals"
        await store.actuals("D7", now - timedelta(days=1), now)
        explained.name = "own"
        await store.own_customers("D7", 100)
        explained.name = "known"
        await store.known([7, 8, 9], now)
        explained.name = "outcomes"
        await store.outcomes("D7", Metric.ORDERS, now.date(), timedelta(days=14), now)
    for plan, index in (
        ("actuals", "ix_lead_step_reached"),
        ("own", "ix_lead_looked_after"),
        ("known", "ix_lead_human_id"),
        ("known", "ix_lead_step_human_id"),
        ("outcomes", "pk_opportunity"),
    ):
        assert index in plans[plan], plans[plan]
    assert [] == [name for name, plan in plans.items() if "Seq Scan on lead" in plan or "Seq Scan on opportunity " in plan]
