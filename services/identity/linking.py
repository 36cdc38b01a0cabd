"""The verb `link`: flags in, progress and counts out."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from chassis.db import Database
from services.identity.settings import Settings
from services.identity.store import Store
from services.identity.vault import Vault


def _probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no probability above 0 and up to 1")
    return value


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument("--engine", choices=("duckdb", "spark"), help="where the SQL runs (default: TROIKA_LINKAGE_ENGINE)")
    parser.add_argument(
        "--threshold", type=_probability, metavar="P", help="link by itself from this probability (default: never)"
    )
    parser.add_argument(
        "--suggest-from", type=_probability, default=0.5, metavar="P", help="suggest from this probability (default 0.5)"
    )
    parser.add_argument("--dry-run", action="store_true", help="count what would be kept, keep nothing")
    parser.add_argument("--json", action="store_true", help="progress and result as JSON lines")


async def run(settings: Settings, flags: argparse.Namespace) -> None:
    """The verb. What it needs is imported here, so that the service does not carry it."""
    from services.identity.linkage.run import told
    from services.identity.linkage.suggesting import NEVER, Wanted, link_customers

    database, progress = Database(settings.postgres_dsn, "identity", 2), told(flags.json)
    try:
        outcome = await link_customers(
            database,
            Vault.of(settings),
            Store(),
            Wanted(flags.suggest_from, flags.threshold or NEVER),
            progress,
            engine=flags.engine or settings.linkage_engine,
            master=settings.linkage_spark_master,
            folder=settings.linkage_folder,
            dry_run=flags.dry_run,
        )
    finally:
        await database.close()
    progress("done", asdict(outcome))
