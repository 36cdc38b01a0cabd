"""Experiments through their door: drafts, starts, assignment, what is measured, and who merges, parts or is erased."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import grpc
import orjson
import pytest
from troika.identity.v1 import events_pb2 as identity_pb2
from troika.orchestrator.v1 import experiment_service_pb2 as pb
from troika.orchestrator.v1.experiment_service_pb2_grpc import (
    ExperimentServiceStub,
    add_ExperimentServiceServicer_to_server,
)

from chassis import rpc
from chassis.db import UnitOfWork
from chassis.rpc import reason_of
from chassis.testing import DatabaseFactory
from services.orchestrator.experiments.definitions import ExperimentId
from services.orchestrator.experiments.handlers import Laboratory
from services.orchestrator.experiments.store import ExperimentStore
from services.orchestrator.experiments.tag_door import ExperimentTags
from services.orchestrator.rpc_experiments import ExperimentRpc
from tests.integration.orchestrator.conftest import House, open_house
from tests.integration.orchestrator.test_consents import said
from tests.integration.orchestrator.test_erasure import erasure
from tests.integration.orchestrator.test_feedback import ENTITIES, EVENTS, merged, moved
from tests.integration.orchestrator.world import HASHES, SECRET, People, peers

EVERYBODY = list(range(1, 1001))
HOUR_US = 3_600_000_000
ORDERED = pb.Metric(name="ordered", role=1, kind=1, event="Order Placed", window_hours=24)
SPENT = pb.Metric(name="spent", role=2, kind=2, event="Order Placed", property="price", window_hours=24)
PRICE = pb.Metric(name="price", role=2, kind=3, event="Order Placed", property="price", window_hours=24)
LEFT = pb.Metric(
    name="left", role=3, kind=1, event="Unsubscribed", property="channel", value="app", window_hours=24,
    lower_is_better=True, tolerated_harm=0.2,
)  # fmt: skip


class Lab:
    """The laboratory under test, as an operator sees it."""

    def __init__(self, house: House, door: Any) -> None:
        self.house, self.call = house, door
        self._events = 0

    async def make(self, **changes: Any) -> pb.Experiment:
        answer = await self.call.CreateExperiment(pb.CreateExperimentRequest(experiment=experiment(**changes)))
        made: pb.Experiment = answer.experiment
        return made

    async def started(self, **changes: Any) -> str:
        made = await self.make(**changes)
        await self.call.StartExperiment(pb.StartExperimentRequest(name=made.name))
        return str(made.name)

    async def assign(self, name: str, persons: Sequence[int]) -> list[str]:
        answer = await self.call.AssignVariants(pb.AssignVariantsRequest(name=name, person_ids=persons))
        return list(answer.variants)

    async def results(self, name: str) -> pb.GetExperimentResultsResponse:
        answer: pb.GetExperimentResultsResponse = await self.call.GetExperimentResults(
            pb.GetExperimentResultsRequest(name=name)
        )
        return answer

    async def two_days_pass(self) -> None:
        """Exposures are two days old."""
        async with self.house.transaction() as uow:
            await uow.execute("UPDATE exposure SET exposed_at = exposed_at - interval '48 hours'")

    async def happen(self, *events: identity_pb2.ResolvedEvent) -> None:
        await self.house.hear(EVENTS, identity_pb2.ResolvedBatch(events=events))

    def event(self, person: int, hours: float = 1, name: str = "Order Placed", **more: Any) -> identity_pb2.ResolvedEvent:
        """Something that happened so many hours after everybody was exposed, in a world where two days have passed."""
        self._events += 1
        anchor, properties = more.pop("anchor", person + 10_000), more.pop("properties", {"price": 100})
        version = more.pop("version", 1)
        stated: dict[str, Any] = {
            "event_id": self._events.to_bytes(16, "big"),
            "name": name,
            "occurred_at_us": time.time_ns() // 1000 + int((hours - 48) * HOUR_US),
            "person": identity_pb2.AnchorOwner(anchor_id=anchor, entity_id=person, version=version),
            "properties_json": orjson.dumps(properties),
        }
        return identity_pb2.ResolvedEvent(**(stated | more))

    async def changed(self, **changes: Any) -> None:
        await self.house.hear(ENTITIES, identity_pb2.EntitiesChanged(**changes))


def experiment(**changes: Any) -> pb.Experiment:
    stated: dict[str, Any] = {
        "title": "A shorter title",
        "layer": "offers",
        "bucket_from": 0,
        "bucket_to": 10_000,
        "variants": [pb.Variant(name="old", weight=1), pb.Variant(name="short", weight=1)],
        "metrics": [ORDERED],
        "planned_persons": 1000,
    }
    return pb.Experiment(**(stated | changes))


@pytest.fixture
async def lab(databases: DatabaseFactory) -> AsyncIterator[Lab]:
    people = People()
    async with open_house(databases, people, global_holdout_share=0.0) as house, peers(people) as target:
        async with rpc.connect(target, "orchestrator", SECRET) as to_tags:
            settings = house.room.settings
            server = rpc.Server(HASHES, settings.allowed_callers(), with_reflection=False)
            room = Laboratory(house.database, ExperimentTags(to_tags, settings.eligibility_age_s), settings)
            add_ExperimentServiceServicer_to_server(ExperimentRpc(room), server.aio)
            port = await server.start("127.0.0.1:0")
            async with rpc.connect(f"127.0.0.1:{port}", "operator", SECRET) as channel:
                yield Lab(house, ExperimentServiceStub(channel))
            await server.stop(0)


async def refused(call: Any) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    reason, field = reason_of(error.value)
    return error.value.code(), reason, field


def totals(results: pb.GetExperimentResultsResponse, metric: int = 0) -> dict[str, tuple[int, float]]:
    return {each.variant: (each.persons, each.total) for each in results.metrics[metric].variants}


async def test_a_draft_is_changed_started_once_and_stands_still(lab: Lab) -> None:
    made = await lab.make()
    assert ("experiments/1", 1, 1, 0.05) == (made.name, made.state, made.version, made.alpha)
    made.title, made.bucket_to = "Another title", 5000
    answer = await lab.call.UpdateExperiment(pb.UpdateExperimentRequest(experiment=made))
    assert ("Another title", 5000, 2) == (answer.experiment.title, answer.experiment.bucket_to, answer.experiment.version)
    stale = await refused(lab.call.UpdateExperiment(pb.UpdateExperimentRequest(experiment=made)))
    assert (grpc.StatusCode.FAILED_PRECONDITION, "EXPERIMENT_CHANGED", "experiment.version") == stale
    early = await refused(lab.call.AssignVariants(pb.AssignVariantsRequest(name=made.name, person_ids=[1])))
    assert (grpc.StatusCode.FAILED_PRECONDITION, "EXPERIMENT_NOT_STARTED", "name") == early
    first = await lab.call.StartExperiment(pb.StartExperimentRequest(name=made.name))
    again = await lab.call.StartExperiment(pb.StartExperimentRequest(name=made.name))
    assert 2 == first.experiment.state
    assert first == again
    late = await refused(lab.call.UpdateExperiment(pb.UpdateExperimentRequest(experiment=answer.experiment)))
    assert (grpc.StatusCode.FAILED_PRECONDITION, "EXPERIMENT_FROZEN", "experiment.name") == late
    stopped = await lab.call.StopExperiment(pb.StopExperimentRequest(name=made.name, reason="enough"))
    assert (3, "enough") == (stopped.experiment.state, stopped.experiment.stop_reason)
    assert stopped == await lab.call.StopExperiment(pb.StopExperimentRequest(name=made.name, reason="again"))
    over = await refused(lab.call.StartExperiment(pb.StartExperimentRequest(name=made.name)))
    assert (grpc.StatusCode.FAILED_PRECONDITION, "EXPERIMENT_OVER", "name") == over
    assert stopped.experiment == (await lab.call.GetExperiment(pb.GetExperimentRequest(name=made.name))).experiment


async def test_the_same_request_makes_one_experiment_and_pages_show_all(lab: Lab) -> None:
    request = pb.CreateExperimentRequest(experiment=experiment(bucket_to=100), request_id="mine")
    both = await asyncio.gather(lab.call.CreateExperiment(request), lab.call.CreateExperiment(request), return_exceptions=True)
    # Whoever is second either finds the first's experiment or its buckets.
    names = {each.experiment.name for each in both if not isinstance(each, BaseException)}
    assert names == {(await lab.call.CreateExperiment(request)).experiment.name}
    for start in range(100, 500, 100):
        await lab.make(bucket_from=start, bucket_to=start + 100)
    found, token = [], ""
    while True:
        page = await lab.call.ListExperiments(pb.ListExperimentsRequest(page_size=2, page_token=token))
        found += [each.bucket_from for each in page.experiments]
        if not (token := page.next_page_token):
            break
    assert [400, 300, 200, 100, 0] == found


async def test_ranges_of_a_layer_do_not_meet(lab: Lab) -> None:
    await lab.make(bucket_from=1000, bucket_to=2000)
    for low, high in ((1999, 3000), (0, 1001), (1200, 1300), (0, 10_000)):
        request = pb.CreateExperimentRequest(experiment=experiment(bucket_from=low, bucket_to=high))
        taken = await refused(lab.call.CreateExperiment(request))
        assert (grpc.StatusCode.FAILED_PRECONDITION, "BUCKETS_TAKEN", "experiment.bucket_from") == taken
    await lab.make(bucket_from=2000, bucket_to=3000)
    other = await lab.make(layer="texts")
    other.layer = "offers"
    moved_over = await refused(lab.call.UpdateExperiment(pb.UpdateExperimentRequest(experiment=other)))
    assert "BUCKETS_TAKEN" == moved_over[1]
    # Of many at once, one gets the range.
    requests = [pb.CreateExperimentRequest(experiment=experiment(bucket_from=5000, bucket_to=6000)) for _ in range(6)]
    made = await asyncio.gather(*(lab.call.CreateExperiment(each) for each in requests), return_exceptions=True)
    [winner] = [each.experiment.name for each in made if not isinstance(each, BaseException)]
    # Who is over makes room.
    await lab.call.StopExperiment(pb.StopExperimentRequest(name=winner))
    await lab.make(bucket_from=5000, bucket_to=6000)


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"eligibility": "no_such_tag = 1"}, "UNKNOWN_TAG", "experiment.eligibility"),
        ({"covariate_tag": "no_such_tag"}, "UNKNOWN_TAG", "experiment.covariate_tag"),
        ({"covariate_tag": "job"}, "WRONG_TAG_TYPE", "experiment.covariate_tag"),
        ({"segment_tags": ["job", "probability"]}, "WRONG_TAG_TYPE", "experiment.segment_tags[1]"),
        ({"segment_tags": ["previous_outcome"]}, "SENSITIVE_TAG", "experiment.segment_tags[0]"),
        ({"bucket_from": 5000, "bucket_to": 5000}, "EMPTY_BUCKET_RANGE", "experiment.bucket_to"),
        ({"metrics": [LEFT]}, "NOT_ONE_PRIMARY_METRIC", "experiment.metrics"),
    ],
)
async def test_a_mistake_is_named(lab: Lab, changes: dict[str, Any], reason: str, field: str) -> None:
    lab.house.people.secret = frozenset({"previous_outcome"})
    request = pb.CreateExperimentRequest(experiment=experiment(**changes))
    assert (grpc.StatusCode.INVALID_ARGUMENT, reason, field) == await refused(lab.call.CreateExperiment(request))


async def test_unknown_experiments_are_not_found(lab: Lab) -> None:
    for call in (
        lab.call.GetExperiment(pb.GetExperimentRequest(name="experiments/77")),
        lab.call.StartExperiment(pb.StartExperimentRequest(name="experiments/77")),
        lab.call.StopExperiment(pb.StopExperimentRequest(name="experiments/77")),
        lab.call.GetExperimentResults(pb.GetExperimentResultsRequest(name="experiments/77")),
        lab.call.AssignVariants(pb.AssignVariantsRequest(name="experiments/77", person_ids=[1])),
    ):
        assert (grpc.StatusCode.NOT_FOUND, "EXPERIMENT_NOT_FOUND", "name") == await refused(call)
    nameless = pb.UpdateExperimentRequest(experiment=experiment(name="77"))
    assert "experiment.name" == (await refused(lab.call.UpdateExperiment(nameless)))[2]


async def test_assignment_is_stable_and_the_first_exposure_stays(lab: Lab) -> None:
    name = await lab.started(bucket_to=7000)
    first = await lab.assign(name, EVERYBODY)
    rows = await lab.house.rows("SELECT person_id, variant, exposed_at FROM exposure ORDER BY 1")
    assert 600 < len(rows) < 800
    assert len(rows) == sum(variant != "" for variant in first)
    again = await asyncio.gather(*(lab.assign(name, EVERYBODY[::-1]) for _ in range(3)))
    assert all(first == each[::-1] for each in again)
    assert rows == await lab.house.rows("SELECT person_id, variant, exposed_at FROM exposure ORDER BY 1")
    assert [first[0], first[1], first[0]] == await lab.assign(name, [1, 2, 1])
    ratio = (await lab.results(name)).sample_ratio
    assert (len(rows), False) == (sum(ratio.persons), ratio.broken)
    await lab.call.StopExperiment(pb.StopExperimentRequest(name=name))
    assert ["", ""] == await lab.assign(name, [1, 2])


async def test_only_the_eligible_take_part_and_keep_their_variant_when_they_are_no_longer(lab: Lab) -> None:
    name = await lab.started(eligibility="job = 'student'")
    students = {row[0] for row in lab.house.people.select("id", "job = 'student'")}
    variants = dict(zip(EVERYBODY, await lab.assign(name, EVERYBODY), strict=True))
    assert students == {person for person, variant in variants.items() if variant}
    lab.house.people.table.execute("UPDATE person SET job = 'retired'")
    assert variants == dict(zip(EVERYBODY, await lab.assign(name, EVERYBODY), strict=True))


async def test_who_switched_personalisation_off_takes_no_part(lab: Lab) -> None:
    name = await lab.started()
    await lab.changed(
        consent_changes=[
            said(1, "personalisation", "all", given=False),
            said(2, "personalisation", "app", given=False),
            said(3, "personalisation", "all", given=True),
            said(4, "marketing", "all", given=False),
            said(6, "personalisation", "all", given=False),
        ],
        # Whose anchor moves on, what was said through it moves along.
        anchor_moves=[moved(said(6, "personalisation", "all", given=False).anchor_id, 5, 9)],
    )
    found = await lab.assign(name, [1, 2, 3, 4, 5, 6])
    assert [False, False, True, True, False, True] == [variant != "" for variant in found]
    # Later, too; what was measured until then counts.
    await lab.changed(consent_changes=[said(4, "personalisation", "all", given=False)])
    assert ["", found[2]] == await lab.assign(name, [4, 3])
    assert 3 == sum((await lab.results(name)).sample_ratio.persons)


async def test_the_global_holdout_takes_no_part(databases: DatabaseFactory) -> None:
    people = People()
    async with open_house(databases, people, global_holdout_share=0.3) as house, peers(people) as target:
        async with rpc.connect(target, "orchestrator", SECRET) as to_tags:
            door = ExperimentTags(to_tags, 10)
            server = rpc.Server(HASHES, house.room.settings.allowed_callers(), with_reflection=False)
            add_ExperimentServiceServicer_to_server(
                ExperimentRpc(Laboratory(house.database, door, house.room.settings)), server.aio
            )
            port = await server.start("127.0.0.1:0")
            async with rpc.connect(f"127.0.0.1:{port}", "operator", SECRET) as channel:
                lab = Lab(house, ExperimentServiceStub(channel))
                one, other = await lab.started(), await lab.started(layer="texts")
                both = [await lab.assign(name, EVERYBODY) for name in (one, other)]
            await server.stop(0)
    kept_out = [{p for p, variant in zip(EVERYBODY, each, strict=True) if not variant} for each in both]
    assert kept_out[0] == kept_out[1]
    assert 230 < len(kept_out[0]) < 370


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
        await uow.execute("DELETE FROM exposure WHERE person_id = ANY(CAST(:p AS bigint[]))", p=control[:150])
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


async def test_whoever_went_into_somebody_is_assigned_as_that_one(lab: Lab) -> None:
    name = await lab.started()
    await lab.changed(cluster_changes=[merged(7, 8, 1)])
    [swallowed, survivor] = await lab.assign(name, [8, 7])
    assert swallowed == survivor
    assert [7] == [row.person_id for row in await lab.house.rows("SELECT person_id FROM exposure")]


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


async def test_power_is_previewed(lab: Lab) -> None:
    request = pb.PreviewPowerRequest(baseline=0.1, minimal_effect=0.02, weights=[1, 1], persons_per_day=500)
    answer = await lab.call.PreviewPower(request)
    assert 2 * 3839 == pytest.approx(answer.fixed_horizon.persons, rel=0.01)
    assert answer.fixed_horizon.persons / 500 == answer.fixed_horizon.days
    assert answer.sequential.persons > answer.fixed_horizon.persons
    nonsense = pb.PreviewPowerRequest(baseline=1.5, minimal_effect=0.02, weights=[1, 1])
    assert "baseline" == (await refused(lab.call.PreviewPower(nonsense)))[2]


class Explaining:
    """A unit of work that has every statement explained instead of run."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow, self.plan = uow, ""

    async def rows(self, statement: str, **parameters: Any) -> list[Any]:
        self.plan = "\n".join(row[0] for row in await self._uow.rows("EXPLAIN " + statement, **parameters))
        return []


