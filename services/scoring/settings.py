"""What scoring needs from the world."""

from __future__ import annotations

from pydantic import Field, SecretStr

from chassis.settings import ChassisSettings


class Settings(ChassisSettings):
    """The chassis' settings, the address of tags, the signing key of models, and the clock of the background work."""

    tags_target: str = Field("127.0.0.1:7002", description="host:port of the tags gRPC door; features come from there.")
    model_signing_key: SecretStr = Field(
        min_length=32, description="Key of the HMAC over stored models; a model signed with another key is never loaded."
    )
    rpc_service = "troika.scoring.v1.ScoringService"
    callers: frozenset[str] = Field(
        frozenset({"orchestrator", "touchpoints", "operator"}), description="Who may call this service's RPCs, as JSON list."
    )
    # Models decide what happens to everybody: only those who are asked to look after them may change them.
    model_callers: frozenset[str] = Field(
        frozenset({"operator"}), description="Who may train, compare and promote models, as JSON list."
    )
    text_properties: frozenset[str] = Field(
        frozenset({"comment", "text"}), description="Properties of events whose words are read as feedback, as JSON list."
    )
    # Three missed heartbeats: shorter, and a busy machine loses its own work; longer, and a takeover waits.
    operation_lease_s: float = Field(15.0, gt=0, description="Long work whose process is silent for so long is taken over.")
    # The tags index promises to show a change within one second (DESIGN promise 5); twice that is past any doubt.
    rescore_delay_s: float = Field(2.0, ge=0, description="How long after a change that tags did not show yet to look again.")
    # Bases drift in weeks; a day is soon enough to be told and far enough apart not to be felt.
    watch_every_s: float = Field(
        86_400.0,
        ge=0,
        description="After how long everybody is scored and the models in use are evaluated without being asked; 0: never.",
    )

    def allowed_callers(self) -> dict[str, frozenset[str]]:
        """RPC service → callers."""
        return super().allowed_callers() | {"troika.scoring.v1.ModelService": self.model_callers}
