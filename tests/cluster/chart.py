"""What an installation has before its pods start: the chart's objects, and the Secrets that its README has a person make."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from helm import generate

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "helm" / "troika"
Object = dict[str, Any]

_KUBECTL: Final = """#!{python}
import json, os, sys
words = sys.argv[1:]
if "secret" in words:
    name = words[words.index("generic") + 1]
    literals = [word.partition("=")[2].partition("=") for word in words if word.startswith("--from-literal=")]
    with open(os.path.join(os.environ["SECRETS"], name), "w") as out:
        json.dump({{key: value for key, _, value in literals}}, out)
"""


def rendered(values: Iterable[Path]) -> list[Object]:
    """All objects of a release "troika" in the namespace "crm"."""
    chosen = [word for each in values for word in ("-f", str(each))]
    done = generate.helm("template", "troika", str(CHART), "--namespace", "crm", *chosen)
    assert not done.returncode, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def secrets_of_the_readme(folder: Path) -> dict[str, dict[str, str]]:
    """By name, what the README's own commands make; a kubectl of ours takes note of it."""
    blocks = re.findall(r"^( *)```sh\n(.*?)^ *```", (CHART / "README.md").read_text(), re.M | re.S)
    [script] = [textwrap.dedent(block) for _, block in blocks if "create secret generic troika-callers" in block]
    bin_folder, found = folder / "bin", folder / "made"
    bin_folder.mkdir()
    found.mkdir(mode=0o700)
    kubectl = bin_folder / "kubectl"
    kubectl.write_text(_KUBECTL.format(python=sys.executable))
    kubectl.chmod(0o700)
    environment = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "SECRETS": str(found)}
    done = subprocess.run(["sh", "-eu", "-c", script], env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert not done.returncode, done.stderr
    return {path.name: json.loads(path.read_text()) for path in found.iterdir()}


def copied(root: Path, service: str, into: Path) -> Path:
    """The working directory of a service's image, as the Dockerfile of the tree `root` copies it; links, no copies."""
    last = (root / "Dockerfile").read_text().rpartition("\nFROM ")[2].replace("${SERVICE}", service)
    for source, target in re.findall(r"^COPY (?!--from)(\S+) (\S+)$", last, re.M):
        there = into / target
        there.parent.mkdir(parents=True, exist_ok=True)
        there.symlink_to(root / source)
    return into


def write_values(path: Path, values: Mapping[str, Any]) -> Path:
    """A file of values."""
    path.write_text(yaml.safe_dump(dict(values)))
    return path
