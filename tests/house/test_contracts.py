"""Contracts and walls: generated code is fresh, imports respect the drawing, every subject has a home and a reader."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib

import pytest
from google.protobuf import descriptor_pool

from tests.house.source import ROOT, SERVICES, files, modules, name


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)


def test_generated_code_is_fresh_and_contracts_neither_break_nor_offend_buf() -> None:
    done = run("proto/generate.py", "--check")
    assert 0 == done.returncode, done.stdout + done.stderr


def test_the_client_package_has_the_version_of_the_suite() -> None:
    ours, theirs = (tomllib.loads((ROOT / path).read_text())["project"] for path in ("pyproject.toml", "client/pyproject.toml"))
    assert (ours["version"], ours["requires-python"]) == (theirs["version"], theirs["requires-python"])
    # Each of its libraries is one of ours, so what the stubs are tested with is what they are installed with.
    assert {name for name in theirs["dependencies"] if name.startswith("grpcio")} <= set(ours["dependencies"])


def test_imports_respect_the_walls() -> None:
    done = run("-c", "from importlinter.cli import lint_imports_command; lint_imports_command()")
    assert 0 == done.returncode, done.stdout + done.stderr


def subjects(folder: str) -> set[str]:
    text = "\n".join(path.read_text() for path in modules(folder))
    return set(re.findall(r"troika\.[a-z]+\.[a-z]+\.v\d+", text))


@pytest.mark.parametrize("service", SERVICES)
def test_every_subject_lies_in_a_declared_stream(service: str) -> None:
    declared = {
        subject
        for other in SERVICES
        for stream in importlib.import_module(f"services.{other}.events").STREAMS
        for subject in stream.subjects
    }
    assert set() == subjects(f"services/{service}") - declared


# Subjects that nobody reads yet, and why they are told all the same.
UNREAD: dict[str, str] = {
    "troika.events.quarantined.v1": "touchpoints itself reads it: its doors never wait for the database",
}


def test_every_stream_is_consumed_by_another_room() -> None:
    for service in SERVICES:
        for stream in importlib.import_module(f"services.{service}.events").STREAMS:
            for subject in stream.subjects:
                readers = [other for other in SERVICES if other != service and subject in subjects(f"services/{other}")]
                assert readers or UNREAD.get(subject), f"nobody reads {subject}"


def test_no_two_rooms_declare_the_same_stream() -> None:
    names = [stream.name for s in SERVICES for stream in importlib.import_module(f"services.{s}.events").STREAMS]
    assert sorted(set(names)) == sorted(names)


def rpc_services(service: str) -> set[str]:
    found = set()
    for stubs in files(f"gen/troika/{service}/v1/*_service_pb2.py"):
        importlib.import_module(f"troika.{service}.v1.{stubs.stem}")
        file = descriptor_pool.Default().FindFileByName(f"troika/{service}/v1/{stubs.stem.removesuffix('_pb2')}.proto")
        found |= {described.full_name for described in file.services_by_name.values()}
    return found


@pytest.mark.parametrize("service", SERVICES)
def test_every_rpc_service_has_a_caller_list(service: str) -> None:
    settings = importlib.import_module(f"services.{service}.settings").Settings
    # Built without validation: only the defaults are looked at.
    allowed = settings.model_construct().allowed_callers()
    assert rpc_services(service) == set(allowed)
    assert all(callers for callers in allowed.values())


def test_every_rpc_is_implemented() -> None:
    for service in SERVICES:
        text = "\n".join(path.read_text() for path in files(f"services/{service}/rpc*.py", f"services/{service}/rpc/*.py"))
        for described in rpc_services(service):
            methods = descriptor_pool.Default().FindServiceByName(described).methods
            assert [] == [m.name for m in methods if f"def {m.name}(" not in text], name(ROOT / "services" / service)
