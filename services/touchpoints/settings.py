"""What touchpoints needs from the world."""

from __future__ import annotations

import ipaddress
import re

from pydantic import Field, SecretStr, field_validator

from chassis.consents import DEFAULT_REGIMES, RegimeTable
from chassis.settings import ChassisSettings


class Settings(ChassisSettings):
    """Settings of touchpoints; variables are `TROIKA_<NAME>`."""

    identity_target: str = Field(description="host:port of identity's gRPC door.")
    # A page that waits for its banner is worse than one without.
    slot_timeout_ms: int = Field(
        250, ge=20, le=5000, description="Milliseconds a slot has for its answer; later it stays empty."
    )
    secrets_key: SecretStr = Field(
        description="64 hexadecimal digits: the key under which endpoint secrets and contact tokens are encrypted.",
    )
    # Dealers fetch contacts from here, so it must be reachable for them; no default could be.
    public_url: str = Field(pattern="^https?://", description="Address of this service's HTTP door as the receivers see it.")
    # The app backend pushes to its own users: their customer number at this source is the address.
    app_source: str = Field("app", description="Name of the source whose crm_id is the app's user id.")
    message_page_url: str = Field("", description="Page behind a WeChat message; theme and delivery id go into its query.")
    default_dealer_endpoint: str = Field("", description="Endpoint that takes leads of persons without a known dealer.")
    allow_private_endpoints: bool = Field(
        False, description="Push to loopback and private addresses and over plain http: for one machine, never in production."
    )
    rpc_service = "troika.touchpoints.v1.TouchpointsService"
    # 3 × 64 calls in flight keep two cores busy even when a receiver takes 50 ms per push.
    sender_workers: int = Field(3, ge=0, le=32, description="Sending loops of this process; 0 only listens.")
    sender_batch: int = Field(128, ge=1, le=500, description="Pushes that one loop claims at once.")
    sender_in_flight: int = Field(512, ge=1, le=5000, description="Calls that this process makes at the same time at most.")
    send_timeout_s: float = Field(15.0, gt=0, description="Seconds a receiver has to answer.")
    # Longer than a call may take: a lease that ends during the call would have a second process call at the same time.
    send_lease_s: float = Field(30.0, gt=0, description="Seconds after which a push whose sender vanished is sent again.")
    send_attempts: int = Field(12, ge=1, description="Calls to a provider before a push is parked.")
    publish_timeout_s: float = Field(4.0, gt=0, description="Seconds the bus has to take a batch before the door answers 503.")
    contact_hours: float = Field(72.0, gt=0, description="How long a dealer may fetch a lead's contact.")
    provider_rates: dict[str, float] = Field(
        {}, description="Channel to the pushes a second that all its endpoints take together, over all replicas, as JSON."
    )
    breaker_failures: int = Field(
        10, ge=1, description="Failed calls in a row after which an endpoint is left alone for a while."
    )
    # Half an hour of trouble is an incident that somebody works on; what piles up waits for their word.
    park_after_s: float = Field(
        1800, ge=0, description="Seconds of failures after which what is for an endpoint is parked until somebody replays it."
    )
    unknown_wait_s: float = Field(
        600, ge=0, description="Seconds that the unknown outcome of a call may still be told, where no call may be repeated."
    )
    consent_regimes: RegimeTable = Field(
        dict(DEFAULT_REGIMES),
        description="What must have been said before a push: purpose or purpose/channel to opt_out, opt_in or separate, as"
        " JSON; what is not named is separate. The same for orchestrator and touchpoints.",
    )
    # Long enough to notice and mend what was wrong, and a stated end for what may be personal.
    quarantine_days: float = Field(30.0, gt=0, description="Days after which held events are deleted.")
    quarantine_mb: int = Field(1024, ge=1, description="Megabytes of held events; beyond them the oldest are deleted.")
    oidc_issuer: str = Field(
        "", pattern="^(https?://.+)?$", description="Issuer whose OpenID Connect tokens stand for keys; empty: none does."
    )
    oidc_audience: str = Field("troika", min_length=1, description="For whom a token must have been made.")
    oidc_claim: str = Field(
        "scope", min_length=1, description="Claim with the words troika:source:<name> and troika:endpoint:<name>."
    )
    plan_callers: frozenset[str] = Field(
        frozenset({"operator"}), description="Who may change the tracking plan, and see, replay and discard held events."
    )
    delivery_callers: frozenset[str] = Field(
        frozenset({"operator"}), description="Who may see how channels do and replay parked pushes, as JSON list."
    )
    # Imports bring old history; beyond this an instant is a client's broken clock, not history.
    oldest_event_days: int = Field(3650, ge=1, description="Events are taken as at most this old.")
    import_store: str = Field(
        "",
        description="Where files of records and leads are: a folder, or s3://bucket/prefix. "
        "Empty: files are taken in by the command line only.",
    )
    import_s3_endpoint: str = Field("", description="https://host:port of the S3 that has the files; empty for Amazon's.")
    import_s3_region: str = Field("", description="Region of the bucket; empty to ask the server.")
    import_s3_access_key: SecretStr = Field(
        SecretStr(""), description="Access key of the bucket; empty to look where AWS does."
    )
    import_s3_secret_key: SecretStr = Field(SecretStr(""), description="The secret that belongs to it.")
    import_callers: frozenset[str] = Field(
        frozenset({"operator"}), description="Who may take in files of records, look at imports and stop them."
    )
    tags_target: str = Field("127.0.0.1:7002", description="host:port of the gRPC door of tags; arrival cards ask it.")
    scoring_target: str = Field("127.0.0.1:7003", description="host:port of the gRPC door of scoring; arrival cards ask it.")
    orchestrator_target: str = Field("127.0.0.1:7004", description="host:port of the gRPC door of orchestrator.")
    arrival_callers: frozenset[str] = Field(
        frozenset({"operator"}), description="Who may make doors for cameras and codes for visitors, as JSON list."
    )
    arrival_proxies: tuple[str, ...] = Field(
        (), description="Networks of proxies whose X-Forwarded-For says where a camera's post came from, as JSON list."
    )
    # An entrance sees a car every few seconds; what posts more often than this is no camera.
    arrival_posts_per_s: float = Field(
        20.0, gt=0, description="Posts a second that one arrival door takes, twice that at once."
    )
    # A large dealer's busiest day; whoever tries plates to learn of their owners soon has more.
    arrival_plates_per_day: int = Field(
        500, ge=0, description="Different plates of a dealer's doors that make cards within a day, over all replicas; 0: any."
    )
    # Leaves 25 ms of the promised 100 for the signature, the way there and the dealer's own door.
    arrival_budget_ms: float = Field(
        75.0, gt=0, description="Milliseconds after a camera's request until which facts for its card are waited for."
    )
    arrival_card_s: float = Field(
        600.0, gt=0, description="Seconds for which an arrival card is tried; later nobody stands there any more."
    )
    arrival_model: str = Field("purchase_intent", description="The model whose score is on arrival cards.")
    arrival_slot: str = Field("arrival_card", description="The slot that offers on arrival cards are asked for.")
    arrival_language: str = Field("zh", description="The language of offers on arrival cards.")

    ads_callers: frozenset[str] = Field(
        frozenset({"operator"}), description="Who may make and end lists at advertising platforms, as JSON list."
    )
    endpoint_callers: frozenset[str] = Field(
        frozenset({"operator"}), description="Who may give out and end management keys of endpoints, as JSON list."
    )
    # Long enough to look into a complaint; what a receiver did is nobody's history.
    attempt_days: float = Field(14.0, gt=0, description="Days for which calls of receivers are kept, for those who ask.")

    @field_validator("arrival_proxies")
    @classmethod
    def _networks(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for text in given:
            ipaddress.ip_network(text, strict=False)
        return given

    @field_validator("secrets_key")
    @classmethod
    def _hexadecimal(cls, key: SecretStr) -> SecretStr:
        if not re.fullmatch("[0-9a-fA-F]{64}", key.get_secret_value()):
            raise ValueError("must be 64 hexadecimal digits")
        return key

    def allowed_callers(self) -> dict[str, frozenset[str]]:
        """RPC service → callers."""
        return super().allowed_callers() | {
            "troika.touchpoints.v1.DeliveryService": self.delivery_callers,
            "troika.touchpoints.v1.PlanService": self.plan_callers,
            "troika.touchpoints.v1.ArrivalsService": self.arrival_callers,
            "troika.touchpoints.v1.ImportService": self.import_callers,
            "troika.touchpoints.v1.EndpointService": self.endpoint_callers,
            "troika.touchpoints.v1.AdvertisingService": self.ads_callers,
        }
