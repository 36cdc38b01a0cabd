"""`troika journeys`: documents without a service."""

from __future__ import annotations

import argparse
from pathlib import Path

import orjson
import pytest

from services.orchestrator.journeys import command

BROKEN = "title: T\ntrigger: {event: E}\nsteps:\n- id: a\n  wait: 1 day\n  next: nowhere\n"


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    return command.run(parser.parse_args(words))


def test_faults_are_shown_with_file_line_and_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(BROKEN)
    assert 1 == run("check", str(file))
    assert f"{file}:4: steps[0].next: there is no step nowhere [UNKNOWN_STEP]" in capsys.readouterr().out
    assert 1 == run("check", str(file), "--json")
    [fault] = orjson.loads(capsys.readouterr().out)["faults"]
    assert ("UNKNOWN_STEP", "steps[0].next", 4) == (fault["reason"], fault["path"], fault["line"])


def test_a_shipped_journey_can_be_taken_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == run("library", "--json")
    assert "Win-back" == orjson.loads(capsys.readouterr().out)["win-back"]
    assert 0 == run("library", "win-back")
    file = tmp_path / "mine.yaml"
    file.write_text(capsys.readouterr().out)
    assert 1 == run("check", str(file))
    assert 0 == run("check", str(file), "--unbound")
    assert 1 == run("library", "no-such-journey")


def test_answers_read_as_names_and_values() -> None:
    told = {"journey": {"name": "journeys/1", "versions": [{"version": 2}]}, "moved": 3}
    assert ["journey:", "  name: journeys/1", "  versions:", "    -", "      version: 2", "moved: 3"] == command.lines(told)
