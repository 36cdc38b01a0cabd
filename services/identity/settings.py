"""What identity needs from the world."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from chassis.settings import ChassisSettings

KEY_BYTES = 32


def _key(secret: SecretStr) -> SecretStr:
    try:
        raw = base64.b64decode(secret.get_secret_value(), validate=True)
    except binascii.Error:
        raw = b""
    if len(raw) != KEY_BYTES:
        raise ValueError("must be 32 bytes in base64")
    return secret


Key = Annotated[SecretStr, AfterValidator(_key)]


def key_bytes(secret: SecretStr) -> bytes:
    """The 32 bytes of a key setting."""
    return base64.b64decode(secret.get_secret_value())


class Settings(ChassisSettings):
    """Settings of identity. Losing the token key or the vault key makes the tables unreadable for ever."""

    sealing_key_id: str = Field("k1", min_length=1, max_length=64, description="Names the sealing key pair to the doors.")
    sealing_private_key: Key = Field(description="X25519 private key that opens what the doors sealed; 32 bytes, base64.")
    token_key: Key = Field(description="Key of the tokens that stand for values in the tables; 32 bytes, base64.")
    vault_key: Key = Field(description="Key that seals values and names at rest; 32 bytes, base64.")
    rpc_service = "troika.identity.v1.IdentityService"
    callers: frozenset[str] = Field(frozenset({"touchpoints", "operator"}), description="Who may ask who is who, as JSON list.")
    stewardship_callers: frozenset[str] = Field(
        frozenset({"operator"}), description="Who may merge, take apart and set values aside by hand."
    )
    reveal_callers: frozenset[str] = Field(
        frozenset({"touchpoints"}), description="Who may call RevealAddresses; nobody else ever sees a value."
    )

    def allowed_callers(self) -> dict[str, frozenset[str]]:
        """RPC service → callers."""
        return super().allowed_callers() | {"troika.identity.v1.StewardshipService": self.stewardship_callers}
