"""What the house tests look at: the project's files as git knows them."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SERVICES = ("identity", "tags", "scoring", "orchestrator", "touchpoints")


@cache
def files(*patterns: str) -> list[Path]:
    """Files that are or would be committed, by git pathspec."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return [ROOT / name for name in listed if (ROOT / name).is_file()]


def modules(*folders: str) -> list[Path]:
    """Hand-written Python files below folders."""
    return files(*(f"{folder}/*.py" for folder in folders))


def name(path: Path) -> str:
    """The path as people write it."""
    return path.relative_to(ROOT).as_posix()
