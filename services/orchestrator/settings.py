"""What the orchestrator needs from the world."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field, field_validator

from chassis.consents import DEFAULT_REGIMES, RegimeTable
from chassis.settings import ChassisSettings
from services.orchestrator.domain.quiet_hours import QuietHours


class Settings(ChassisSettings):
    """Variables are `TROIKA_<NAME>`."""

    tags_target: str = Field("127.0.0.1:7002", description="host:port of the gRPC door of tags.")
    scoring_target: str = Field("127.0.0.1:7003", description="host:port of the gRPC door of scoring.")
    rpc_service = "troika.orchestrator.v1.OrchestratorService"
    # Two people of the platform's own runner; nobody approves what they wrote or submitted themselves.
    callers: frozenset[str] = Field(
        frozenset({"operator", "approver"}), description="Who may call this service's RPCs, as JSON list."
    )
    offer_callers: frozenset[str] = Field(
        frozenset({"operator"}),
        description="Who may keep the catalogue of offers, its stock and the slots' rules, as JSON list.",
    )
    theme_approvers: frozenset[str] = Field(
        frozenset({"operator", "approver"}),
        description="Who may approve or reject a version of a theme that somebody else wrote and submitted, as JSON list.",
    )
    decision_callers: frozenset[str] = Field(
        frozenset({"operator", "touchpoints"}), description="Who may ask which offer to show in a slot, as JSON list."
    )
    decide_refresh_s: float = Field(
        1.0, gt=0, description="How often a process looks for changed offers, slot rules, themes and what was learnt."
    )
    decide_audience_age_s: float = Field(
        10, gt=0, description="Audiences of offers are read anew after this long, content words of persons after six times it."
    )
    decide_audience_most_s: float = Field(
        300, gt=0, description="An audience that could not be read for longer than this has no members for a slot."
    )
    offer_cap: int = Field(20, ge=1, description="How often a slot shows one person the same offer within the window.")
    offer_cap_days: float = Field(7, gt=0, le=365, description="Length of that window.")
    offer_window_minutes: float = Field(
        60, gt=0, le=525_600, description="How long after an offer was shown what comes of it counts."
    )
    offer_late_s: float = Field(
        60, ge=0, description="So much later an offer's outcomes are counted; what comes later still is added to them."
    )
    offer_successes: frozenset[Literal["opened", "clicked", "answered", "declined"]] = Field(
        frozenset({"clicked", "answered"}), description="Which outcomes make a shown offer a success, as JSON list."
    )
    offer_value_fen: int = Field(
        100, ge=1, description="What a success of an offer is worth beside those of themes that state a value."
    )
    offer_log_days: float = Field(400, gt=0, description="How long decisions about offers are kept.")
    frequency_cap: int = Field(3, ge=1, description="Most pushes one person gets within the window, over all themes.")
    frequency_window_days: float = Field(7, gt=0, description="Length of the frequency cap's window.")
    # Providers accept marketing 08:00 to 22:00 at best (CONVENTIONS 6); we keep an hour's distance on both sides.
    quiet_hours: str = Field("21:00-09:00", description="Hours in which nothing is sent; empty for none.")
    # An offset, not a zone name: China has had no daylight saving since 1991, and slim images carry no zone database.
    quiet_utc_offset_hours: float = Field(
        8, ge=-12, le=14, description="Offset from UTC of the clock of the quiet hours and of times in texts."
    )
    push_lifetime_hours: float = Field(72, gt=0, description="How long after its earliest moment a push may still be sent.")
    consent_regimes: RegimeTable = Field(
        dict(DEFAULT_REGIMES),
        description="What must have been said before a push: purpose or purpose/channel to opt_out, opt_in or separate, as"
        " JSON; what is not named is separate. The same for orchestrator and touchpoints.",
    )
    lease_s: float = Field(10, gt=0, description="After this long without a sign of life another process takes a launch over.")
    suggest_keep_share: float = Field(
        0.9, gt=0, le=1, description="Share of the expected responses that a suggested audience tries to keep."
    )
    # Models are trained on the outcome, so their scores always look over-represented among past responders.
    score_tags: frozenset[str] = Field(
        frozenset({"lead_score"}), description="Tags written by scoring, as JSON list; never suggested as audience terms."
    )

    experiment_callers: frozenset[str] = Field(
        frozenset({"operator"}), description="Who may call the orchestrator's ExperimentService, as JSON list."
    )
    global_holdout_share: float = Field(
        0.02,
        ge=0,
        le=0.5,
        description="Share of persons in no experiment and without marketing, to measure it all.",
    )
    # A new word begins anew with other people; do so once a year or so, that nobody is left out for ever.
    global_holdout_salt: str = Field("first", min_length=1, description="Any word; another one draws other people.")
    eligibility_age_s: float = Field(10, ge=0, description="For how long an experiment's eligible persons are remembered.")

    @field_validator("quiet_hours")
    @classmethod
    def _window(cls, window: str) -> str:
        QuietHours.parse(window, 0)
        return window

    def allowed_callers(self) -> dict[str, frozenset[str]]:
        """RPC service → callers."""
        return super().allowed_callers() | {
            "troika.orchestrator.v1.DecisionService": self.decision_callers,
            "troika.orchestrator.v1.ExperimentService": self.experiment_callers,
            "troika.orchestrator.v1.OfferService": self.offer_callers,
        }

    def quiet(self) -> QuietHours | None:
        """The quiet hours, or None when there are none."""
        return QuietHours.parse(self.quiet_hours, self.quiet_utc_offset_hours)

    def clock(self) -> timedelta:
        """How far the clock that people here look at is ahead of UTC."""
        return timedelta(hours=self.quiet_utc_offset_hours)

    def frequency_window(self) -> timedelta:
        """How far back pushes count for the cap."""
        return timedelta(days=self.frequency_window_days)
