"""Alerts and dashboards ask for what the services really tell, and whoever is woken finds a page that says what to do."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import promql_parser
import pytest
import yaml

from helm import generate
from tests.house.source import ROOT, files, modules

RUNBOOKS = ROOT / "docs" / "runbooks"
PARTS = ("## Meaning", "## Impact", "## Diagnosis", "## Mitigation")
# What others tell: Prometheus itself, kube-state-metrics, and the client library of every process.
FOREIGN = {
    "up": {"job", "pod"},
    "kube_job_status_failed": {"job_name"},
    "process_resident_memory_bytes": set(),
    "process_cpu_seconds_total": set(),
}
# What Prometheus adds where it asks.
ADDED = {"namespace", "pod", "service", "le"}


def metrics(source: str) -> Iterator[tuple[str, set[str]]]:
    """(series, its labels) of each metric that a module defines."""
    tree = ast.parse(source)
    imported = {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "prometheus_client"
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in imported and node.args:
            name = ast.literal_eval(node.args[0])
            labels = set(ast.literal_eval(node.args[2])) if len(node.args) > 2 else set()
            histogram = imported[node.func.id] == "Histogram"
            for end in ("_bucket", "_count", "_sum") if histogram else ("",):
                yield name + end, labels


@pytest.fixture(scope="module")
def told() -> dict[str, set[str]]:
    found = {series: labels for path in modules("chassis", "services") for series, labels in metrics(path.read_text())}
    assert len(found) > 50
    return found | FOREIGN | {rule["record"]: {"release"} for rule in rules() if "record" in rule}


def rules() -> list[dict[str, Any]]:
    objects = yaml.load_all(generate.rendered("full"), yaml.CSafeLoader)
    [found] = [each["spec"]["groups"] for each in objects if each and each["kind"] == "PrometheusRule"]
    return [rule for group in found for rule in group["rules"]]


class Query(NamedTuple):
    where: str
    expression: str


def queries() -> Iterator[Query]:
    for rule in rules():
        yield Query(rule.get("alert") or rule["record"], rule["expr"])
    for path in files("helm/troika/dashboards/*.json"):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield Query(f"{path.stem}: {panel['title']}", target["expr"])


def asked(expression: str) -> Iterator[tuple[str, set[str]]]:
    """(series, labels by which it is chosen or grouped) of a query; raises ValueError when it is none."""

    def walk(part: Any, grouped: set[str]) -> Iterator[tuple[str, set[str]]]:
        if isinstance(part, promql_parser.AggregateExpr) and part.modifier is not None:
            grouped = grouped | set(part.modifier.labels)
        if isinstance(part, promql_parser.MatrixSelector):
            part = part.vector_selector
        if isinstance(part, promql_parser.VectorSelector):
            yield part.name, grouped | {matcher.name for matcher in part.matchers.matchers}
        for name in ("expr", "lhs", "rhs", "param"):
            if isinstance(child := getattr(part, name, None), promql_parser.Expr):
                yield from walk(child, grouped)
        for child in getattr(part, "args", ()):
            yield from walk(child, grouped)

    yield from walk(promql_parser.parse(expression), set())


def test_alerts_and_dashboards_ask_for_what_the_code_tells(told: dict[str, set[str]]) -> None:
    wrong = {}
    for query in queries():
        found = list(asked(query.expression))
        assert found or query.expression.startswith("vector("), query
        for series, labels in found:
            if series not in told or labels - told[series] - ADDED:
                wrong[query.where] = series, sorted(labels - told.get(series, set()) - ADDED)
            assert series.startswith(("troika:", "vector")) or "namespace" in labels, query
    assert {} == wrong


def test_the_parser_sees_into_every_corner_of_a_query() -> None:
    query = (
        'max by (a) (x{n="1"}) > 0 unless sum by (b) (rate(y_total{c="2"}[5m])) > 0 and time() - histogram_quantile(0.9, z) > 1'
    )
    assert {"x": {"a", "n"}, "y_total": {"b", "c"}, "z": set()} == dict(asked(query))


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    alerts = {rule["alert"]: rule for rule in rules() if "alert" in rule}
    pages = {path.stem: path.read_text() for path in RUNBOOKS.glob("*.md")}
    assert set(alerts) == set(pages)
    for name, rule in alerts.items():
        assert rule["annotations"]["runbook_url"].endswith(f"/{name}.md")
        assert rule["labels"]["severity"] in ("critical", "warning")
        lines = pages[name].splitlines()
        assert f"# {name}" == lines[0]
        assert list(PARTS) == [line for line in lines if line.startswith("## ")], name


def test_commands_in_runbooks_are_ones_that_there_are() -> None:
    for page in RUNBOOKS.glob("*.md"):
        for service, verb in re.findall(r"python -m services\.(\w+) ([\w-]+)", page.read_text()):
            code = "".join(path.read_text() for path in modules(f"services/{service}"))
            assert re.search(rf'[vV]erb\(\s*"{verb}"', code), (page.name, service, verb)
