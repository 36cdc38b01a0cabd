"""Touchpoints: what comes in, what goes out, who arrives; each part makes its own servers (bench/touchpoints_*.py)."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from bench.progress import say

PARTS = ("ingest", "out", "arrivals")


async def measure(quick: bool) -> dict[str, Any]:
    """The figures of all parts."""
    figures: dict[str, Any] = {}
    for part in PARTS:
        name = f"bench.touchpoints_{part}"
        if importlib.util.find_spec(name) is None:
            continue
        say(f"touchpoints: {part}")
        figures |= await importlib.import_module(name).measure(quick)
    return figures
