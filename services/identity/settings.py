"""What identity needs from the world."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from chassis.keyrings import Key, KeyId, KeyNumber, NamedKeys, NumberedKeys
from chassis.settings import ChassisSettings


class Settings(ChassisSettings):
    """Settings of identity. A lost key makes what it sealed unreadable for ever; docs/howto/rotate-keys.md changes them."""

    sealing_private_keys: NamedKeys = Field(
        description='X25519 private keys that open what the doors sealed, 32 bytes each, as JSON {"k1": base64}. '
        "Keep the one before until the stream holds nothing sealed for it."
    )
    sealing_key_id: KeyId = Field("k1", validate_default=True, description="The one of them that doors seal for.")
    token_keys: NumberedKeys = Field(
        description="Keys of the tokens that stand for values in the tables, 32 bytes each, by number from 1 to 255, "
        'as JSON {"1": base64}.'
    )
    token_key_number: KeyNumber = Field(1, validate_default=True, description="The one of them that tokens are made with.")
    next_token_key_number: KeyNumber | None = Field(
        None, description="While token keys rotate: the one that rows get a second token under."
    )
    hash_key: Key = Field(
        description="Key of the hashes that stand for names and addresses; 32 bytes, base64. It does not rotate (ADR 12)."
    )
    kek_file: Path | None = Field(
        None, description='File of key-encryption keys, JSON {"active": id, "keks": {id: base64}}, read again when it changes.'
    )
    keks: NamedKeys = Field(
        {}, description='Without a file: key-encryption keys, 32 bytes each, as JSON {"k1": base64}; they wrap the data keys.'
    )
    kek_id: str = Field("k1", validate_default=True, description="The one of TROIKA_KEKS that new data keys are wrapped under.")
    partner_keys: NamedKeys = Field(
        {},
        description='Keys that are shared with partners, 32 bytes each, as JSON {"acme": base64}; docs/howto/import-tags.md.',
    )
    matching_pause_s: float = Field(
        5.0, gt=0, description="Seconds between two looks at what new identifiers need their partners' hashes."
    )
    # A file of a hundred million lines takes ten hours; who guesses numbers gets nowhere.
    matching_hashes_per_hour: int = Field(
        10_000_000, gt=0, description="Hashes of one partner that are matched within an hour, at most."
    )
    matching_calls_per_hour: int = Field(
        5000, gt=0, description="Calls of MatchHashes for one partner within an hour, at most."
    )
    rpc_service = "troika.identity.v1.IdentityService"
    callers: frozenset[str] = Field(frozenset({"touchpoints", "operator"}), description="Who may ask who is who, as JSON list.")
    stewardship_callers: frozenset[str] = Field(
        frozenset({"operator"}), description="Who may merge, take apart and set values aside by hand."
    )
    reveal_callers: frozenset[str] = Field(
        frozenset({"touchpoints"}),
        description="Who may call RevealAddresses, RevealNames and HashAddresses; nobody else ever sees a value.",
    )
    consent_callers: frozenset[str] = Field(
        frozenset({"operator", "touchpoints"}), description="Who may record consents and ask what holds."
    )
    vault_callers: frozenset[str] = Field(
        frozenset({"operator"}), description="Who may erase persons and read who was shown whose addresses."
    )

    relation_callers: frozenset[str] = Field(
        frozenset({"operator"}), description="Who may decide on households, register dealers and read the quality report."
    )
    matching_callers: frozenset[str] = Field(
        frozenset({"tags", "operator"}), description="Who may read how far partners' hashes are and what was asked."
    )
    match_callers: frozenset[str] = Field(frozenset({"tags"}), description="Those of them who may call MatchHashes.")
    inference_pause_s: float = Field(
        5.0, gt=0, description="Seconds between two looks at what relations follow from new evidence."
    )

    linkage_engine: Literal["duckdb", "spark"] = Field("duckdb", description="Where the verb `link` runs its SQL.")
    linkage_spark_master: str = Field("local-cluster[2,1,1024]", description="Spark master of the verbs `link` and `rebuild`.")
    linkage_folder: Path | None = Field(
        None,
        description="Folder for what linkage writes while it runs, in a folder of its own for its user alone; "
        "on a cluster one that all executors reach. Default: the system's folder for temporary files.",
    )

    def allowed_callers(self) -> dict[str, frozenset[str]]:
        """RPC service → callers."""
        return super().allowed_callers() | {
            "troika.identity.v1.HolderService": self.callers,
            "troika.identity.v1.StewardshipService": self.stewardship_callers,
            "troika.identity.v1.ConsentService": self.consent_callers,
            "troika.identity.v1.VaultService": self.vault_callers,
            "troika.identity.v1.RelationService": self.relation_callers,
            "troika.identity.v1.MatchingService": self.matching_callers,
        }

    @field_validator("sealing_key_id", "token_key_number", "next_token_key_number", "kek_id")
    @classmethod
    def _configured(cls, value: Any, info: ValidationInfo) -> Any:
        """An active key must be among the keys."""
        others = {
            "sealing_key_id": "sealing_private_keys",
            "token_key_number": "token_keys",
            "next_token_key_number": "token_keys",
            "kek_id": "keks",
        }[str(info.field_name)]
        keys = info.data.get(others)
        if keys is None or value is None or value in keys or (others == "keks" and info.data.get("kek_file") is not None):
            return value
        raise ValueError(f"is not among TROIKA_{others.upper()}")
