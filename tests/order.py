"""Which test files go to one worker together, and which go first, so that all workers end at the same time."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from xdist.scheduler import LoadFileScheduling

# Who starts five services has half the machine idle, waiting for them: one worker has all of these, one after the other, while
# the others compute. Two suites at once would starve each other beyond the limit of a test.
SUITES: Final = ("tests/chaos", "tests/e2e", "tests/contract/test_grpc_doors.py", "tests/contract/test_http_doors.py")
# A long file that comes last leaves the other workers without work; these take from minutes down to ten seconds.
FIRST: Final = (
    *SUITES,
    # A process keeps its first Java machine with the jars that it began with: the last of these needs none.
    "tests/integration/identity/test_linkage_engines.py",
    "tests/unit/identity/test_rebuild.py",
    "tests/integration/tags/test_lake_spark.py",
    "tests/integration/identity/test_linkage.py",
    "tests/integration/identity/test_rebuild.py",
    "tests/integration/identity/test_rotation.py",
    "tests/integration/scoring",
    "tests/integration/tags",
)


class ByFile(LoadFileScheduling):
    """All tests of a file, or of files that belong together, on one worker."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "suites" if file.startswith(SUITES) else file


def sort(items: list[pytest.Item], root: Path) -> None:
    """Puts long ones first; otherwise leaves the order as it is."""

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(root).as_posix()
        return next((number for number, first in enumerate(FIRST) if name.startswith(first)), len(FIRST))

    items.sort(key=place)
