"""Bench models: what the models of scoring reach on real outcomes, each beside its baseline on the same splits.

Every part can be run alone (`python -m bench.models_tabular`). `TROIKA_DATA` names the folder of the sets; a set that is
not there is left out and named. `TROIKA_PICTURES` names a folder for the reliability pictures.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from bench.progress import say

PARTS = ("tabular", "uplift", "text", "lookalike", "attributes")


async def measure(quick: bool) -> dict[str, Any]:
    """The figures of every part, by set of data."""
    figures: dict[str, Any] = {}
    for part in PARTS:
        if importlib.util.find_spec(f"bench.models_{part}") is None:
            say(f"models: no {part}")
            continue
        say(f"models: {part}")
        figures |= await importlib.import_module(f"bench.models_{part}").measure(quick)
    return figures
