"""The chart's pods as processes, the demo's own code with few people: the loop closes, its promises hold, an upgrade too."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import sys
import zipfile
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import httpx
import orjson
import pytest
from rich.console import Console
from troika.identity.v1.events_pb2 import ENTITY_KIND_PERSON
from troika.tags.v1.tags_service_pb2 import CountAudienceRequest
from troika.touchpoints.v1.touchpoints_service_pb2 import USER_ID_KIND_CRM_ID, CreateSourceRequest, Source

from chassis.bus import Bus
from chassis.tls import Certificates
from local.demo import report
from local.demo.console import Screen
from local.demo.operator import Operator, until
from local.demo.run import Result, run
from local.plan import SERVICES
from tests.cluster.load import Load
from tests.cluster.pods import Cluster, installed
from tests.cluster.releases import next_release
from tests.e2e.otlp import Collector, Seen, collecting

PERSONS = 1000
SEED = 7
CLIENT, SERVER, CONSUMER = 3, 2, 5
MOBILE = "13972846105"
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Loop:
    """The release after the demo ran on it."""

    suite: Cluster
    result: Result
    collector: Collector
    steps: dict[str, float]


@pytest.fixture(scope="module")
async def loop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Loop]:
    screen = Screen(Console(file=StringIO()))
    async with collecting() as collector, installed(tmp_path_factory.mktemp("cluster"), f"http://{collector.address}") as suite:
        yield Loop(suite, await run(screen, suite, PERSONS, SEED), collector, screen.seconds)


def test_every_promise_of_the_demo_holds(loop: Loop) -> None:
    assert [] == [check for check in loop.result.checks if not check.holds]


def test_identities_agree_with_the_truth(loop: Loop) -> None:
    figures = loop.result.figures
    assert 0.999 <= figures["identity_precision"]
    assert 0.98 <= figures["identity_recall"]


def test_people_are_chosen_better_than_by_chance(loop: Loop) -> None:
    figures = loop.result.figures
    assert figures["random_group_of_same_size"]["value"] < figures["targeted"]["value"]
    assert 0.8 < figures["sales_kept_at_65_percent"]
    assert 2.0 < figures["top_decile_lift"]


def test_every_channel_pushed_and_heard_back(loop: Loop) -> None:
    answered = {channel.channel: channel.answered for channel in loop.result.outcome.report.channels}
    assert {"app", "wechat", "dealer"} == {channel for channel, count in answered.items() if count}


def test_a_holdout_was_kept_and_measured(loop: Loop) -> None:
    effect, holdout = loop.result.figures["effect_vs_holdout"], loop.result.figures["holdout"]
    assert 0 < holdout["of"] < loop.result.figures["pushes"]
    assert effect["low"] <= effect["value"] <= effect["high"]


def test_receivers_failed_on_purpose_and_lost_nothing(loop: Loop) -> None:
    reports = loop.result.judgement.reports
    assert 0 < sum(report["failures_injected"] for report in reports.values())
    assert 0 == sum(report["internal_errors"] + report["malformed"] for report in reports.values())


def test_the_report_is_written_with_the_names_that_benches_compare(loop: Loop, tmp_path: Path) -> None:
    report.write(tmp_path, loop.result.outcome, loop.result.figures, loop.result.checks, loop.steps)
    written = json.loads((tmp_path / "report.json").read_text())
    names = "persons vehicles merges pushes acknowledged feedback identity_precision identity_recall"
    more = "sales_kept_at_65_percent top_decile_lift effect_vs_holdout seconds"
    assert set() == {*names.split(), *more.split()} - set(written["figures"])
    assert written["real"] and written["made"]
    assert b"\x89PNG" == (tmp_path / "report.png").read_bytes()[:4]


@pytest.fixture(scope="module")
async def traced(loop: Loop) -> str:
    """The trace of a record of MOBILE that has come all the way to a score."""
    trace_id = secrets.token_hex(16)
    async with Operator(loop.suite) as operator:
        source = Source(name="dealer:TRACE", user_id_kind=USER_ID_KIND_CRM_ID)
        key = (await operator.ask(operator.touchpoints.CreateSource, CreateSourceRequest(source=source))).write_key
        record = {
            "record_id": "T1",
            "updated_at": datetime.now(UTC).isoformat(),
            "identifiers": {"mobile": MOBILE, "name": "欧阳娜娜"},
            "attributes": {"age": 41, "job": "services", "euribor3m": 1.0},
        }
        headers = {
            "authorization": "Basic " + base64.b64encode(f"{key}:".encode()).decode(),
            "traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01",
        }
        async with httpx.AsyncClient(base_url=loop.suite.url("touchpoints"), trust_env=False) as client:
            # The new source's key is known to every door within two seconds.
            while (
                response := await client.post("/v1/records", content=orjson.dumps(record), headers=headers)
            ).status_code == 401:
                await asyncio.sleep(0.2)
        assert {"accepted": 1, "rejected": []} == response.json()
        predicate = "dealer_code = 'TRACE' AND lead_score IS NOT NULL"
        request = CountAudienceRequest(entity_kind=ENTITY_KIND_PERSON, predicate=predicate)

        async def scored() -> int:
            return (await operator.ask(operator.tags.CountAudience, request)).count

        await until(scored, lambda count: count == 1, 30, every=0.2)
    return trace_id


async def test_one_trace_spans_all_five_services(loop: Loop, traced: str) -> None:
    """A record makes a feature: door → identity → tags → scoring → gRPC to tags, all by the bus; orchestrator reads along."""

    async def services() -> set[str]:
        return {span.service for span in loop.collector.of(traced)}

    async def parentless() -> list[Seen]:
        return orphans(loop.collector.of(traced))

    assert set(SERVICES) == await until(services, lambda seen: seen == set(SERVICES), 15, every=0.2)
    # Each service tells its spans when it likes: a child may be there before its parent.
    assert [] == await until(parentless, lambda seen: not seen, 15, every=0.2)
    spans = loop.collector.of(traced)
    assert {"POST /v1/records"} == {span.name for span in spans if span.kind == SERVER and span.service == "touchpoints"}
    assert {"identity", "tags", "scoring", "orchestrator"} <= {span.service for span in spans if span.kind == CONSUMER}
    assert any(span.attributes.get("rpc.system") == "grpc" and span.service == "tags" for span in spans)
    assert {"identity", "tags", "scoring"} <= {span.service for span in spans if span.name == "db transaction"}


async def test_who_has_only_the_client_package_asks_the_suite(loop: Loop, traced: str, tmp_path: Path) -> None:
    """The wheel as `make artefacts` builds it, and its examples; nothing else of this repository is in their reach."""

    async def program(*words: str) -> tuple[int, str, str]:
        reach = loop.suite.outside() | {"PYTHONPATH": str(tmp_path / "installed")}
        started = await asyncio.create_subprocess_exec(
            sys.executable, *words, stdout=PIPE, stderr=PIPE, cwd=tmp_path, env=reach
        )
        out, errors = await started.communicate()
        return started.returncode or 0, out.decode(), errors.decode()

    assert 0 == (await program(str(ROOT / "client/build.py"), "built"))[0]
    (wheel,) = (tmp_path / "built").glob("troika_client-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    code, out, errors = await program(str(ROOT / "client/examples/who_is.py"), MOBILE)
    assert (0, "") == (code, errors)
    assert {"job = services", "dealer_code = TRACE"} <= {line.strip() for line in out.splitlines()}
    assert (0, "nobody is known by it\n", "") == await program(str(ROOT / "client/examples/who_is.py"), "13900000000")
    code, out, errors = await program(str(ROOT / "client/examples/audience.py"), "dealer_code = 'TRACE'")
    assert (0, "") == (code, errors)
    # More tags than one page holds, so pages were turned.
    assert 50 < int(out.split()[0])
    assert "\n1 of " in out
    code, _, errors = await program(str(ROOT / "client/examples/audience.py"), "no_such_tag > 30")
    assert 1 == code
    assert errors.startswith("UNKNOWN_TAG predicate: ")


async def test_pods_answer_their_probes_and_nobody_asked_for_what_policies_forbid(loop: Loop) -> None:
    pods, probes = loop.suite.pods.values(), ("startupProbe", "readinessProbe", "livenessProbe")
    async with httpx.AsyncClient(trust_env=False) as client:
        assert len(SERVICES) * [3 * [True]] == [[await pod.probe(client, probe) for probe in probes] for pod in pods]
    assert [] == loop.suite.network.refused


async def test_helm_test_walks_through_and_leaves_nobody_behind(loop: Loop) -> None:
    [walk] = loop.suite.of("Pod")
    said = await loop.suite.run_job(walk, after_release=True)
    assert 6 == said.count("ok  ") and "the person is erased" in said
    assert [] == loop.suite.network.refused


async def test_doctor_finds_nothing_bad_in_a_pod(loop: Loop) -> None:
    # Of whoever has most neighbours: what is looked at is the same for all.
    [name] = [name for name in loop.suite.pods if name.startswith("troika-touchpoints")]
    code, said = await loop.suite.execute(name, "doctor", "--json")
    findings = json.loads(said)
    assert (0, []) == (code, [each for each in findings if each["state"] == "bad"]), said
    assert {"certificate", "postgres", "schema", "nats", "door of identity"} <= {each["what"] for each in findings}


async def test_an_upgrade_under_load_fails_no_request_and_loses_and_doubles_nothing(loop: Loop, tmp_path: Path) -> None:
    """Each service is rolled to the next release, one after the other."""
    cluster, after = loop.suite, next_release(tmp_path)
    before = set(cluster.pods)
    shown = Certificates(str(cluster.folder / "issued" / "orchestrator"))
    bus = Bus(cluster.secrets["troika-nats"]["url"], "load", certificates=shown)
    await bus.connect()
    try:
        async with Operator(cluster) as operator:
            load = Load().at(operator, bus, cluster.door)
            async with load.receiving() as receiver:
                await load.begin(receiver)
                async with load.going_on():
                    # As Helm does it: all schemas are the next release's while all processes are still this one's.
                    await cluster.migrate(after)
                    for service in SERVICES:
                        await cluster.roll(service, after)
                await load.everything_arrived()
    finally:
        await bus.close()
    assert [] == load.failures
    assert (set(SERVICES), set()) == (set(load.answered), before & set(cluster.pods))
    # A call that is broken off is made again.
    assert {1} == set(load.received.values()) and load.pushed == len(load.received)
    assert ([], []) == (cluster.killed, cluster.network.refused)


def orphans(spans: list[Seen]) -> list[Seen]:
    """Spans whose parent nobody recorded; the request's own parent was made by the test."""
    known = {span.span_id for span in spans}
    return [span for span in spans if span.parent_id not in known and span.kind != SERVER]
