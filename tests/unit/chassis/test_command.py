from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from chassis import command

ROOT = Path(__file__).resolve().parents[3]


def troika(*words: str) -> subprocess.CompletedProcess[str]:
    code = "from chassis.command import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *words], check=False, capture_output=True, text=True, cwd=ROOT, timeout=60
    )


def test_every_service_of_the_checkout_is_a_word_of_the_command() -> None:
    assert ["identity", "orchestrator", "scoring", "tags", "touchpoints"] == command.services()


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_the_command_alone_lists_the_services(words: tuple[str, ...]) -> None:
    done = troika(*words)
    assert (2 if not words else 0) == done.returncode
    assert "identity" in done.stdout + done.stderr


def test_an_unknown_service_is_named_beside_the_known_ones() -> None:
    done = troika("finance", "serve")
    assert 2 == done.returncode
    assert "finance" in done.stderr and "touchpoints" in done.stderr


def test_the_service_reads_the_words_behind_its_name() -> None:
    done = troika("orchestrator", "dance")
    assert 2 == done.returncode
    assert "serve" in done.stderr and "migrate" in done.stderr


def test_a_verb_may_stand_alone() -> None:
    done = troika("ledger", "verify", "-h")
    assert 0 == done.returncode, done.stderr
    assert "NUMBER:HASH" in done.stdout
    assert 2 == troika("ledger", "burn").returncode
