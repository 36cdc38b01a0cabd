"""What the orchestrator needs from the world."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, field_validator

from chassis.consents import DEFAULT_REGIMES, RegimeTable
from chassis.quiet_hours import QuietHours, zone_of
from chassis.settings import ChassisSettings
from services.orchestrator.arbiter.caps import CapTable
from services.orchestrator.leads.chain import STAGES, Stage
from services.orchestrator.leads.collecting import DEFAULT_STAGES
from services.orchestrator.leads.distributing import DEFAULT_WEIGHTS


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
    push_caps: CapTable = Field(
        {"any": (3, 7.0)},
        description="Most pushes one person gets in so many days, over all themes and journeys: any, or a channel's name, to"
        ' [pushes, days], as JSON, for example {"any": [3, 7], "dealer": [1, 14]}.',
    )
    dealer_calls_per_day: int = Field(
        50,
        ge=0,
        description="Calls and WeCom tasks a day that a dealer takes of all themes together, where table dealer_capacity says"
        " nothing.",
    )
    call_center_calls_per_day: int = Field(
        500,
        ge=0,
        description="Calls a day that the call centre takes of all themes together (channel call_list), where table"
        " dealer_capacity says nothing of @call_center.",
    )
    launch_lifetime_days: float = Field(
        14, gt=0, le=366, description="For how long a launch goes on with whom it put off, where its theme has no end."
    )
    audience_age_s: float = Field(
        10, ge=0, description="For how long the arbiter remembers who is in an audience; tags tells whole ones only."
    )
    # Providers accept marketing 08:00 to 22:00 at best (CONVENTIONS 6); we keep an hour's distance on both sides.
    quiet_hours: str = Field("21:00-09:00", description="Hours in which nothing is sent; empty for none.")
    time_zone: str = Field(
        "Asia/Shanghai",
        description="IANA name of the house's clock: of its days, of times in texts, and of the quiet hours of persons whose"
        " tag time_zone says nothing.",
    )
    push_lifetime_hours: float = Field(
        72,
        gt=0,
        description="How long after the decision a push may still be sent; what goes to the person herself waits for the end"
        " of her quiet hours.",
    )
    consent_regimes: RegimeTable = Field(
        dict(DEFAULT_REGIMES),
        description="What must have been said before a push: purpose or purpose/channel to opt_out, opt_in or separate, as"
        " JSON; what is not named is separate. The same for orchestrator and touchpoints.",
    )
    smallest_group: int = Field(
        10,
        ge=2,
        description="Parts of a theme's report with fewer persons than that tell no rates; the same for tags and orchestrator.",
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

    lead_callers: frozenset[str] = Field(
        frozenset({"operator"}), description="Who may call the orchestrator's LeadService, as JSON list."
    )
    target_callers: frozenset[str] = Field(
        frozenset({"operator"}), description="Who may call the orchestrator's TargetService, as JSON list."
    )
    lead_stages: dict[str, str] = Field(
        {event: stage.label for event, stage in DEFAULT_STAGES.items()},
        description="Name of an event to the stage of a lead that it tells of (lead, contacted, invited, visit, test_drive,"
        " order, delivered, lost), as JSON; replaces the whole table.",
    )
    lead_weights: dict[str, float] = Field(
        dict(DEFAULT_WEIGHTS),
        description="How much speaks for giving a lead to somebody: that its dealer was named, area, brand, little load,"
        " success, sla (contacts in time); as JSON, all of them.",
    )
    # The same as the deadline that touchpoints tells dealers with each lead.
    lead_sla_minutes: int = Field(
        15, ge=1, le=10_080, description="How soon a lead must be spoken to where its dealer has no time of its own."
    )
    lead_assign_every_s: float = Field(2.0, gt=0, description="How often leads without anybody, and late ones, are looked for.")
    target_models: dict[str, str] = Field(
        {"test_drives": "purchase_intent", "orders": "purchase_intent", "deliveries": "purchase_intent"},
        description="Which model says how likely a customer is to bring a test drive, an order or a delivery, as JSON.",
    )
    target_horizon_days: float = Field(
        30, gt=0, description="Within how many days what those models foretell would happen; in fewer days less of it does."
    )
    target_list_size: int = Field(
        1000, ge=10, le=3000, description="How many of a dealer's customers are looked at, the best first."
    )
    # Long enough for a morning meeting to see one list, short enough to follow the day.
    target_cache_s: float = Field(300, ge=0, description="For how long a dealer's list is remembered.")
    dormant_model: str = Field("dormant_wake_up", description="Which model says whom of the silent to speak to again.")

    journey_callers: frozenset[str] = Field(
        frozenset({"operator", "approver"}), description="Who may call the orchestrator's JourneyService, as JSON list."
    )
    journey_lanes: int = Field(2, ge=1, le=16, description="How many batches of people one process moves side by side.")
    referral_callers: frozenset[str] = Field(
        frozenset({"operator", "touchpoints"}), description="Who may call the orchestrator's ReferralService, as JSON list."
    )
    referral_event: str = Field("Order Placed", min_length=1, description="The event of a referred person that credits both.")
    referrer_credit_fen: int = Field(50_000, ge=0, description="What who referred is credited with.")
    referred_credit_fen: int = Field(50_000, ge=0, description="What who was referred is credited with.")
    referral_cap: int = Field(10, ge=1, description="How many persons one person may refer within the window.")
    referral_window_days: float = Field(365, gt=0, description="Length of that window.")
    referral_per_device: int = Field(2, ge=1, description="How many persons may name a code on one device.")
    referral_device_key: SecretStr = Field(
        min_length=32, description="Key of the hashes that devices are kept as, 32 characters or more; another one forgets all."
    )

    @field_validator("lead_stages")
    @classmethod
    def _stages(cls, table: dict[str, str]) -> dict[str, str]:
        if unknown := sorted(set(table.values()) - set(STAGES)):
            raise ValueError(f"no stages of a lead: {', '.join(unknown)}")
        return table

    @field_validator("lead_weights")
    @classmethod
    def _weights(cls, table: dict[str, float]) -> dict[str, float]:
        if set(table) != set(DEFAULT_WEIGHTS) or any(not 0 <= weight <= 1000 for weight in table.values()):
            raise ValueError(f"names {', '.join(DEFAULT_WEIGHTS)}, each from 0 to 1000")
        return table

    @field_validator("target_models")
    @classmethod
    def _models(cls, table: dict[str, str]) -> dict[str, str]:
        if set(table) != {"test_drives", "orders", "deliveries"}:
            raise ValueError("names test_drives, orders and deliveries")
        return table

    @field_validator("quiet_hours")
    @classmethod
    def _window(cls, window: str) -> str:
        QuietHours.parse(window, UTC)
        return window

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        if zone_of(name) is None:
            raise ValueError("must be the IANA name of a zone")
        return name

    def allowed_callers(self) -> dict[str, frozenset[str]]:
        """RPC service → callers."""
        return super().allowed_callers() | {
            "troika.orchestrator.v1.DecisionService": self.decision_callers,
            "troika.orchestrator.v1.ExperimentService": self.experiment_callers,
            "troika.orchestrator.v1.LeadService": self.lead_callers,
            "troika.orchestrator.v1.TargetService": self.target_callers,
            "troika.orchestrator.v1.JourneyService": self.journey_callers,
            "troika.orchestrator.v1.ReferralService": self.referral_callers,
            "troika.orchestrator.v1.OfferService": self.offer_callers,
        }

    def stages(self) -> dict[str, Stage]:
        """What the name of an event says of a lead."""
        return {event: STAGES[stage] for event, stage in self.lead_stages.items()}

    def zone(self) -> ZoneInfo:
        """The house's zone."""
        return ZoneInfo(self.time_zone)

    def quiet(self) -> QuietHours | None:
        """The quiet hours on the house's clock, or None when there are none."""
        return QuietHours.parse(self.quiet_hours, self.zone())

    def clock(self) -> timedelta:
        """How far the clock that people here look at is ahead of UTC now."""
        return datetime.now(self.zone()).utcoffset() or timedelta()
