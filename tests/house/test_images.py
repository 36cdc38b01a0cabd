"""What the Dockerfile copies and installs is enough for a service to start, and no other service is in its image."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("identity", "tags", "scoring", "orchestrator", "touchpoints")
OURS = ("services", "chassis", "troika", "buf")
# Imports a service where neither another service nor a package beyond its lock nor packages' tests can be found; prints the
# services found.
PROBE = """
import importlib, json, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing or ".tests" in name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

service, others, missing = json.loads(sys.argv[1])
sys.meta_path.insert(0, Missing())
sys.path[:0] = sys.argv[2:]
importlib.import_module(f"services.{service}.__main__")
found = [other for other in others if importlib.util.find_spec(f"services.{other}")]
print(json.dumps(found))
"""


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def copied(service: str, into: Path) -> Path:
    """The working directory of the image's last stage."""
    last = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2].replace("${SERVICE}", service)
    for source, target in re.findall(r"^COPY (?!--from)(\S+) (\S+)$", last, re.M):
        there = into / target
        there.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, there, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, there)
    return into


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_holds_its_service_with_its_packages_and_no_other(service: str, tmp_path: Path) -> None:
    folder, others = copied(service, tmp_path), [other for other in SERVICES if other != service]
    lock = (ROOT / "requirements" / f"{service}.lock").read_text()
    locked = {plain(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.M)}
    known = packages_distributions().items()
    missing = sorted(m for m, names in known if m not in OURS and not {plain(name) for name in names} & locked)
    assert {"pytest", "local", "bench"} < set(missing) and "grpc" not in missing
    paths = [str(folder), str(folder / "gen"), sysconfig.get_path("purelib")]
    # Without `site`: this environment's own link to the tree would find everything.
    command = [sys.executable, "-I", "-S", "-c", PROBE, json.dumps([service, others, missing]), *paths]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False, timeout=120)
    assert not done.returncode, done.stderr
    assert [] == json.loads(done.stdout)


def test_images_run_as_nobody_of_the_host_and_build_from_hashes() -> None:
    text = (ROOT / "Dockerfile").read_text()
    build, last = text.split("\nFROM ")[1:]
    assert "--require-hashes" in build and "USER 10001:10001" in last
    assert "pip" not in last and "gcc" not in text and "latest" not in text


def test_scripts_that_make_images_are_sound_and_say_what_they_lack(tmp_path: Path) -> None:
    scripts = sorted(path.as_posix() for path in (ROOT / "deploy").glob("*.sh"))
    assert {"base.sh", "images.sh", "spark.sh"} < {Path(script).name for script in scripts}
    checked = subprocess.run(
        [Path(sys.executable).parent / "shellcheck", *scripts], capture_output=True, text=True, check=False
    )
    assert not checked.returncode, checked.stdout
    usage = subprocess.run(["sh", "deploy/base.sh", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--mirror" in usage.stdout
    # Where there are shells and nothing else.
    for tool in ("sh", "sed", "dirname", "id", "git", "head"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or "")
    for script, lacking in (
        ("images.sh", "No container engine"),
        ("spark.sh", "No container engine"),
        ("base.sh", "debootstrap"),
    ):
        command = [str(tmp_path / "sh"), f"deploy/{script}"]
        done = subprocess.run(command, cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
        assert 1 == done.returncode and lacking in done.stderr, done


def test_executors_of_spark_are_started_as_spark_wants_it(tmp_path: Path) -> None:
    (tmp_path / "java").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "java").chmod(0o755)
    names = ("DRIVER_URL", "EXECUTOR_ID", "EXECUTOR_CORES", "APPLICATION_ID", "EXECUTOR_POD_IP", "RESOURCE_PROFILE_ID")
    given = {f"SPARK_{name}": name.lower() for name in (*names, "EXECUTOR_POD_NAME")} | {
        "SPARK_EXECUTOR_MEMORY": "4g",
        "SPARK_PACKAGES": "/packages",
        "SPARK_JAVA_OPT_0": "-Da=with blanks",
        "SPARK_JAVA_OPT_10": "-Dc=2",
        "SPARK_JAVA_OPT_2": "-Db=1",
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    command = ["sh", "deploy/spark-entrypoint.sh", "executor"]
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert ["-Da=with blanks", "-Db=1", "-Dc=2", "-Xms4g", "-Xmx4g", "-cp", ":/packages/jars/*"] == said[:7]
    assert ["--driver-url", "driver_url"] == said[8:10]
    assert "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend" == said[7]
