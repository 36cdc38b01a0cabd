"""The whole suite as processes, the demo's own code with few people: the loop closes, its promises hold, its traces join."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
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

from local.demo import report
from local.demo.console import Screen
from local.demo.operator import Operator, until
from local.demo.run import Result, run
from local.plan import SERVICES
from local.supervisor import Suite
from tests.e2e.otlp import Collector, Seen, collecting

PERSONS = 1000
SEED = 7
CLIENT, SERVER, CONSUMER = 3, 2, 5


@dataclass(frozen=True)
class Loop:
    """The suite after the demo ran on it."""

    suite: Suite
    result: Result
    collector: Collector
    steps: dict[str, float]


@pytest.fixture(scope="module")
async def loop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Loop]:
    screen = Screen(Console(file=StringIO()))
    async with collecting() as collector:
        tracing = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{collector.address}",
            "OTEL_EXPORTER_OTLP_INSECURE": "true",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            # Only what arrives with a sampled trace is recorded: the test's own request.
            "OTEL_TRACES_SAMPLER_ARG": "0",
        }
        async with Suite(tmp_path_factory.mktemp("suite"), environment=tracing) as suite:
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


async def test_one_trace_spans_all_five_services(loop: Loop) -> None:
    """A record makes a feature: door → identity → tags → scoring → gRPC to tags, all by the bus; orchestrator reads along."""
    trace_id = secrets.token_hex(16)
    async with Operator(loop.suite) as operator:
        source = Source(name="dealer:TRACE", user_id_kind=USER_ID_KIND_CRM_ID)
        key = (await operator.ask(operator.touchpoints.CreateSource, CreateSourceRequest(source=source))).write_key
        record = {
            "record_id": "T1",
            "updated_at": datetime.now(UTC).isoformat(),
            "identifiers": {"mobile": "13912345678", "name": "欧阳娜娜"},
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

    async def services() -> set[str]:
        return {span.service for span in loop.collector.of(trace_id)}

    assert set(SERVICES) == await until(services, lambda seen: seen == set(SERVICES), 15, every=0.2)
    spans = loop.collector.of(trace_id)
    assert {"POST /v1/records"} == {span.name for span in spans if span.kind == SERVER and span.service == "touchpoints"}
    assert {"identity", "tags", "scoring", "orchestrator"} <= {span.service for span in spans if span.kind == CONSUMER}
    assert any(span.attributes.get("rpc.system") == "grpc" and span.service == "tags" for span in spans)
    assert {"identity", "tags", "scoring"} <= {span.service for span in spans if span.name == "db transaction"}
    assert [] == orphans(spans)


def orphans(spans: list[Seen]) -> list[Seen]:
    """Spans whose parent nobody recorded; the request's own parent was made by the test."""
    known = {span.span_id for span in spans}
    return [span for span in spans if span.parent_id not in known and span.kind != SERVER]
