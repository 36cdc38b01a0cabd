"""What is asked about the outcome of themes."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from services.orchestrator.domain.themes import ThemeId
from services.orchestrator.handlers import Room
from services.orchestrator.reports.cells import Breakdown
from services.orchestrator.reports.drawing import Format, Picture, draw
from services.orchestrator.reports.folding import About, Report, fold
from services.orchestrator.reports.store import ReportStore
from services.orchestrator.themes.states import found
from services.orchestrator.themes.store import ThemeStore

# One thread: matplotlib takes no more, and decisions need the cores.
_PAINTER = ThreadPoolExecutor(1, "painter")


async def theme_report(room: Room, theme_id: ThemeId, by: Breakdown = Breakdown.NONE) -> Report:
    """What came of a theme so far."""
    async with room.database.read() as uow:
        theme = found(await ThemeStore(uow).in_force(theme_id), theme_id)
        store = ReportStore(uow)
        cells, times = await store.cells(theme_id, by), await store.times(theme_id, by)
    about = About(theme.name, theme.version, theme.launching, theme.definition.goal.value_fen)
    return fold(cells, times, about, by, room.settings.smallest_group)


async def theme_picture(room: Room, theme_id: ThemeId, by: Breakdown, picture: Picture, form: Format) -> bytes:
    """The same, drawn."""
    report = await theme_report(room, theme_id, by)
    return await asyncio.get_running_loop().run_in_executor(_PAINTER, draw, report, picture, form)
