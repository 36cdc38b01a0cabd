"""What the documents say is so: references are fresh, everything has a description, links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.house.source import ROOT, files, name


def test_reference_pages_are_generated_from_the_code_as_it_is() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stdout + done.stderr


def test_every_setting_says_what_it_means() -> None:
    assert "MISSING" not in (ROOT / "docs/reference/settings.md").read_text()


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for page in files("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            if not (page.parent / target).exists():
                broken.append(f"{name(page)} -> {target}")
    assert [] == broken


def test_files_and_tests_that_the_guides_name_exist() -> None:
    missing = []
    for guide in ("README.md", "CONTRIBUTING.md"):
        for path in re.findall(r"`((?:tests|docs|services|chassis|local|proto|bench)/[\w./<>-]+)`", (ROOT / guide).read_text()):
            if "<" not in path and not (ROOT / path).exists():
                missing.append(f"{guide}: {path}")
    assert [] == missing


def test_every_verb_of_the_makefile_that_the_readme_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    verbs = set(re.findall(r"make ([a-z]+)", (ROOT / "README.md").read_text()))
    assert set() == {verb for verb in verbs if not re.search(rf"^{verb}:", makefile, re.MULTILINE)}
