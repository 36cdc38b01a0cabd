"""The house of DESIGN section 2: every room has the same doors, and no module grows into a second house."""

from __future__ import annotations

import re

import pytest

from tests.house.source import ROOT, SERVICES, files, modules, name

LIMIT = 500
# Longer ones, each with its reason.
LONG: dict[str, str] = {}
HOUSE = {
    "chassis", "services", "local", "bench", "proto", "gen", "client", "helm", "deploy", "tests", "docs", "requirements", ".ci",
}  # fmt: skip


def test_no_module_is_longer_than_its_readers_patience() -> None:
    lengths = {
        name(path): len(path.read_text().splitlines()) for path in modules("chassis", "services", "local", "bench", "tests")
    }
    assert {} == {path: lines for path, lines in lengths.items() if lines > LIMIT and path not in LONG}


def test_exceptions_to_the_length_are_still_needed() -> None:
    assert {} == {path: why for path, why in LONG.items() if len((ROOT / path).read_text().splitlines()) <= LIMIT}


@pytest.mark.parametrize("service", SERVICES)
def test_a_room_has_the_same_doors_as_the_others(service: str) -> None:
    room = ROOT / "services" / service
    wanted = ["__main__", "settings", "handlers", "store", "tables", "rpc", "consumers", "events"]
    assert [] == [n for n in wanted if not (room / f"{n}.py").exists() and not (room / n).is_dir()]
    assert (room / "domain.py").exists() or (room / "domain").is_dir()
    assert (room / "migrations" / "env.py").exists()


def test_nothing_stands_at_the_top_that_the_design_does_not_name() -> None:
    assert set() == {name(path).split("/")[0] for path in files("*/*")} - HOUSE


def test_no_file_is_named_after_what_nobody_could_place() -> None:
    forbidden = re.compile(r"(^|/)(utils?|helpers?|common|manager|misc)(/|\.py$)")
    assert [] == [name(path) for path in files("*.py") if forbidden.search(name(path))]


def test_no_machine_and_no_registry_is_named_in_what_we_commit() -> None:
    # Assembled, so that this file does not name them either.
    hosts = re.compile("|".join(["/work" + "/", "files.python" + "hosted", "pypi" + r"\.org", "/root" + "/"]))
    found = []
    for path in files("."):
        if path.suffix in (".gz", ".png", ".binpb"):
            continue
        if hosts.search(path.read_text(errors="ignore")):
            found.append(name(path))
    assert [] == found


def test_lock_files_carry_hashes_and_no_addresses() -> None:
    locks = files("requirements/*.lock")
    assert {"dev.lock", *(f"{service}.lock" for service in SERVICES)} <= {path.name for path in locks}
    for path in locks:
        text = path.read_text()
        assert "--hash=sha256:" in text
        assert "://" not in text
    [npm] = files("tests/contract/touchpoints/clients/package-lock.json")
    assert '"integrity": "sha512-' in npm.read_text() and "://" not in npm.read_text()
