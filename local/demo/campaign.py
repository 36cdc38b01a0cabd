"""The campaign itself: train, suggest, preview, approve, launch, wait for what comes back."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp
from troika.orchestrator.v1 import offer_service_pb2 as offers
from troika.orchestrator.v1 import orchestrator_service_pb2 as pb
from troika.scoring.v1 import model_service_pb2 as models
from troika.touchpoints.v1.events_pb2 import DeliveryState
from troika.touchpoints.v1.touchpoints_service_pb2 import Channel, GetDeliveryStatisticsRequest

from local.demo.console import Screen
from local.demo.intake import STUCK_S
from local.demo.operator import NeverCameError, Operator, until
from local.demo.receivers import Receivers

MODEL = "purchase_intent"
# What was known of a contact before the call. Not credits and loans: they are sensitive, and models do without.
FEATURES = (
    *("age", "calls_this_campaign", "pdays", "calls_before"),
    *("emp_var_rate", "cons_price_idx", "cons_conf_idx", "euribor3m", "nr_employed"),
    *("job", "marital", "education"),
    *("contact_line", "call_month", "call_weekday", "previous_outcome"),
)
ASKED = "offer_answer IS NOT NULL"
SAID_YES = "offer_answer = 'yes'"
ELIGIBLE = "is_new_lead AND reachable"
# They follow from having been asked, or from the model that ranks afterwards.
EXCLUDED = ("offer_answer", "is_new_lead", "last_seen_at", "lead_score", "score_band", "pushes_delivered")
CONTACTS_SHARE, CALLS_SHARE, HOLDOUT_SHARE, CALL_SCORE = 0.65, 0.10, 0.10, 800.0
LANGUAGE = "zh-CN"
# MADE: what one contact costs, in fen.
UNIT_COST_FEN = {"app": 5, "wechat": 8, "dealer": 2000}


async def train(screen: Screen, operator: Operator) -> models.Model:
    """Trains on the past campaign, waits until everybody is scored, returns the model's card."""
    with screen.step("Train, calibrate, score everybody", 1.0) as step:
        request = models.TrainModelRequest(model=MODEL, cut_predicate=ASKED, goal_predicate=SAID_YES, features=FEATURES)
        number = (await operator.ask(operator.models.TrainModel, request)).operation.operation_id

        async def look() -> models.Operation:
            answer = await operator.ask(operator.models.GetOperation, models.GetOperationRequest(operation_id=number))
            step.at(answer.operation.progress)
            return answer.operation

        ended = await until(look, lambda seen: seen.state != models.OPERATION_STATE_RUNNING, 180)
        if ended.state != models.OPERATION_STATE_SUCCEEDED:
            raise NeverCameError(f"training failed: {ended.reason} {ended.detail}")
        return (await operator.ask(operator.models.GetModel, models.GetModelRequest(model=MODEL))).model


async def suggest(operator: Operator) -> pb.SuggestAudienceResponse:
    """An audience from what past responders have more often than others."""
    request = pb.SuggestAudienceRequest(
        responders=SAID_YES, asked=ASKED, eligible=ELIGIBLE, excluded_tags=EXCLUDED, model=MODEL
    )
    return await operator.ask(operator.orchestrator.SuggestAudience, request, timeout=120)


async def create(operator: Operator, audience: str, new_leads: int) -> str:
    """A theme with a limited budget and the catalogue's offer for it; returns its name."""
    offer = offers.CatalogueOffer(
        title="Test drive",
        kind="activity",
        purpose="service",
        content_tags=["test_drive"],
        valid_from=Timestamp(seconds=int(time.time()) - 60),
        variants=[
            offers.OfferVariant(channel=channel, language=LANGUAGE, title="试驾邀请", body="邀您到店试驾，专属顾问全程陪同")
            for channel in UNIT_COST_FEN
        ],
    )
    made = await operator.ask(operator.offers.CreateOffer, offers.CreateOfferRequest(offer=offer, request_id="demo"))
    theme = pb.Theme(
        title="Summer test drive",
        audience=audience,
        words="A test drive this summer for those who look for their next car",
        goal=pb.Goal(event="Offer Answered", property="answer", value="yes", window_days=30),
        offers=[made.offer.name],
        language=LANGUAGE,
        purpose="service",
        bands=[
            pb.ScoreBand(from_score=0, channels=["app", "wechat", "dealer"]),
            pb.ScoreBand(from_score=CALL_SCORE, channels=["dealer", "app", "wechat"]),
        ],
        budget=pb.Budget(
            max_contacts=round(CONTACTS_SHARE * new_leads),
            max_calls=round(CALLS_SHARE * new_leads),
            unit_cost_fen=UNIT_COST_FEN,
        ),
        holdout_share=HOLDOUT_SHARE,
        model=MODEL,
    )
    request = pb.CreateThemeRequest(theme=theme, request_id="demo")
    return (await operator.ask(operator.orchestrator.CreateTheme, request)).theme.name


