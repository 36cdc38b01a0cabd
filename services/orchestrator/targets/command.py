"""`troika targets …`: how far dealers' months are, and whom to speak to, from a terminal."""

from __future__ import annotations

import argparse
from typing import Any

from google.protobuf.message import Message
from troika.orchestrator.v1 import target_service_pb2 as pb
from troika.orchestrator.v1.target_service_pb2_grpc import TargetServiceStub

from chassis.run import PlainVerb
from chassis.terminal import table
from services.orchestrator import terminal
from services.orchestrator.leads.command import stage_word
from services.orchestrator.targets.closing import METRICS
from services.orchestrator.terminal import TIMEOUT_S


def _metric(flags: argparse.Namespace) -> pb.TargetMetric.ValueType:
    return pb.TargetMetric.ValueType(METRICS[flags.metric].value)


async def _set(stub: Any, flags: argparse.Namespace) -> Message:
    target = pb.DealerTarget(
        advisor=flags.advisor, metric=_metric(flags), goal=flags.goal, value_fen=flags.value_fen, version=flags.version
    )
    request = pb.SetTargetsRequest(dealer_code=flags.dealer, month=flags.month, targets=[target])
    answer: Message = await stub.SetTargets(request, timeout=TIMEOUT_S)
    return answer


async def _report(stub: Any, flags: argparse.Namespace) -> Message:
    request = pb.GetTargetReportRequest(dealer_code=flags.dealer, month=flags.month)
    answer: Message = await stub.GetTargetReport(request, timeout=TIMEOUT_S)
    return answer


async def _list(stub: Any, flags: argparse.Namespace) -> Message:
    request = pb.ListOpportunitiesRequest(
        dealer_code=flags.dealer, metric=_metric(flags), advisor=flags.advisor, page_size=flags.limit
    )
    answer: Message = await stub.ListOpportunities(request, timeout=TIMEOUT_S)
    return answer


async def _measure(stub: Any, flags: argparse.Namespace) -> Message:
    request = pb.MeasureOpportunitiesRequest(
        dealer_code=flags.dealer, metric=_metric(flags), days=flags.days, window_days=flags.window_days
    )
    answer: Message = await stub.MeasureOpportunities(request, timeout=TIMEOUT_S)
    return answer


def _word(metric: int) -> str:
    return pb.TargetMetric.Name(pb.TargetMetric.ValueType(metric)).removeprefix("TARGET_METRIC_").lower()


def in_words(answer: Message) -> str:
    """What people read."""
    match answer:
        case pb.SetTargetsResponse():
            return table(
                ("advisor", "what", "goal", "worth (yuan)", "version", "by"),
                [(t.advisor or "all", _word(t.metric), t.goal, t.value_fen / 100, t.version, t.author) for t in answer.targets],
            )
        case pb.GetTargetReportResponse():
            lines = table(
                ("advisor", "what", "goal", "reached", "missing", "customers", "expected", "chance", ""),
                [
                    (
                        line.target.advisor or "all",
                        _word(line.target.metric),
                        line.target.goal,
                        line.actual,
                        line.gap,
                        line.candidates,
                        f"{line.expected:.1f}",
                        f"{line.chance:.0%}",
                        line.words,
                    )
                    for line in answer.lines
                ],
            )
            return (
                f"{lines}\n{answer.days_left:.1f} days are left; for each one foretold {answer.realised:.2f} came true so far"
            )
        case pb.ListOpportunitiesResponse():
            return table(
                ("", "person", "lead", "stage", "advisor", "score", "chance", "worth (yuan)", "do", "because"),
                [
                    (
                        each.rank,
                        each.person_id,
                        each.lead,
                        stage_word(each.stage) if each.stage else "",
                        each.advisor,
                        "" if each.neutral else f"{each.score:.0f}",
                        f"{each.probability:.1%}",
                        f"{each.expected_fen / 100:.0f}",
                        each.next_action_words,
                        "; ".join(each.reasons),
                    )
                    for each in answer.opportunities
                ],
            )
        case pb.MeasureOpportunitiesResponse():
            told = f"{answer.lists} lists, {answer.places} places, {answer.conversions} did it; area {answer.list_area:.3f}"
            for name, order in (("the dealer's own order", answer.own_order), ("oldest first", answer.oldest_first)):
                told += f"\nagainst {name} ({order.area:.3f}): {order.difference:+.3f}"
                told += f" ({order.low:+.3f} to {order.high:+.3f}), {order.verdict.replace('_', ' ')}"
            return told
        case _:
            return str(answer)


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    actions = parser.add_subparsers(dest="action", required=True)

    def action(name: str, about: str, ask: terminal.Ask, with_metric: bool = True) -> argparse.ArgumentParser:
        found = terminal.action(actions, name, about, ask, in_words, TargetServiceStub)
        found.add_argument("dealer", help="for example D001")
        if with_metric:
            found.add_argument("metric", choices=list(METRICS))
        return found

    stated = action("set", "what a dealer or an advisor is to reach", _set)
    stated.add_argument("goal", type=int)
    stated.add_argument("--month", required=True, help="2026-11")
    stated.add_argument("--advisor", default="")
    stated.add_argument("--value-fen", type=int, default=0, help="what one is worth")
    stated.add_argument("--version", type=int, default=0, help="of the target that is changed; default: a new one")
    action("report", "how far a month is, and what closes the gaps", _report, with_metric=False).add_argument(
        "--month", default="", help="2026-11; default: the present one"
    )
    listing = action("list", "whom to speak to, by expected value", _list)
    listing.add_argument("--advisor", default="")
    listing.add_argument("--limit", type=int, default=20)
    measure = action("measure", "whether past lists were better than the dealer's own order", _measure)
    measure.add_argument("--days", type=int, default=0, help="lists of so many days; default 30")
    measure.add_argument("--window-days", type=int, default=0, help="how long an outcome is waited for; default 14")


VERBS = (PlainVerb("targets", "dealers' months, and whom to speak to", terminal.run, arguments),)
