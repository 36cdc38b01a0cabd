"""`python -m services.scoring train-text FILE…`: trains the text model on labelled texts, beside the database."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from chassis.db import Database
from services.scoring import artefact, store, texts
from services.scoring.domain import TrainingRefused
from services.scoring.models.feedback_text import card
from services.scoring.settings import Settings
from services.scoring.text.packing import FORMAT


def arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes."""
    parser.add_argument(
        "files", nargs="+", type=Path, help="CSV or JSON lines with text, topic (empty: the whole text), sentiment"
    )
    parser.add_argument("--keep-only", action="store_true", help="store the version, but leave the one in use")


async def run(settings: Settings, given: argparse.Namespace) -> None:
    """Trains, stores, puts in use, prints the metrics; raises SystemExit with the reason of a refusal."""
    # scikit-learn is for those who train, not for every command.
    from services.scoring.models.feedback_text.training import train_files

    try:
        trained = await asyncio.to_thread(train_files, given.files, _show)
    except TrainingRefused as refusal:
        raise SystemExit(f"not trained: {refusal.reason} {refusal.detail}") from refusal
    described = {
        "purpose": card.PURPOSE,
        "limits": f"{card.DATA} {card.METHOD} {card.LIMITS}",
        "features": [],
        "training_persons": 0,
        "training_positives": 0,
        "metrics": trained.metrics,
        "wanted": {"cut_predicate": "", "goal_predicate": ""},
        "recalibrated_from": 0,
    }
    key = settings.model_signing_key.get_secret_value().encode()
    database = Database(settings.postgres_dsn, "scoring", 1)
    try:
        async with database.transaction() as uow:
            version = await store.next_version(uow, texts.MODEL)
            seal = artefact.seal(key, texts.MODEL, version, trained.artefact, FORMAT)
            await store.add_version(uow, texts.MODEL, version, card=described, artefact=trained.artefact, seal=seal)
            if not given.keep_only:
                await store.put_in_use(uow, texts.MODEL, version)
    finally:
        await database.close()
    figures = ", ".join(f"{name} {value:.3f}" for name, value in sorted(trained.metrics.items()))
    sys.stdout.write(f"{texts.MODEL} version {version}: {figures}\n")


def _show(share: float) -> None:
    sys.stderr.write(f"\rtraining {share:4.0%}" + ("\n" if share >= 1 else ""))
    sys.stderr.flush()
