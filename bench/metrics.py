"""Reads figures out of a service's /metrics and of its processes."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families


class Histogram:
    """Cumulative counts by upper bound, as Prometheus prints them; subtract two to get what lies between."""

    def __init__(self, counts: Mapping[float, float]) -> None:
        self.counts = dict(counts)

    def __sub__(self, earlier: Histogram) -> Histogram:
        return Histogram({bound: n - earlier.counts.get(bound, 0.0) for bound, n in self.counts.items()})

    @property
    def total(self) -> float:
        """How many observations."""
        return max(self.counts.values(), default=0.0)

    def quantile(self, q: float) -> float:
        """The q-quantile, linear inside its bucket; infinity when it lies beyond the last bound."""
        below, lower = 0.0, 0.0
        for bound, count in sorted(self.counts.items()):
            if count >= q * self.total and self.total:
                if bound == float("inf"):
                    return bound
                return lower + (bound - lower) * (q * self.total - below) / max(count - below, 1e-9)
            below, lower = count, bound
        return float("nan")


async def scrape(client: httpx.AsyncClient, url: str) -> dict[str, float | Histogram]:
    """Counters (labels summed) and histograms of a service by name."""
    text = (await client.get(f"{url}/metrics")).text
    found: dict[str, float | Histogram] = {}
    for family in text_string_to_metric_families(text):
        if family.type == "histogram":
            counts: dict[float, float] = {}
            for sample in family.samples:
                if sample.name.endswith("_bucket"):
                    bound = float(sample.labels["le"])
                    counts[bound] = counts.get(bound, 0.0) + sample.value
            found[family.name] = Histogram(counts)
        elif family.type == "counter":
            found[family.name] = sum(s.value for s in family.samples if s.name.endswith("_total"))
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and all its children so far."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return sum(sum(p.cpu_times()[:2]) for p in family if p.is_running())
    except psutil.NoSuchProcess:
        return 0.0
