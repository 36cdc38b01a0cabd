"""What comes of experiments: windows, covariates, and who merges, parts or is erased meanwhile."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from troika.orchestrator.v1 import experiment_service_pb2 as pb

from chassis.testing import DatabaseFactory
from tests.integration.orchestrator.laboratory import (
    EVERYBODY,
    LEFT,
    ORDERED,
    PRICE,
    SPENT,
    Lab,
    open_lab,
    totals,
)
from tests.integration.orchestrator.test_erasure import erasure
from tests.integration.orchestrator.test_feedback import ENTITIES, merged, moved


@pytest.fixture
async def lab(databases: DatabaseFactory) -> AsyncIterator[Lab]:
    async with open_lab(databases) as lab:
        yield lab


async def everybody_exposed(lab: Lab, **changes: Any) -> tuple[str, list[int], list[int]]:
    """(name, persons of the control, persons of the other variant), exposed two days ago."""
    name = await lab.started(**changes)
    variants = await lab.assign(name, EVERYBODY)
    await lab.two_days_pass()
    control, other = ([p for p, v in zip(EVERYBODY, variants, strict=True) if v == wanted] for wanted in ("old", "short"))
    return name, control, other


async def test_results_count_what_happened_in_the_window_after_the_first_exposure(lab: Lab) -> None:
    name, control, other = await everybody_exposed(lab, metrics=[ORDERED, SPENT, PRICE, LEFT])
    lucky = [*control[:40], *other[:120]]
    twice = [lab.event(person, properties={"price": 300}) for person in lucky[:10]]
    too_early = [lab.event(person, hours=-1) for person in control[200:230]]
    too_late = [lab.event(person, hours=25) for person in control[230:260]]
    leaving = [lab.event(p, name="Unsubscribed", properties={"channel": "app"}) for p in (*control[:9], *other[:11])]
    elsewhere = [lab.event(p, name="Unsubscribed", properties={"channel": "wechat"}) for p in control[9:50]]
    bought = [lab.event(person) for person in lucky]
    for _ in range(2):
        await lab.happen(*bought, *twice, *too_early, *too_late, *leaving, *elsewhere)
    results = await lab.results(name)
    assert {"old": (len(control), 40), "short": (len(other), 120)} == totals(results)
    assert {"old": (len(control), 40 * 100 + 10 * 300), "short": (len(other), 120 * 100)} == totals(results, 1)
    assert [7000 / 50, 100.0] == [each.mean for each in results.metrics[2].variants]
    assert {"old": (len(control), 9), "short": (len(other), 11)} == totals(results, 3)
    assert (pb.EXPERIMENT_VERDICT_WINNER, "short") == (results.verdict, results.winner)
    assert pb.GUARDRAIL_VERDICT_SAFE == results.metrics[3].comparisons[0].guardrail
    [comparison] = results.metrics[0].comparisons
    assert comparison.effect == pytest.approx(120 / len(other) - 40 / len(control))
    assert comparison.always_valid.low < comparison.fixed_horizon.low < comparison.effect


async def test_a_person_counts_when_the_window_is_over(lab: Lab) -> None:
    name = await lab.started()
    await lab.assign(name, EVERYBODY)
    results = await lab.results(name)
    assert 1000 == sum(results.sample_ratio.persons)
    assert {"old": (0, 0), "short": (0, 0)} == totals(results)
    assert pb.EXPERIMENT_VERDICT_TOO_FEW == results.verdict
    await lab.two_days_pass()
    assert 1000 == sum(persons for persons, _ in totals(await lab.results(name)).values())


async def test_a_broken_split_is_stated(lab: Lab) -> None:
    name, control, other = await everybody_exposed(lab)
    await lab.happen(*(lab.event(person) for person in other[:300]))
    async with lab.house.transaction() as uow:
        await uow.execute("DELETE FROM exposure WHERE person_id = ANY(CAST(:p AS bigint[]))", p=control[::2])
    results = await lab.results(name)
    assert (pb.EXPERIMENT_VERDICT_BROKEN_SPLIT, "", True) == (results.verdict, results.winner, results.sample_ratio.broken)


async def test_covariates_and_segments_are_those_of_the_exposure(lab: Lab) -> None:
    name, control, other = await everybody_exposed(
        lab, metrics=[pb.Metric(name="spent", role=1, kind=2, event="Order Placed", property="price", window_hours=24)],
        covariate_tag="probability", segment_tags=["job", "has_app"],
    )  # fmt: skip
    known = dict(lab.house.people.select("id, probability", ""))
    # What is true later changes nothing.
    lab.house.people.table.execute("UPDATE person SET probability = 0, job = 'retired'")
    spend = [lab.event(p, properties={"price": 1000 * (known[p] or 0.1) + 10 * (p in other)}) for p in (*control, *other)]
    for start in range(0, len(spend), 500):
        await lab.happen(*spend[start : start + 500])
    results = await lab.results(name)
    [comparison] = results.metrics[0].comparisons
    assert comparison.effect == pytest.approx(10, abs=3)
    assert comparison.variance_reduction > 0.9
    jobs = {s.value: s.persons for s in results.segments if s.tag == "job"}
    assert {"student", "retired", "services", "technician"} == set(jobs)
    assert 1000 == sum(jobs.values())
    assert {"yes"} == {s.value for s in results.segments if s.tag == "has_app"}


async def test_a_metrics_own_past_narrows_its_interval(lab: Lab) -> None:
    spent = pb.Metric(name="spent", role=1, kind=2, event="Order Placed", property="price", window_hours=24)
    name, control, other = await everybody_exposed(lab, metrics=[spent], covariate_past=True)
    events = []
    for person in (*control, *other):
        events += [lab.event(person, hours=when, properties={"price": person % 97}) for when in (-2, 2)]
        events += [lab.event(person, hours=3, properties={"price": (person * 31) % 11})]
    for start in range(0, len(events), 500):
        await lab.happen(*events[start : start + 500])
    [comparison] = (await lab.results(name)).metrics[0].comparisons
    assert comparison.variance_reduction > 0.95


async def test_merged_persons_count_once_with_the_first_exposure_and_parted_ones_each(lab: Lab) -> None:
    name, control, other = await everybody_exposed(lab)
    first, second, third = control[0], other[0], other[1]
    async with lab.house.transaction() as uow:
        await uow.execute("UPDATE exposure SET exposed_at = exposed_at + interval '1 hour' WHERE person_id = :p", p=second)
    bought = lab.event(second, hours=3)
    await lab.happen(bought, lab.event(third))
    apart = await lab.results(name)
    assert {"old": (len(control), 0), "short": (len(other), 2)} == totals(apart)
    # The one exposed later goes on; the earlier exposure counts all the same.
    await lab.changed(cluster_changes=[merged(second, first, 1)], anchor_moves=[moved(first + 10_000, second, 5)])
    together = await lab.results(name)
    assert {"old": (len(control), 1), "short": (len(other) - 1, 1)} == totals(together)
    assert len(EVERYBODY) - 1 == sum(together.sample_ratio.persons)
    assert ["old", "old"] == await lab.assign(name, [first, second])
    # What her old anchor does while they are one is hers.
    await lab.happen(lab.event(second, hours=4, anchor=first + 10_000, version=5))
    assert {"old": (len(control), 1), "short": (len(other) - 1, 1)} == totals(await lab.results(name))
    await lab.changed(cluster_changes=[merged(second, first, 2, "split")], anchor_moves=[moved(first + 10_000, first, 8)])
    parted = await lab.results(name)
    assert {"old": (len(control), 1), "short": (len(other), 2)} == totals(parted)
    assert ["old", "short"] == await lab.assign(name, [first, second])
    assert apart.sample_ratio == parted.sample_ratio


async def test_whatever_merges_and_parts_results_are_those_of_who_is_who_now(lab: Lab) -> None:
    chance, persons = random.Random(5), list(range(1, 61))
    name = await lab.started(metrics=[ORDERED, SPENT])
    variant = dict(zip(persons, await lab.assign(name, persons), strict=True))
    # Nobody is exposed at the same moment, some not at all.
    async with lab.house.transaction() as uow:
        await uow.execute("UPDATE exposure x SET exposed_at = now() - interval '48 hours' + x.person_id * interval '1 minute'")
        await uow.execute("DELETE FROM exposure WHERE person_id % 5 = 0")
    # Of each person two anchors; what happens, happens before, in or after the windows.
    events = [
        (chance.choice(persons), chance.choice([0, 1000]), chance.uniform(-3, 26), chance.randint(1, 99)) for _ in range(300)
    ]
    await lab.happen(
        *(lab.event(p, hours=h, anchor=10_000 + p + side, properties={"price": price}) for p, side, h, price in events)
    )

    def expected(leader: dict[int, int]) -> dict[str, tuple[int, int, int]]:
        counted = {"old": [0, 0, 0], "short": [0, 0, 0]}
        for human in set(leader.values()):
            first = min((p for p in persons if leader[p] == human and p % 5), default=None)
            if first is None:
                continue
            start = first / 60
            spent = [price for p, _, h, price in events if leader[p] == human and start <= h < start + 24]
            for place, more in enumerate((1, bool(spent), sum(spent))):
                counted[variant[first]][place] += more
        return {name: (n, did, total) for name, (n, did, total) in counted.items()}

    async def found() -> dict[str, tuple[int, int, int]]:
        results = await lab.results(name)
        shares, sums = totals(results), totals(results, 1)
        return {each: (shares[each][0], int(shares[each][1]), int(sums[each][1])) for each in shares}

    leader, merges = {p: p for p in persons}, []
    apart = expected(leader)
    assert apart == await found()
    for op in range(1, 41):
        if merges and chance.random() < 0.4:
            # Taken apart in the reverse order, so that who they were stays simple.
            survivor, other, others = merges.pop()
            leader |= dict.fromkeys(others, other)
            change = merged(survivor, other, op, "split")
        else:
            survivor, other = chance.sample(sorted(set(leader.values())), 2)
            others = [p for p in persons if leader[p] == other]
            merges.append((survivor, other, others))
            leader |= dict.fromkeys(others, survivor)
            change = merged(survivor, other, op)
        owner = leader[others[0]]
        moves = [moved(10_000 + p + side, owner, op + 1) for p in others for side in (0, 1000)]
        await lab.changed(cluster_changes=[change], anchor_moves=moves)
        if op % 4 == 0:
            assert expected(leader) == await found()
    for op, (survivor, other, others) in enumerate(reversed(merges), start=41):
        moves = [moved(10_000 + p + side, other, op + 1) for p in others for side in (0, 1000)]
        await lab.changed(cluster_changes=[merged(survivor, other, op, "split")], anchor_moves=moves)
    assert apart == await found()


async def test_of_erased_persons_nothing_stays_and_nothing_comes_back(lab: Lab) -> None:
    name, control, other = await everybody_exposed(lab)
    person, swallowed, stays = control[0], other[0], other[1]
    late = lab.event(person, hours=5)
    await lab.happen(*(lab.event(each) for each in (person, swallowed, stays)))
    await lab.changed(cluster_changes=[merged(person, swallowed, 1)])
    for _ in range(2):
        gone = (person, person + 10_000, swallowed + 10_000)
        await lab.house.hear(ENTITIES, erasure(person, *gone[1:]))
        await lab.happen(late)
        assert ["", ""] == await lab.assign(name, [person, person])
        kept = await lab.house.rows(
            "SELECT person_id, 0 AS anchor_id FROM exposure UNION ALL SELECT person_id, anchor_id FROM experiment_event"
        )
        assert {person, swallowed}.isdisjoint(row.person_id for row in kept)
        assert set(gone).isdisjoint(row.anchor_id for row in kept)
    assert {"old": (len(control) - 1, 0), "short": (len(other) - 1, 1)} == totals(await lab.results(name))


async def test_events_that_cannot_be_counted_are_set_aside_alone(lab: Lab) -> None:
    name, control, _ = await everybody_exposed(lab, metrics=[ORDERED, SPENT])
    bad = [lab.event(control[0], event_id=b"short"), lab.event(control[1], properties_json=b"[1]")]
    wordy = lab.event(control[2], properties={"price": "a lot"})
    await lab.happen(*bad, wordy, lab.event(control[3]))
    assert 2 == await lab.house.dead_letters()
    results = await lab.results(name)
    assert (2, 100) == (totals(results)["old"][1], totals(results, 1)["old"][1])


async def test_a_changed_draft_forgets_what_it_collected(lab: Lab) -> None:
    made = await lab.make()
    await lab.happen(lab.event(1))
    assert 1 == len(await lab.house.rows("SELECT 1 FROM experiment_event"))
    made.metrics[0].event = "App Opened"
    await lab.call.UpdateExperiment(pb.UpdateExperimentRequest(experiment=made))
    await lab.happen(lab.event(1), lab.event(2, name="App Opened"))
    assert [2] == [row.person_id for row in await lab.house.rows("SELECT person_id FROM experiment_event")]
