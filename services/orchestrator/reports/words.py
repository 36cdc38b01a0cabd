"""Reports in words and columns, as a terminal shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from troika.orchestrator.v1 import orchestrator_service_pb2 as pb

from chassis.terminal import table
from services.orchestrator.reports.times import hours_in_words

STAGES = ("audience", "chosen", "pushed", "accepted", "delivered", "answered", "goal")


def in_words(report: pb.GetThemeReportResponse) -> str:
    """A whole report: funnel, effect, money, times, and a line for each part."""
    told = ["the launch is still deciding: its audience is not complete"] if report.launching else []
    told += _funnel(report.funnel)
    told.append("")
    told.append(f"pushed    {_rate(report.pushed)}")
    told.append(f"kept out  {_rate(report.holdout)}")
    compared = report.pushed.persons and report.holdout.persons
    told.append(f"effect    {_points(report.effect)}" if compared else "effect    nobody to compare with")
    told += _money(report.money)
    told += [_times(each) for each in report.response_times]
    if report.parts:
        told += ["", _parts(report.parts)]
    return "\n".join(told)


def _funnel(stages: Sequence[pb.FunnelStage]) -> Iterable[str]:
    most = max((len(f"{stage.count:,}") for stage in stages), default=0)
    for before, stage in zip([None, *stages], stages, strict=False):
        share = f"{stage.count / before.count:7.1%}" if before and before.count and stage.stage != "goal" else " " * 7
        lost = ", ".join(f"{n:,} {why}" for why, n in sorted(stage.lost.items(), key=lambda item: (-item[1], item[0])))
        yield f"{stage.stage:<12} {stage.count:>{most},} {share}{'  without ' + lost if lost else ''}".rstrip()


def _rate(rate: pb.Rate) -> str:
    return f"{rate.rate:.2%} [{rate.low:.2%}, {rate.high:.2%}]: {rate.goals:,} of {rate.persons:,}"


def _points(interval: pb.Interval) -> str:
    return f"{100 * interval.value:+.2f} points [{100 * interval.low:+.2f}, {100 * interval.high:+.2f}]"


def _money(money: pb.ReportMoney) -> Iterable[str]:
    returned = f", its goals are worth {_yuan(money.return_fen)}" if money.return_fen else ""
    yield f"cost      {_yuan(money.cost_fen)} yuan{returned}"
    if money.HasField("incremental_return_fen"):
        gained = money.incremental_return_fen
        yield f"gained    {_yuan(gained.value)} yuan [{_yuan(gained.low)}, {_yuan(gained.high)}]"
    if money.HasField("return_on_cost"):
        each = money.return_on_cost
        yield f"          {each.value:.2f} for each yuan spent [{each.low:.2f}, {each.high:.2f}]"


def _yuan(fen: float) -> str:
    return f"{fen / 100:,.2f}"


def _times(times: pb.ResponseTimes) -> str:
    told = f"{times.kind:<9} {times.persons:,} after the push"
    if len(times.quantile_hours) == 5:
        told += f", half within {hours_in_words(times.quantile_hours[2])}, nine of ten within"
        told += f" {hours_in_words(times.quantile_hours[4])}"
    return told + (f"; {times.earlier:,} before it" if times.earlier else "")


def _parts(parts: Iterable[pb.ReportPart]) -> str:
    return table(("", *STAGES, "goal rate", "kept out", "effect", "cost (yuan)"), [_line(part) for part in parts])


def _line(part: pb.ReportPart) -> list[object]:
    counts = {stage.stage: stage.count for stage in part.funnel}
    told = ["too few" if part.hidden else _percent(part.pushed), _percent(part.holdout)]
    told.append(_points(part.effect) if part.HasField("effect") else "")
    return [part.key or "none", *(counts.get(stage, "") for stage in STAGES), *told, _yuan(part.money.cost_fen)]


def _percent(rate: pb.Rate) -> str:
    return f"{rate.rate:.2%}" if rate.persons else ""
