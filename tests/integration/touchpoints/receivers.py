"""The emulated receivers as processes around a running room."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.integration.touchpoints.room import PATIENCE_S, Room, eventually

APPID = "wx0123456789abcdef"
APP, WECHAT, DEALER = 1, 2, 3


@contextlib.asynccontextmanager
async def receiver(folder: Path, module: str, port: int, **config: Any) -> AsyncIterator[None]:
    """A receiver on a port, from ready to killed."""
    path = folder / f"{module}.json"
    path.write_text(json.dumps(config))
    command = [sys.executable, "-m", f"tests.emulators.{module}", "--port", str(port), "--config", str(path)]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            assert json.loads(await process.stdout.readline())["ready"]
        yield
    finally:
        process.kill()
        await process.wait()


async def judge(room: Room, port: int) -> dict[str, Any]:
    return dict((await room.http.get(f"http://127.0.0.1:{port}/__judge?pushes")).json())


async def settled(room: Room, port: int) -> dict[str, Any]:
    """The judge's report once everything came back."""
    return await eventually(lambda: judge(room, port), lambda r: r["feedback_pending"] == 0)


async def finished(room: Room, ids: list[str]) -> dict[str, int]:
    """States of deliveries once none of them is on its way."""

    async def states() -> dict[str, int]:
        async with room.database.read() as uow:
            return {row.delivery_id: row.state for row in await uow.rows("SELECT delivery_id, state FROM delivery")}

    return await eventually(states, lambda s: len(s) == len(ids) and all(state > 2 for state in s.values()))
