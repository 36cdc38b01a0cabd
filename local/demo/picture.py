"""The result as one picture: response by score band, and the funnel of each channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from troika.orchestrator.v1.orchestrator_service_pb2 import GetThemeReportResponse

STAGES = ("requested", "accepted", "delivered", "answered", "goals")


def draw(path: Path, figures: dict[str, Any], report: GetThemeReportResponse) -> None:
    """Writes a PNG."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    bands = [band for band in figures["bands"] if band["persons"]]
    places = range(len(bands))
    rates = [100 * band["rate"] for band in bands]
    below = [100 * (band["rate"] - band["low"]) for band in bands]
    above = [100 * (band["high"] - band["rate"]) for band in bands]
    left.bar(places, rates, yerr=[below, above], capsize=4, color="#4c78a8")
    left.axhline(100 * figures["base_rate"], color="#e45756", linestyle="--", label="all new leads")
    labels = [f"{band['from']:.0f}–{band['to']:.0f}\n{band['persons']:,} people" for band in bands]
    left.set_xticks(places, labels)
    left.set_ylabel("said yes, % (95 % interval)")
    left.set_title("Response of the pushed by score")
    left.legend(frameon=False)
    width = 0.8 / max(1, len(report.channels))
    for at, channel in enumerate(report.channels):
        counts = [getattr(channel, stage) for stage in STAGES]
        bars = right.bar([place + at * width for place in range(len(STAGES))], counts, width, label=channel.channel)
        right.bar_label(bars, fontsize=7, fmt="{:,.0f}")
    right.set_xticks([place + width * (len(report.channels) - 1) / 2 for place in range(len(STAGES))], STAGES)
    # Room above the tallest bars for their numbers and the legend.
    right.margins(y=0.2)
    right.set_ylabel("people")
    right.set_title("Funnel by channel")
    right.legend(frameon=False, loc="upper center", ncols=3)
    effect, group = figures["effect_vs_holdout"], figures["random_group_of_same_size"]
    figure.suptitle(
        f"Said yes: targeted {figures['targeted']['value']:.1%}, random {group['value']:.1%};"
        f" against the holdout {100 * effect['value']:+.1f} points [{100 * effect['low']:.1f}, {100 * effect['high']:.1f}]"
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)
