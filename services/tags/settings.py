"""What tags needs from the world."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from chassis.consents import DEFAULT_REGIMES, RegimeTable
from chassis.keyrings import KeyId, NamedKeys
from chassis.settings import ChassisSettings
from services.tags.catalogue import yaml_files


class Settings(ChassisSettings):
    """Settings of tags."""

    catalogue: Path = Field(yaml_files.DEFAULT, description="The tag catalogue: a YAML file, or a folder of them.")
    # Off unless named: who starts a service to look at it should not find folders made.
    lake: str = Field(
        "", description="The event lake: a folder, or s3://bucket/prefix. Empty: events are not kept, and there is no as_of."
    )
    lake_s3_endpoint: str = Field("", description="https://host:port of an S3-compatible store; empty: Amazon's.")
    lake_s3_region: str = Field("us-east-1", description="Region of the bucket.")
    lake_s3_access_key: SecretStr = Field(SecretStr(""), description="Access key; empty: from the machine's own identity.")
    lake_s3_secret_key: SecretStr = Field(SecretStr(""), description="Secret key.")
    # Aggregates without a window are over a whole life; who deletes events cannot rebuild them.
    lake_keep_days: int = Field(0, ge=0, description="Days of events that are kept; 0 keeps all.")
    lake_grace_s: float = Field(
        900.0, ge=0, description="Seconds for which replaced files stay, because a query may be reading them."
    )
    lake_memory_mb: int = Field(512, ge=64, description="Memory of a compaction or as_of query; it spills to disk beyond.")
    # Without a key nothing can be shared; that is what most who start this service want.
    sharing_keys: NamedKeys = Field(
        {},
        description='Keys of the pseudonyms that recipients of shares see, 32 bytes each, as JSON {"k1": base64}. '
        "A share keeps the key it was made under; without that key it ends.",
    )
    sharing_key_id: KeyId = Field("k1", description="The one of them that new shares are made under.")
    smallest_group: int = Field(
        10, ge=2, description="The smallest min_group_size that a share may have: fewer persons than that are never told of."
    )
    identity_target: str = Field("127.0.0.1:7001", description="host:port of identity's gRPC door; partners' hashes go there.")
    import_store: str = Field(
        "",
        description="Where partners' files and uploads are: a folder, or s3://bucket/prefix with the lake's keys. "
        "Empty: files are taken in by the command line only.",
    )
    index_folder: str = Field(
        "", description="Folder for snapshots of the audience index, one replica's own. Empty: a boot reads the whole database."
    )
    index_snapshot_s: float = Field(600.0, gt=0, description="Seconds from one snapshot of the audience index to the next.")
    # Identity knows anchors, not tags; touchpoints tells an advisor what is known of a car that arrives.
    rpc_service = "troika.tags.v1.TagsService"
    callers: frozenset[str] = Field(
        frozenset({"scoring", "orchestrator", "touchpoints", "operator"}),
        description="Who may call this service's RPCs, as JSON list.",
    )
    catalogue_callers: frozenset[str] = Field(
        frozenset({"orchestrator", "operator"}), description="Who may search for tags, add, change and retire them."
    )
    sharing_callers: frozenset[str] = Field(
        frozenset({"operator"}), description="Who may make and revoke shares, see who used whose data and spend points."
    )
    share_recipients: frozenset[str] = Field(
        frozenset({"operator"}), description="Callers that tags may be shared with; each reads its own shares alone."
    )

    import_callers: frozenset[str] = Field(
        frozenset({"operator"}), description="Who may take in partners' files, look at them and take them back."
    )

    audience_callers: frozenset[str] = Field(
        frozenset({"orchestrator", "operator"}), description="Who may preview, explain, name and watch audiences."
    )
    consent_regimes: RegimeTable = Field(
        dict(DEFAULT_REGIMES),
        description="What must have been said before marketing: purpose or purpose/channel to opt_out, opt_in or separate, as"
        " JSON. The same as orchestrator and touchpoints have; previews of reach count by it.",
    )

    def allowed_callers(self) -> dict[str, frozenset[str]]:
        """RPC service → callers."""
        return super().allowed_callers() | {
            "troika.tags.v1.CatalogueService": self.catalogue_callers,
            "troika.tags.v1.SharingService": self.sharing_callers,
            "troika.tags.v1.SharedTagsService": self.share_recipients,
            "troika.tags.v1.ImportService": self.import_callers,
            "troika.tags.v1.AudienceService": self.audience_callers,
        }
