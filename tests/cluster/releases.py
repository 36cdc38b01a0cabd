"""The next release: this tree with migrations that it does not have yet."""

from __future__ import annotations

import shutil
from pathlib import Path

from local.plan import SERVICES
from tests.cluster.chart import ROOT

ADDITIVE = '''"""A column and a table more; the code before does not know them."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("ALTER TABLE outbox ADD COLUMN of_the_next_release text NOT NULL DEFAULT ''")
    op.execute("CREATE TABLE next_release (id bigint PRIMARY KEY)")
'''
DESTRUCTIVE = '''"""What the code before could not live with."""

from alembic import op

revision = "0003"
down_revision = "0002"
STAGE = "post"


def upgrade() -> None:
    op.execute("DROP TABLE inbox")
'''


def next_release(folder: Path) -> Path:
    """This tree with two more migrations for each service."""
    (folder / "services").mkdir(parents=True)
    for name in ("Dockerfile", "gen", "chassis", "services/__init__.py"):
        (folder / name).symlink_to(ROOT / name)
    for service in SERVICES:
        here, there = ROOT / "services" / service, folder / "services" / service
        there.mkdir()
        for entry in here.iterdir():
            if entry.name not in ("migrations", "__pycache__"):
                (there / entry.name).symlink_to(entry)
        shutil.copytree(here / "migrations", there / "migrations")
        for number, text in ((2, ADDITIVE), (3, DESTRUCTIVE)):
            (there / "migrations" / "versions" / f"000{number}_next.py").write_text(text)
    return folder
