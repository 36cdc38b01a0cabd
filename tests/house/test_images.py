"""What the Dockerfile copies and installs is enough for a service to start, and no other service is in its image."""

from __future__ import annotations

import json
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
# Imports a service where neither another service nor a package beyond its lock can be found; prints the services found.
PROBE = """
import importlib, json, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
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
