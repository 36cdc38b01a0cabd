"""The main job from the first record to the report."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from troika.identity.v1.identity_service_pb2 import GetStatisticsRequest
from troika.orchestrator.v1.orchestrator_service_pb2 import GetThemeReportResponse

from local.demo import campaign, checks, intake, people, provenance, report, world
from local.demo.checks import Check
from local.demo.console import Screen
from local.demo.doors import Doors
from local.demo.figures import Outcome, figures
from local.demo.operator import NeverCameError, Operator, until
from local.demo.receivers import NAMES, Judgement, Receivers
from local.demo.stage import Stage
from local.overlay import Overlay
from local.supervisor import Suite

ORGANIC_SHARE = 0.20


@dataclass(frozen=True)
class Result:
    """What the main job came to."""

    outcome: Outcome
    figures: dict[str, Any]
    checks: list[Check]
    judgement: Judgement
    retries: int  # batches that a door had to be asked for again
    theme: str


async def demo(persons: int, seed: int, folder: Path) -> int:
    """Runs everything in `folder`; 0 when all promises hold, 1 when one is broken."""
    screen = Screen()
    screen.say(f"[bold]Troika demo[/]: {persons:,} persons, seed {seed}")
    for word, lines in (("real", provenance.REAL), ("made", provenance.made(persons))):
        for line in lines:
            screen.say(f"  [bold]{word}[/]  {line}")
    suite = Suite(folder, fresh=True, say=screen.say)
    try:
        with screen.step("Start PostgreSQL, NATS and five services"):
            await suite.__aenter__()
        try:
            result = await run(screen, suite, persons, seed)
        finally:
            with screen.step("Stop everything"):
                await suite.__aexit__(None, None, None)
    except (NeverCameError, grpc.aio.AioRpcError) as error:
        what = f"{error.code().name}: {error.details()}" if isinstance(error, grpc.aio.AioRpcError) else str(error)
        screen.say(f"[red]✗[/] {what}\n  logs: {folder / 'logs'}")
        return 1
    await asyncio.to_thread(report.write, folder, result.outcome, result.figures, result.checks, screen.seconds)
    report.show(screen.console, folder, result.figures, result.checks)
    return 0 if all(check.holds for check in result.checks) else 1


async def run(screen: Screen, suite: Stage, persons: int, seed: int) -> Result:
    """Once around the loop on a suite that is empty."""
    began = time.perf_counter()
    with screen.step("Make the identity overlay"):
        overlay = await asyncio.to_thread(Overlay, persons, seed)
    receivers = Receivers(suite, suite.folder / "receivers", seed)
    try:
        async with Operator(suite) as operator:
            job = MainJob(screen, suite, operator, receivers, overlay, seed, began)
            async with Doors(suite.url("touchpoints"), await job.prepare()) as doors:
                cast = await job.sense(doors)
                return await job.act(doors, cast)
    finally:
        await receivers.close()


@dataclass(frozen=True)
class MainJob:
    """The steps of the loop, in order."""

    screen: Screen
    suite: Stage
    operator: Operator
    receivers: Receivers
    overlay: Overlay
    seed: int
    began: float

    async def prepare(self) -> dict[str, str]:
        """Sources, endpoints, receivers; returns write keys by source."""
        operator, overlay, receivers = self.operator, self.overlay, self.receivers
        before = await operator.ask(operator.identity.GetStatistics, GetStatisticsRequest())
        if before.observations:
            raise NeverCameError("the demo needs empty servers; these hold observations already")
        with self.screen.step("Register sources, endpoints and known staff phones"):
            write_keys = await world.create_sources(operator, overlay)
            app_secret, dealer_secrets = await world.create_endpoints(operator, overlay, receivers)
            await world.register_half_of_staff(operator, overlay)
            await asyncio.to_thread(receivers.write_truth, overlay)
            receivers.start(self.suite.url("touchpoints"), app_secret, dealer_secrets)
        return write_keys

    async def sense(self, doors: Doors) -> people.People:
        """Records and events in, identities resolved, tags computed; returns the truth beside the product's view."""
        screen, operator, overlay = self.screen, self.operator, self.overlay
        await intake.import_records(screen, doors, overlay)
        await intake.send_events(screen, doors, overlay)
        await intake.resolved(screen, operator, doors.accepted.total)
        with screen.step("Compare identities with the truth"):
            cast = await people.resolve(operator, overlay)
        await intake.tagged(screen, operator, cast)
        return cast

    async def act(self, doors: Doors, cast: people.People) -> Result:
        """Train, decide, push, listen, judge."""
        screen, operator, receivers = self.screen, self.operator, self.receivers
        await campaign.train(screen, operator)
        scores = await people.scores_of(operator, campaign.MODEL, cast.call_center_entity[cast.new_leads])
        theme = await self._plan(len(cast.new_leads))
        await until(self._receivers_answer, bool, 30)
        await campaign.launch(screen, operator, theme)
        sent = await campaign.settle(screen, operator, receivers, theme)
        now = datetime.now(UTC).isoformat()
        with screen.step("Organic answers, pushed or not") as step:
            organic = intake.organic_events(self.overlay, self.seed, ORGANIC_SHARE, now)
            await doors.events("call_center", organic, step.advance)
        stored = await checks.stored(self.suite.postgres_dsn)
        expected = doors.accepted.total + stored["feedback_about_persons"]
        statistics = await intake.resolved(screen, operator, expected)
        theme_report = await self._final_report(theme, sent)
        quality, seconds = people.judge(cast), time.perf_counter() - self.began
        outcome = Outcome(
            persons=len(self.overlay),
            seed=self.seed,
            seconds=seconds,
            people=cast,
            quality=quality,
            statistics=statistics,
            scores=scores,
            deliveries=sent,
            report=theme_report,
        )
        judgement = await receivers.judge()
        found = checks.check(
            outcome, await checks.stored(self.suite.postgres_dsn), judgement, await receivers.pushes(), expected
        )
        return Result(outcome, figures(outcome), found, judgement, doors.accepted.retries, theme)

    async def _plan(self, new_leads: int) -> str:
        """Suggests an audience, makes the theme, says what a launch would do, has it approved; returns the theme's name."""
        with self.screen.step("Suggest an audience, preview the theme"):
            suggestion = await campaign.suggest(self.operator)
            theme = await campaign.create(self.operator, suggestion.audience, new_leads)
            forecast = await campaign.preview(self.operator, theme)
        for term in suggestion.terms[:3]:
            self.screen.say(f"  past responders more often: {term.predicate} ({term.lift:.1f} ×)")
        self.screen.say(
            f"  {suggestion.size:,} of {suggestion.eligible_size:,} eligible,"
            f" {suggestion.expected_response:.1%} expected to say yes (all eligible:"
            f" {suggestion.eligible_expected_response:.1%})"
        )
        self.screen.say(
            f"  {forecast.chosen:,} chosen, {forecast.holdout:,} of them held out,"
            f" {forecast.expected_responses:,.0f} responses expected for {forecast.expected_cost_fen / 100:,.0f} yuan"
        )
        with self.screen.step("Have the theme approved by a second person"):
            approved = await campaign.approve(self.operator, theme)
        self.screen.say(f"  written by {approved.author}, approved by {approved.review.reviewer}")
        return theme

    async def _receivers_answer(self) -> bool:
        return all([await self.receivers.answers(name) for name in NAMES])

    async def _final_report(self, theme: str, sent: campaign.Deliveries) -> GetThemeReportResponse:
        """The theme's report once the last feedback and the last organic answer are in it."""
        with self.screen.step("Read the theme's report"):

            async def look() -> GetThemeReportResponse:
                return await campaign.report_of(self.operator, theme)

            def complete(seen: GetThemeReportResponse) -> bool:
                return sum(channel.answered for channel in seen.channels) >= sent.in_state("answered")

            seen = await until(look, complete, intake.STUCK_S, every=1.0)
            # Organic answers have no count to wait for: the report is final when it has stopped to change.
            while True:
                await asyncio.sleep(2.0)
                again = await look()
                if again == seen:
                    return seen
                seen = again
