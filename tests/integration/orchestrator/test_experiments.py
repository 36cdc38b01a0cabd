"""Experiments through their door: drafts, starts, who is assigned to what."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import grpc
import orjson
import pytest
from troika.orchestrator.v1 import experiment_service_pb2 as pb
from troika.orchestrator.v1 import offer_service_pb2 as offer_pb
from troika.orchestrator.v1.experiment_service_pb2_grpc import (
    ExperimentServiceStub,
)
from troika.orchestrator.v1.offer_service_pb2_grpc import OfferServiceStub

from chassis import rpc
from chassis.bus import Bus
from chassis.db import UnitOfWork
from chassis.testing import DatabaseFactory
from services.orchestrator.experiments.definitions import ExperimentId
from services.orchestrator.experiments.store import ExperimentStore
from tests.integration.orchestrator.laboratory import (
    EVERYBODY,
    LEFT,
    Lab,
    experiment,
    open_lab,
    refused,
)
from tests.integration.orchestrator.test_consents import said
from tests.integration.orchestrator.test_feedback import merged, moved
from tests.integration.orchestrator.world import HASHES, SECRET


@pytest.fixture
async def lab(databases: DatabaseFactory) -> AsyncIterator[Lab]:
    async with open_lab(databases) as lab:
        yield lab


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
    async with open_lab(databases, global_holdout_share=0.3) as lab:
        both = [await lab.assign(name, EVERYBODY) for name in (await lab.started(), await lab.started(layer="texts"))]
    kept_out = [{p for p, variant in zip(EVERYBODY, each, strict=True) if not variant} for each in both]
    assert kept_out[0] == kept_out[1]
    assert 230 < len(kept_out[0]) < 370


async def test_whoever_went_into_somebody_is_assigned_as_that_one(lab: Lab) -> None:
    name = await lab.started()
    await lab.changed(cluster_changes=[merged(7, 8, 1)])
    [swallowed, survivor] = await lab.assign(name, [8, 7])
    assert swallowed == survivor
    assert [7] == [row.person_id for row in await lab.house.rows("SELECT person_id FROM exposure")]


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


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port: int = door.getsockname()[1]
        return port


async def test_a_served_orchestrator_opens_every_door_of_its_contract(
    databases: DatabaseFactory, servers: Any, bus: Bus
) -> None:
    dsn, _ = await databases.address("orchestrator")
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TROIKA_POSTGRES_DSN": dsn,
        "TROIKA_NATS_URL": servers.nats_url,
        "TROIKA_GRPC_PORT": str(port),
        "TROIKA_HTTP_PORT": "0",
        "TROIKA_CALLER_TOKEN": SECRET,
        "TROIKA_REFERRAL_DEVICE_KEY": "0" * 64,
        "TROIKA_CALLER_TOKEN_SHA256": orjson.dumps(HASHES).decode(),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.orchestrator", "serve", env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with rpc.connect(f"127.0.0.1:{port}", "operator", SECRET) as channel:
            answer = None
            for _ in range(120):
                with suppress(grpc.aio.AioRpcError):
                    answer = await ExperimentServiceStub(channel).ListExperiments(pb.ListExperimentsRequest())
                    break
                await asyncio.sleep(0.5)
            assert pb.ListExperimentsResponse() == answer
            offers = await OfferServiceStub(channel).ListOffers(offer_pb.ListOffersRequest())
            assert offer_pb.ListOffersResponse() == offers
    finally:
        process.terminate()
        await process.wait()
