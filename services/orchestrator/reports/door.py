"""Reports as the contract tells them, for the gRPC door."""

from __future__ import annotations

from collections.abc import Iterable

from troika.orchestrator.v1 import orchestrator_service_pb2 as pb

from services.orchestrator.domain.statistics import Interval
from services.orchestrator.reports.cells import BAND_WIDTH
from services.orchestrator.reports.folding import Money, Part, Rate, Report
from services.orchestrator.reports.funnel import Stage
from services.orchestrator.reports.times import EDGES, Times


def told(report: Report) -> pb.GetThemeReportResponse:
    """A whole report."""
    whole = report.whole
    return pb.GetThemeReportResponse(
        decisions=report.decisions,
        channels=[
            pb.ChannelFunnel(
                channel=f.channel,
                requested=f.requested,
                accepted=f.accepted,
                delivered=f.delivered,
                answered=f.answered,
                goals=f.goals,
                failed=f.failed,
            )
            for f in report.funnels
        ],
        pushed=_rate(report.pushed),
        holdout=_rate(report.holdout),
        effect=_interval(report.effect),
        cost_fen=whole.money.cost,
        bands=[
            pb.BandRate(from_score=i * BAND_WIDTH, to_score=(i + 1) * BAND_WIDTH, rate=_rate(rate))
            for i, rate in enumerate(report.bands)
        ],
        funnel=_funnel(whole.funnel),
        money=_money(whole.money),
        response_times=_times(whole.times),
        parts=[_part(part) for part in report.parts],
        launching=report.launching,
    )


def _part(part: Part) -> pb.ReportPart:
    return pb.ReportPart(
        key=part.key,
        hidden=part.hidden,
        funnel=_funnel(part.funnel),
        pushed=_rate(part.pushed),
        holdout=_rate(part.holdout),
        effect=_interval(part.effect),
        money=_money(part.money),
        response_times=_times(part.times),
    )


def _funnel(stages: Iterable[Stage]) -> list[pb.FunnelStage]:
    return [pb.FunnelStage(stage=stage.name, count=stage.count, lost=stage.lost) for stage in stages]


def _times(times: Iterable[Times]) -> list[pb.ResponseTimes]:
    return [
        pb.ResponseTimes(
            kind=each.kind,
            persons=each.count,
            earlier=each.earlier,
            quantile_hours=each.quantiles,
            histogram=[
                pb.TimeClass(from_hours=edge, persons=n) for edge, n in zip(EDGES, each.histogram, strict=bool(each.histogram))
            ],
        )
        for each in times
    ]


def _money(money: Money) -> pb.ReportMoney:
    return pb.ReportMoney(
        cost_fen=money.cost,
        return_fen=money.returned,
        incremental_return_fen=_interval(money.gained),
        return_on_cost=_interval(money.per_fen),
    )


def _rate(rate: Rate | None) -> pb.Rate | None:
    if rate is None:
        return None
    interval = rate.interval
    return pb.Rate(persons=rate.persons, goals=rate.goals, rate=interval.value, low=interval.low, high=interval.high)


def _interval(interval: Interval | None) -> pb.Interval | None:
    if interval is None:
        return None
    return pb.Interval(value=interval.value, low=interval.low, high=interval.high)
