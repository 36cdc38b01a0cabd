"""The main job from the first record to the report."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from troika.identity.v1.identity_service_pb2 import GetStatisticsRequest

from local.demo import campaign, counts, intake, people, provenance, report, world
from local.demo.console import Screen
from local.demo.counts import Check, agree
from local.demo.doors import Accepted, Doors
from local.demo.figures import Outcome, figures
from local.demo.operator import NeverCameError, Operator, until
from local.demo.receivers import Judgement, Receivers
from local.overlay import Overlay
from local.supervisor import Suite

ORGANIC_SHARE = 0.20


@dataclass(frozen=True)
class Result:
    """What the main job came to."""

    outcome: Outcome
    figures: dict[str, Any]
    checks: list[Check]
    accepted: Accepted
    judgement: Judgement
    theme: str


async def demo(persons: int, seed: int, folder: Path) -> int:
    """Runs everything in `folder`; 0 when all promises hold, 1 when one is broken."""
    screen = Screen()
    screen.say(f"[bold]Troika demo[/]: {persons:,} persons, seed {seed}")
    for word, lines in (("real", provenance.REAL), ("made", provenance.MADE)):
        for line in lines:
            screen.say(f"  [bold]{word}[/]  {line}")
    if note := provenance.resampled(persons):
        screen.say(f"  [bold]made[/]  {note}")
    try:
        with screen.step("Start PostgreSQL, NATS and five services"):
            suite = await Suite(folder, fresh=True, say=screen.say).__aenter__()
        try:
            result = await main_job(screen, suite, persons, seed)
        finally:
            with screen.step("Stop everything"):
                await suite.__aexit__(None, None, None)
    except NeverCameError as error:
        screen.say(f"[red]✗[/] {error}\n  logs: {folder / 'logs'}")
        return 1
    await asyncio.to_thread(report.write, folder, result.outcome, result.figures, result.checks, screen.seconds)
    report.show(screen.console, folder, result.figures, result.checks)
    return 0 if all(check.holds for check in result.checks) else 1


async def main_job(screen: Screen, suite: Suite, persons: int, seed: int) -> Result:
    """Once around the loop on a suite that is empty."""
    began = time.perf_counter()
    with screen.step("Make the identity overlay"):
        overlay = await asyncio.to_thread(Overlay, persons, seed)
    receivers = Receivers(suite, suite.folder / "receivers", seed)
    try:
        async with Operator(suite) as operator:
            return await _around(screen, suite, overlay, operator, receivers, seed, began)
    finally:
        await receivers.close()


async def _around(
    screen: Screen, suite: Suite, overlay: Overlay, operator: Operator, receivers: Receivers, seed: int, began: float
) -> Result:
    before = await operator.ask(operator.identity.GetStatistics, GetStatisticsRequest())
    if before.observations:
        raise NeverCameError("the demo needs empty servers; these hold observations already")
    with screen.step("Register sources, endpoints and known staff phones"):
        write_keys = await world.create_sources(operator, overlay)
        app_secret, dealer_secrets = await world.create_endpoints(operator, overlay, receivers)
        await world.register_half_of_staff(operator, overlay)
        await asyncio.to_thread(receivers.write_truth, overlay)
        receivers.start(suite.url("touchpoints"), app_secret, dealer_secrets)
    async with Doors(suite.url("touchpoints"), write_keys) as doors:
        await intake.import_records(screen, doors, overlay)
        await intake.send_events(screen, doors, overlay)
        taken = doors.accepted
        await intake.resolved(screen, operator, taken.records + taken.events)
        with screen.step("Compare identities with the truth"):
            cast = await people.resolve(operator, overlay)
        await intake.tagged(screen, operator, cast)
        await campaign.train(screen, operator)
        scores = await people.scores_of(operator, campaign.MODEL, cast.call_center_entity[cast.new_leads])
        with screen.step("Suggest an audience, preview the theme"):
            suggestion = await campaign.suggest(operator)
            theme = await campaign.create(operator, suggestion.audience, len(cast.new_leads))
            forecast = await campaign.preview(operator, theme)
        screen.say(
            f"  {suggestion.size:,} of {suggestion.eligible_size:,} eligible, {suggestion.expected_response:.1%} expected to answer"
            f" (all eligible {suggestion.eligible_expected_response:.1%}); {forecast.chosen:,} chosen,"
            f" {forecast.holdout:,} held out, {forecast.expected_responses:,.0f} responses expected"
        )
        await campaign.launch(screen, operator, theme)
        await _wait_for_receivers(receivers)
        sent, judgement = await campaign.settle(screen, operator, receivers, theme)
        now = datetime.now(UTC).isoformat()
        with screen.step("Organic answers, pushed or not") as step:
            await doors.events("call_center", intake.organic_events(overlay, seed, ORGANIC_SHARE, now), step.advance)
        expected = taken.records + taken.events + sent.feedback
        seen = await intake.resolved(screen, operator, expected)
        theme_report = await _settled_report(screen, operator, theme, sent)
    outcome = Outcome(
        len(overlay), seed, time.perf_counter() - began, cast, people.judge(cast), seen, scores, sent, theme_report
    )
    numbers = figures(outcome)
    checks = await _checks(suite, outcome, judgement, receivers, expected)
    return Result(outcome, numbers, checks, taken, judgement, theme)


async def _wait_for_receivers(receivers: Receivers) -> None:
    async def answering() -> bool:
        return all([await receivers.answer(name) for name in ("app_backend", "dealer_backend", "wechat")])

    await until(answering, bool, 30)


async def _settled_report(
    screen: Screen, operator: Operator, theme: str, sent: campaign.Deliveries
) -> campaign.pb.GetThemeReportResponse:
    """The theme's report once the last feedback and the last organic answer are in it."""
    with screen.step("Read the theme's report"):

        async def look() -> campaign.pb.GetThemeReportResponse:
            return await campaign.report_of(operator, theme)

        answered = sent.in_state("answered")
        seen = await until(
            look, lambda r: sum(channel.answered for channel in r.channels) >= answered, intake.STUCK_S, every=1.0
        )
        # Organic answers have no count to wait for: the report is final when it has stopped to change.
        while True:
            await asyncio.sleep(2.0)
            again = await look()
            if again == seen:
                return seen
            seen = again


async def _checks(suite: Suite, outcome: Outcome, judgement: Judgement, receivers: Receivers, expected: int) -> list[Check]:
    sent, statistics, quality = outcome.deliveries, outcome.statistics, outcome.quality
    in_database = await counts.stored(suite.postgres_dsn)
    pushes = await receivers.pushes()
    twice = len(pushes) - len({push["delivery_id"] for push in pushes}) + len(judgement.pushed_twice)
    return [
        agree("nothing accepted is lost", accepted=expected, identity=statistics.observations),
        agree("nobody is pushed twice", twice=twice, allowed=0),
        agree("no customers glued by a staff phone", glued=quality.glued_by_staff_phone, allowed=0),
        agree("persons", doors=statistics.persons, database=in_database["persons"], tags=in_database["tagged_persons"]),
        agree("vehicles", doors=statistics.vehicles, database=in_database["vehicles"], tags=in_database["tagged_vehicles"]),
        agree("merges", doors=statistics.merges, database=in_database["merges"]),
        agree("pushes", decided=outcome.report.decisions["push"], sent=sent.total, database=in_database["pushes"]),
        agree("acknowledged", doors=sent.acknowledged, database=in_database["acknowledged"]),
        agree("feedback", doors=sent.feedback, database=in_database["feedback"]),
        agree("signatures refused by receivers", refused=judgement.bad_signatures, allowed=0),
    ]
