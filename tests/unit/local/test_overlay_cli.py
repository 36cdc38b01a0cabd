import subprocess
import sys
from pathlib import Path

import orjson

ROOT = Path(__file__).parents[3]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "local.overlay", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_writes_records_events_and_truth_the_same_each_time(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        done = run("--persons", "120", "--seed", "5", "--out", str(tmp_path / folder))
        assert (0, "") == (done.returncode, done.stderr)
        assert done.stdout.startswith("120 persons, ")
    one, two = ({p.relative_to(tmp_path / f): p.read_bytes() for p in (tmp_path / f).rglob("*.*")} for f in ("one", "two"))
    assert one == two
    truth = orjson.loads(one[Path("truth.json")])
    for source, persons in truth["records"].items():
        lines = one[Path("records") / f"{source.replace(':', '_')}.ndjson"].splitlines()
        assert list(persons) == [orjson.loads(line)["record_id"] for line in lines]
    answers = one[Path("events/call_center.ndjson")].splitlines()
    assert sum(person["past"] for person in truth["persons"]) == len(answers)


def test_help_says_what_is_written_and_what_is_made() -> None:
    told = " ".join(run("--help").stdout.split())
    assert "truth.json" in told and "are made" in told


def test_impossible_arguments_are_named(tmp_path: Path) -> None:
    refused = run("--persons", "0", "--out", str(tmp_path))
    assert 2 == refused.returncode
    assert "--persons must be at least 1" in refused.stderr
