"""The end of the demo: report.json, report.png and a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from local.demo import picture, provenance
from local.demo.checks import Check
from local.demo.figures import Outcome


def write(folder: Path, outcome: Outcome, figures: dict[str, Any], checks: Sequence[Check], steps: dict[str, float]) -> None:
    """Writes report.json and report.png."""
    report = {
        "figures": figures,
        "checks": [asdict(check) for check in checks],
        "real": list(provenance.REAL),
        "made": provenance.made(outcome.persons),
        "steps_seconds": steps,
        "asked_for": {"persons": outcome.persons, "seed": outcome.seed},
    }
    (folder / "report.json").write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    picture.draw(folder / "report.png", figures, outcome.report)


def show(console: Console, folder: Path, figures: dict[str, Any], checks: Sequence[Check]) -> None:
    """Prints the table and what does not hold."""
    table = Table(title="The loop, once around", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    for name, value in _lines(figures):
        table.add_row(name, value)
    console.print(table)
    for check in checks:
        console.print(f"{'[green]✓[/]' if check.holds else '[red]✗[/]'} {check.name} [dim]({check.found})[/]")
    console.print(f"\n{folder / 'report.json'}\n{folder / 'report.png'}", soft_wrap=True)


def _lines(f: dict[str, Any]) -> list[tuple[str, str]]:
    kept, per_call = f["sales_kept_at_65_percent"], f["sales_per_call_vs_all"]
    effect, targeted, group = f["effect_vs_holdout"], f["targeted"], f["random_group_of_same_size"]
    return [
        ("who is who", f"{f['persons']:,} persons, {f['vehicles']:,} vehicles, {f['merges']:,} merges"),
        (
            "against the truth",
            f"pairwise precision {f['identity_precision']:.4%}, recall {f['identity_recall']:.4%}",
        ),
        ("pushes", f"{f['pushes']:,}, acknowledged {f['acknowledged']:,}, feedback events {f['feedback']:,}"),
        ("said yes, targeted", _rate(targeted)),
        ("said yes, random group of that size", _rate(group)),
        (
            "cost per yes",
            f"{f['cost_per_response_fen'] / 100:,.2f} yuan, random {f['random_cost_per_response_fen'] / 100:,.2f}",
        ),
        (
            "effect against the holdout",
            f"{100 * effect['value']:+.2f} points [{100 * effect['low']:+.2f}, {100 * effect['high']:+.2f}]",
        ),
        (
            "sales kept with 35 % fewer calls",
            f"{kept:.1%} ({per_call:.2f} × per call)",
        ),
        ("best tenth answers", f"{f['top_decile_lift']:.2f} × the base rate of {f['base_rate']:.1%}"),
        ("seconds", f"{f['seconds']:.0f}"),
    ]


def _rate(rate: dict[str, Any]) -> str:
    return f"{rate['value']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}], {rate['count']:,} of {rate['of']:,}"