async def preview(operator: Operator, theme: str) -> pb.PreviewThemeResponse:
    """What a launch would do."""
    return await operator.ask(operator.orchestrator.PreviewTheme, pb.PreviewThemeRequest(name=theme), timeout=120)


async def approve(operator: Operator, theme: str) -> pb.Theme:
    """Submits the theme's only version and has it approved by a second person."""
    submit = pb.SubmitThemeRequest(name=theme, version=1)
    await operator.ask(operator.orchestrator.SubmitTheme, submit)
    return (await operator.ask(operator.approver.ApproveTheme, pb.ApproveThemeRequest(name=theme, version=1))).theme


async def launch(screen: Screen, operator: Operator, theme: str) -> None:
    """Launches and waits until every decision is made and handed over."""
    with screen.step("Launch: decide for everybody"):
        await operator.ask(operator.orchestrator.LaunchTheme, pb.LaunchThemeRequest(name=theme))

        async def look() -> pb.Theme:
            return (await operator.ask(operator.orchestrator.GetTheme, pb.GetThemeRequest(name=theme))).theme

        launched = await until(look, lambda seen: not seen.launching, STUCK_S)
        if launched.launch_failure:
            raise NeverCameError(f"the launch was given up: {launched.launch_failure}")


@dataclass(frozen=True)
class Deliveries:
    """Pushes by channel and state as touchpoints counts them."""

    by_channel_and_state: dict[tuple[str, str], int]
    feedback: int

    def in_state(self, *states: str) -> int:
        """How many are in one of these states."""
        return sum(count for (_, state), count in self.by_channel_and_state.items() if state in states)

    @property
    def total(self) -> int:
        """All pushes."""
        return sum(self.by_channel_and_state.values())

    @property
    def acknowledged(self) -> int:
        """Pushes that the provider took."""
        return self.in_state("accepted", "delivered", "opened", "answered")


async def deliveries(operator: Operator, theme: str) -> Deliveries:
    """What touchpoints counts for a theme now."""
    request = GetDeliveryStatisticsRequest(theme=theme)
    answer = await operator.ask(operator.touchpoints.GetDeliveryStatistics, request)
    counts: Counter[tuple[str, str]] = Counter()
    for row in answer.counts:
        channel = Channel.Name(row.channel).removeprefix("CHANNEL_").lower()
        counts[channel, DeliveryState.Name(row.state).removeprefix("DELIVERY_STATE_").lower()] += row.deliveries
    return Deliveries(dict(counts), answer.feedback_events)


async def settle(screen: Screen, operator: Operator, receivers: Receivers, theme: str) -> Deliveries:
    """Waits until every push has an outcome and the receivers have told all they know."""
    report = await operator.ask(operator.orchestrator.GetThemeReport, pb.GetThemeReportRequest(name=theme), timeout=60)
    pushes = report.decisions["push"]
    with screen.step(f"Push to {pushes:,} people, hear what they answer", float(pushes)) as step:

        async def look() -> tuple[Deliveries, int]:
            sent, judged = await deliveries(operator, theme), await receivers.judge()
            step.at(sent.total - sent.in_state("queued", "sending"))
            return sent, judged.pending

        def over(seen: tuple[Deliveries, int]) -> bool:
            sent, pending = seen
            return sent.total >= pushes and not sent.in_state("queued", "sending") and not pending

        await until(look, over, STUCK_S, every=1.0)
        # Counted anew: what was still pending when `look` counted may have come in before it asked the receivers.
        return await deliveries(operator, theme)


async def report_of(operator: Operator, theme: str) -> pb.GetThemeReportResponse:
    """The product's own report."""
    return await operator.ask(operator.orchestrator.GetThemeReport, pb.GetThemeReportRequest(name=theme), timeout=60)