async def test_questions_of_an_assignment_are_answered_by_index(lab: Lab) -> None:
    async with lab.house.transaction() as uow:
        await uow.execute(
            "INSERT INTO consent SELECT n, purpose, 'all', false, n, 1, -1, 9223372036854775807"
            " FROM generate_series(1, 20000) n, unnest(ARRAY['personalisation', 'marketing']) purpose"
        )
        await uow.execute("INSERT INTO anchor_owner SELECT n, n + 1, 2 FROM generate_series(1, 20000, 2) n")
        await uow.execute("INSERT INTO person_alias SELECT n, n + 1, 2 FROM generate_series(1, 200000, 2) n")
        await uow.execute(
            "INSERT INTO exposure SELECT e, n, 0, NULL, '[]', now() FROM generate_series(1, 3) e, generate_series(1, 20000) n"
        )
        for table in ("consent", "anchor_owner", "person_alias", "exposure"):
            await uow.execute(f"ANALYZE {table}")
        explaining, plans = Explaining(uow), []
        store = ExperimentStore(explaining)  # type: ignore[arg-type]
        for question in (
            store.present([5, 6]),
            store.exposed(ExperimentId(2), [5, 6]),
            store.without_personalisation([5, 6], datetime.now(UTC)),
        ):
            await question
            plans.append(explaining.plan)
    assert [] == [plan for plan in plans if "Seq Scan" in plan]
    assert "ix_person_alias_survivor_id" in plans[1] and "pk_exposure" in plans[1]
    assert "ix_consent_personalisation" in plans[2] and "ix_anchor_owner_person_id" in plans[2]
