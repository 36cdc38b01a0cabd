"""The images, built by whatever engine is here, and the loop across their containers."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from local import plan
from local.demo.console import Screen
from local.demo.run import run
from local.supervisor import ROOT, Suite

TAG = "of-a-test"


@pytest.fixture(scope="module")
def engine() -> str:
    """One that runs containers; buildah only builds them."""
    for name in ("docker", "podman"):
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True, check=False, timeout=60).returncode == 0:
            return name
    pytest.skip("neither docker nor podman answers on this machine: images are built and run where one does")


@pytest.fixture(scope="module")
def images(engine: str) -> Iterator[str]:
    """The engine that has them; containers are cleared away."""
    how = os.environ | {"ENGINE": engine, "TAG": TAG}
    built = subprocess.run(["sh", "deploy/images.sh"], cwd=ROOT, env=how, capture_output=True, text=True, check=False)
    assert not built.returncode, built.stderr[-2000:]
    yield engine
    for service in plan.SERVICES:
        subprocess.run([engine, "rm", "--force", f"troika-{TAG}-{service}"], capture_output=True, check=False, timeout=60)


@pytest.mark.timeout(1800)
async def test_the_loop_runs_across_containers(images: str, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    lake.mkdir()
    # Who is in the container has no name here.
    lake.chmod(0o777)
    own = {name for secrets in plan.SECRETS.values() for name in secrets} | {f"{service}_target" for service in plan.SERVICES}
    common = {"postgres_dsn", "nats_url", "grpc_port", "http_port", "caller_token", "caller_token_sha256", "lake"}
    here = {"allow_private_endpoints", "public_url", "message_page_url", "quiet_hours", "dealer_calls_per_day"}
    variables = sorted(f"TROIKA_{name.upper()}" for name in own | common | here)

    def program(service: str) -> list[str]:
        """As the chart has it run; values come from the client's own environment, and are in no list of processes."""
        given = [word for name in variables for word in ("--env", name)]
        closed = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        shown = ["--volume", f"{lake}:{lake}", "--network", "host", "--name", f"troika-{TAG}-{service}"]
        return [images, "run", "--rm", *closed, *shown, *given, f"troika-{service}:{TAG}"]

    async with Suite(tmp_path, program=program) as suite:
        result = await run(Screen(Console(file=StringIO())), suite, 1000, 7)
    assert [] == [check for check in result.checks if not check.holds]
