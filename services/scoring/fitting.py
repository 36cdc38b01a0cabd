"""Starts the processes that train (`fit.py`) or recalibrate, and follows them."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from collections.abc import Awaitable, Callable, Collection

import orjson

from services.scoring import fit
from services.scoring.domain import TrainingRefused
from services.scoring.learning.cut import Cut, Trained

# The longest line is the artefact in base64.
LINE_LIMIT = 256 * 1024 * 1024


class WorkerDied(Exception):
    """The training process ended without a word: killed, out of memory, or a bug. Worth another attempt, not many."""


async def train(
    training_module: str, cut: Cut, trusted: Collection[str], progress: Callable[[float], Awaitable[None]]
) -> Trained:
    """Trains in a process of its own, which is killed when this call is cancelled. `trusted`: columns that leak nothing."""
    data = await asyncio.to_thread(fit.pack, training_module, cut, trusted)
    return await run(fit.__name__, data, progress)


async def run(program: str, data: bytes, progress: Callable[[float], Awaitable[None]]) -> Trained:
    """Runs a module that makes an artefact of what it reads; raises TrainingRefused or WorkerDied."""
    # No secrets for a process that only computes.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TROIKA_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        program,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_LIMIT,
        env=environment,
    )
    if process.stdin is None or process.stdout is None:
        raise WorkerDied
    try:
        try:
            process.stdin.write(data)
            await process.stdin.drain()
            process.stdin.close()
        except ConnectionError:
            raise WorkerDied from None
        async for text in process.stdout:
            line = orjson.loads(text)
            if "refused" in line:
                raise TrainingRefused(line["refused"], line["detail"])
            if "artefact" in line:
                return Trained(base64.b64decode(line["artefact"]), line["metrics"])
            await progress(line["progress"])
        raise WorkerDied
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
