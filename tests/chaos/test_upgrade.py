"""Every service is rolled to the next release under load, one by one: nobody asks twice, nothing is lost or doubled."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

from chassis.bus import Bus
from chassis.tls import Certificates
from local.demo.operator import Operator
from local.plan import SERVICES
from tests.cluster.chart import ROOT
from tests.cluster.load import Load
from tests.cluster.pods import installed

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


async def test_an_upgrade_under_load_fails_no_request_and_loses_and_doubles_nothing(tmp_path: Path) -> None:
    after = next_release(tmp_path / "next")
    async with installed(tmp_path / "cluster") as cluster, Operator(cluster) as operator:
        shown = Certificates(str(cluster.folder / "issued" / "orchestrator"))
        bus = Bus(cluster.secrets["troika-nats"]["url"], "load", certificates=shown)
        await bus.connect()
        load = Load().at(operator, bus, cluster.door)
        before = dict(cluster.pods)
        try:
            async with load.receiving() as receiver:
                await load.begin(receiver)
                async with load.going_on():
                    for service in SERVICES:
                        await cluster.roll(service, after)
                await load.everything_arrived()
        finally:
            await bus.close()
        assert [] == load.failures
        assert set(SERVICES) == set(load.answered) and set() == set(cluster.pods) & set(before)
        assert load.pushed == len(load.received)
        assert Counter() == load.received - Counter(dict.fromkeys(load.received, 1)), "a call was broken off and made again"
        assert ([], []) == (cluster.killed, cluster.network.refused)
