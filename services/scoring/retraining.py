"""The verb `retrain`: has models trained again as they were trained last, where they do not fit the people any more.

It only asks: whichever replica of the running service is free does the work.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from chassis.db import Database
from services.scoring import health, operations, store
from services.scoring.cutting import Wanted
from services.scoring.operations import Kind
from services.scoring.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument("--model", action="append", metavar="NAME", help="only this one; may be given again")
    parser.add_argument("--always", action="store_true", help="also those that still fit")


async def run(settings: Settings, flags: argparse.Namespace) -> None:
    """The verb."""
    database = Database(settings.postgres_dsn, "scoring", 1)
    try:
        for model, said in (await ask(database, flags.model, flags.always, datetime.now(UTC))).items():
            sys.stdout.write(f"{model}: {said}\n")
    finally:
        await database.close()


async def ask(database: Database, only: list[str] | None, always: bool, now: datetime) -> dict[str, str]:
    """Starts what is due; by model what was made of it."""
    told = {}
    async with database.transaction() as uow:
        for model, version in (await store.versions_in_use(uow)).items():
            if only and model not in only:
                continue
            await store.lock_versions(uow, model)
            [row] = await uow.rows("SELECT card FROM model WHERE model = :model AND in_use", model=model)
            reasons = (await health.read(uow, model, version)).reasons
            wanted = of_now(row.card, now)
            if not reasons and not always:
                told[model] = "still fits"
            elif wanted is None:
                told[model] = "nothing new to learn from"
            else:
                operation = await operations.start(uow, Kind.TRAIN, model, wanted.recorded())
                told[model] = f"operation {operation.operation_id}" + "".join(f"; {reason}" for reason in reasons)
    return told


def of_now(card: Mapping[str, Any], now: datetime) -> Wanted | None:
    """What the version was trained on, its moments moved to the newest whose outcomes are known.

    None where there are none yet that it has not learnt from, and for models that are trained on files.
    """
    trained = Wanted.of(card["wanted"])
    if not trained.cut_predicate:
        return None
    if not trained.as_of_s:
        return trained
    later = now.timestamp() - trained.horizon_s - max(trained.as_of_s)
    return replace(trained, as_of_s=tuple(each + later for each in trained.as_of_s)) if later > 0 else None
