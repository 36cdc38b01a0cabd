"""The Helm chart renders, its objects are what Kubernetes takes, and it says of the services what they say of themselves."""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
from base64 import b64decode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from chassis.settings import ChassisSettings
from helm import generate
from tests.house.source import modules

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "troika"
VALUES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
SERVICES = ("identity", "tags", "scoring", "orchestrator", "touchpoints")
# The oldest that the chart takes (before 1.30 nothing sleeps before the stop), one between, and a new one.
VERSIONS = ("1.30", "1.34", "1.37")
# What executors of Spark share with the job that they work for, and how it is set up.
SPARK_VOLUMES = ("configMap", "persistentVolumeClaim")
# Objects of operators, whose schemas no wheel carries.
FOREIGN = ("cert-manager.io", "monitoring.coreos.com", "keda.sh", "gateway.networking.k8s.io")


@pytest.fixture(scope="session")
def rendered() -> dict[str, list[dict[str, Any]]]:
    """By the name of the values: all objects."""
    return {name: [each for each in yaml.load_all(generate.rendered(name), yaml.CSafeLoader) if each] for name in VALUES}


@pytest.fixture(params=VALUES)
def objects(request: pytest.FixtureRequest, rendered: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return rendered[request.param]


def pods(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for each in objects:
        if each["kind"] in ("Deployment", "Job", "StatefulSet"):
            yield f"{each['kind']} {each['metadata']['name']}", each["spec"]["template"]["spec"]
        if each["kind"] == "Pod":
            yield f"Pod {each['metadata']['name']}", each["spec"]
        if each["kind"] == "CronJob":
            yield f"CronJob {each['metadata']['name']}", each["spec"]["jobTemplate"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("values", VALUES)
def test_the_chart_is_clean(values: str) -> None:
    done = generate.helm("lint", "--strict", str(CHART), "-f", str(CHART / "ci" / f"{values}-values.yaml"))
    assert not done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(("values", "version"), list(zip(VALUES, itertools.cycle(VERSIONS), strict=False)))
def test_every_object_is_one_that_kubernetes_takes(
    rendered: dict[str, list[dict[str, Any]]], values: str, version: str
) -> None:
    ours = [each for each in rendered[values] if each["apiVersion"].split("/")[0] not in FOREIGN]
    assert len(ours) > 25
    for each in ours:
        kubernetes_validate.validate(each, version, strict=True)


def test_pods_are_restricted(objects: list[dict[str, Any]]) -> None:
    """The profile `restricted` of Pod Security, and beyond it: nothing is written to the root, every container has limits."""
    found = dict(pods(objects))
    assert len(found) >= 7
    for name, pod in found.items():
        assert pod["automountServiceAccountToken"] is pod.get("serviceAccountName", "").endswith("-spark"), name
        assert (True, "RuntimeDefault") == (
            pod["securityContext"]["runAsNonRoot"],
            pod["securityContext"]["seccompProfile"]["type"],
        ), name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & {key for key, value in pod.items() if value}, name
        assert {"emptyDir", "secret", *SPARK_VOLUMES} >= {
            kind for volume in pod["volumes"] for kind in volume if kind != "name"
        }, name
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            } == container["securityContext"], name
            assert {"requests", "limits"} <= container["resources"].keys() and container["resources"]["limits"]["memory"], name
            tag = container["image"].rpartition("/")[2].partition(":")[2]
            assert tag and tag != "latest", container["image"]


def test_nothing_asks_the_cluster_for_rights_but_spark_in_its_own_namespace(rendered: dict[str, list[dict[str, Any]]]) -> None:
    for values, objects in rendered.items():
        asking = {each["kind"]: each for each in objects if each["apiVersion"].startswith("rbac.")}
        assert ({"Role", "RoleBinding"} if values == "full" else set()) == set(asking)
    role, binding = (rendered_one(rendered["full"], kind) for kind in ("Role", "RoleBinding"))
    assert "*" not in str(role["rules"]) and "secrets" not in str(role["rules"])
    assert ["troika-spark"] == [subject["name"] for subject in binding["subjects"]]
    executor = yaml.safe_load(rendered_one(rendered["full"], "ConfigMap", "troika-spark")["data"]["executor.yaml"])["spec"]
    assert executor["securityContext"]["runAsNonRoot"] and not executor["automountServiceAccountToken"]


def rendered_one(objects: list[dict[str, Any]], kind: str, name: str = "") -> dict[str, Any]:
    [found] = [each for each in objects if each["kind"] == kind and name in ("", each["metadata"]["name"])]
    return found


def settings_of(service: str) -> type[ChassisSettings]:
    found: type[ChassisSettings] = importlib.import_module(f"services.{service}.settings").Settings
    return found


def test_a_service_gets_the_settings_that_it_needs_and_no_others(objects: list[dict[str, Any]]) -> None:
    configured = {each["metadata"]["name"]: each["data"] for each in objects if each["kind"] == "ConfigMap"}
    deployed = {each["metadata"]["name"]: each for each in objects if each["kind"] == "Deployment"}
    targets = {f"TROIKA_{peer.upper()}_TARGET" for peer in SERVICES}
    for service in SERVICES:
        [container] = deployed[f"troika-{service}"]["spec"]["template"]["spec"]["containers"]
        given = {*configured[f"troika-{service}"], *(variable["name"] for variable in container["env"])}
        fields = settings_of(service).model_fields
        known = {f"TROIKA_{name.upper()}": field for name, field in fields.items()}
        assert set() == {name for name in given if name.startswith("TROIKA_")} - set(known) - targets
        assert set() == {name for name, field in known.items() if field.is_required()} - given


def test_networks_are_open_to_whom_the_caller_lists_name(rendered: dict[str, list[dict[str, Any]]]) -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in rendered["full"] if each["kind"] == "NetworkPolicy"}

    def component(peer: dict[str, Any]) -> str:
        return str(peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"])

    for service in SERVICES:
        lists = settings_of(service).model_construct(**defaults(service)).allowed_callers()
        wanted = {caller for callers in lists.values() for caller in callers} & set(SERVICES)
        ingress = [rule for rule in policies[f"troika-{service}"]["ingress"] if rule["ports"][0]["port"] == 7000]
        assert wanted == {component(peer) for rule in ingress for peer in rule["from"]}, service
        for caller in wanted:
            egress = [rule for rule in policies[f"troika-{caller}"]["egress"] if rule["ports"][0]["port"] == 7000]
            assert service in {component(peer) for rule in egress for peer in rule["to"]}, (caller, service)


def test_whoever_has_a_login_of_its_own_uses_it_and_migrations_theirs(rendered: dict[str, list[dict[str, Any]]]) -> None:
    found = {}
    for name, pod in pods(rendered["full"]):
        [container] = pod["containers"]
        # Who walks through by the doors asks no database.
        if name == "Pod troika-walk":
            continue
        [dsn] = [each["valueFrom"]["secretKeyRef"] for each in container["env"] if each["name"] == "TROIKA_POSTGRES_DSN"]
        found[name] = (dsn["name"], dsn["key"])
    assert ("troika-touchpoints-login", "uri") == found["Deployment troika-touchpoints"]
    assert ("troika-postgres", "dsn") == found["Deployment troika-tags"]
    assert {("troika-owner", "dsn")} == {secret for name, secret in found.items() if name.startswith("Job ")}


def test_the_ingress_leads_to_every_public_door_and_to_no_other(rendered: dict[str, list[dict[str, Any]]]) -> None:
    doors = {path for _, path in importlib.import_module("services.touchpoints.web.described").operations()} | {"/openapi.json"}
    [ingress] = [each for each in rendered["full"] if each["kind"] == "Ingress"]
    paths = [(each["path"], each["pathType"]) for each in ingress["spec"]["rules"][0]["http"]["paths"]]

    def leads(path: str, kind: str, door: str) -> bool:
        return door == path or (kind == "Prefix" and door.startswith(path + "/"))

    assert set() == {door for door in doors if not any(leads(path, kind, door) for path, kind in paths)}
    assert set() == {path for path, kind in paths if not any(leads(path, kind, door) for door in doors)}
    inside = ("/metrics", "/livez", "/readyz")
    assert not any(leads(path, kind, door) for path, kind in paths for door in inside)
    [route] = [each for each in rendered["full"] if each["kind"] == "HTTPRoute"]
    assert {path for path, _ in paths} == {match["path"]["value"] for match in route["spec"]["rules"][0]["matches"]}


def test_no_rule_of_a_policy_is_open_to_everybody_by_mistake() -> None:
    values = ("networkPolicy.ingressNamespaces={}", "networkPolicy.monitoringNamespaces={}", "touchpoints.publicUrl=https://x")
    done = generate.helm("template", "troika", str(CHART), *(word for value in values for word in ("--set", value)))
    assert not done.returncode, done.stderr
    for each in yaml.safe_load_all(done.stdout):
        if each and each["kind"] == "NetworkPolicy":
            assert [] == [rule for rule in each["spec"]["ingress"] or [] if not rule.get("from")], each["metadata"]["name"]


def test_schemas_are_ready_before_pods_and_only_then_bereft_of_what_old_ones_needed(
    rendered: dict[str, list[dict[str, Any]]],
) -> None:
    hooks = {}
    for each in rendered["full"]:
        if each["kind"] == "Job":
            [container] = each["spec"]["template"]["spec"]["containers"]
            hooks[each["metadata"]["name"]] = each["metadata"]["annotations"]["helm.sh/hook"], container["command"][3:]
    before, after = ("pre-install,pre-upgrade", ["migrate"]), ("post-upgrade", ["migrate", "--post"])
    assert hooks == {f"troika-{s}-migrate": before for s in SERVICES} | {f"troika-{s}-post-migrate": after for s in SERVICES}
    # Where nothing is there yet, and no Job could reach it.
    assert not [each for each in rendered["trial"] if each["kind"] == "Job"]
    starting = [pod["initContainers"][0] for name, pod in pods(rendered["trial"]) if name.startswith("Deployment ")]
    assert [["migrate"]] * 5 == [container["command"][3:] for container in starting]


def test_jobs_are_verbs_that_their_services_have(rendered: dict[str, list[dict[str, Any]]]) -> None:
    jobs = [pod["containers"][0] for name, pod in pods(rendered["full"]) if name.startswith("CronJob ")]
    assert 5 == len(jobs)
    for job in jobs:
        module = job["command"][2]
        verbs = {verb.name: verb for verb in verbs_of(module.removeprefix("services."))}
        parser = argparse.ArgumentParser()
        verbs[job["command"][3]].arguments(parser)
        parser.parse_args(job["command"][4:])


def verbs_of(service: str) -> tuple[Any, ...]:
    found: tuple[Any, ...] = importlib.import_module(f"services.{service}.__main__").VERBS
    return found


def test_the_consumers_that_pods_scale_by_are_the_services_own(rendered: dict[str, list[dict[str, Any]]]) -> None:
    streams = {each.name: each.subjects for s in SERVICES for each in importlib.import_module(f"services.{s}.events").STREAMS}
    scaled = [each for each in rendered["full"] if each["kind"] == "ScaledObject"]
    assert 5 == len(scaled)
    for each in scaled:
        service = each["metadata"]["name"].removeprefix("troika-")
        [lag] = [trigger["metadata"] for trigger in each["spec"]["triggers"] if trigger["type"] == "nats-jetstream"]
        code = "".join(path.read_text() for path in modules(f"services/{service}"))
        assert lag["stream"] in streams and streams[lag["stream"]][0] in code, service
        assert f'"{lag["consumer"]}"' in code, service
    by_metric = [each for each in rendered["operators"] if each["kind"] == "HorizontalPodAutoscaler"]
    assert {"Resource", "External"} == {metric["type"] for each in by_metric for metric in each["spec"]["metrics"]}


def test_a_trial_makes_every_secret_that_its_pods_name(rendered: dict[str, list[dict[str, Any]]]) -> None:
    made = {each["metadata"]["name"]: each["stringData"] for each in rendered["trial"] if each["kind"] == "Secret"}
    for name, pod in pods(rendered["trial"]):
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            for variable in container.get("env", ()):
                if "valueFrom" in variable:
                    wanted = variable["valueFrom"]["secretKeyRef"]
                    assert made[wanted["name"]][wanted["key"]], (name, variable["name"])
    callers = made["troika-callers"]
    hashes = json.loads(callers["hashes"])
    assert {*SERVICES, "operator", "approver"} == set(hashes)
    assert hashes["operator"] == sha256(callers["operator"].encode()).hexdigest()
    keys = made["troika-identity"]
    assert [32, 32] == [len(b64decode(value)) for value in (json.loads(keys["token-keys"])["1"], keys["hash-key"])]
    assert made["troika-postgres"]["password"] in made["troika-postgres"]["dsn"]
    assert {"StatefulSet troika-trial-postgres", "StatefulSet troika-trial-nats"} <= set(dict(pods(rendered["trial"])))


def test_what_is_made_of_the_chart_is_fresh() -> None:
    stale = [path.name for path, text in (generate.made() | generate.examples()).items() if path.read_text() != text]
    assert [] == stale, "run `python helm/generate.py`"


def test_what_stands_around_troika_is_readable() -> None:
    found = [
        each for path in sorted((ROOT / "helm" / "platform").glob("*.yaml")) for each in yaml.safe_load_all(path.read_text())
    ]
    assert {"Cluster", "ScheduledBackup", "ExternalSecret", "Issuer", "Certificate", None} == {
        each.get("kind") for each in found
    }


def defaults(service: str) -> dict[str, Any]:
    fields = settings_of(service).model_fields.items()
    return {name: field.get_default(call_default_factory=True) for name, field in fields if not field.is_required()}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "touchpoints.publicUrl"),
        (("image.tag=latest",), "image/tag"),
        (("nats.replicas=9",), "nats/replicas"),
        (("identity.env.TROIKA_LOG_LEVEL=3",), "identity/env/TROIKA_LOG_LEVEL"),
        (("identty.replicas=2",), "identty"),
        (("ingress.enabled=true", "touchpoints.publicUrl=https://x"), "ingress.host"),
        (("jobs.linkage.enabled=true", "jobs.linkage.spark=true", "touchpoints.publicUrl=https://x"), "spark.image"),
        (("trial.postgres.image=postgres:latest",), "trial/postgres/image"),
        (("identity.scratch=1Gi",), "identity"),
    ],
)
def test_values_that_cannot_be_are_named(given: tuple[str, ...], said: str) -> None:
    arguments = [word for value in given for word in ("--set", value)]
    done = generate.helm("template", "troika", str(CHART), *arguments)
    assert done.returncode and said in done.stderr.replace(".", "/") + done.stderr, done.stderr
