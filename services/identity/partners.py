"""Keys that are shared with partners, and the two hashes of a value: the partner's own, and ours over it."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from hashlib import blake2b

from chassis.keyrings import key_bytes
from services.identity.domain.kinds import Kind
from services.identity.settings import Settings
from services.identity.tokens import derive

HASH_BYTES = 32
TOKEN_BYTES = 16
# What partners can know of a person or a car; record ids, openids and cookies are one source's own.
MATCHED = (Kind.MOBILE, Kind.EMAIL, Kind.ID_CARD, Kind.UNIONID, Kind.DEVICE, Kind.VIN, Kind.PLATE)


class Partners:
    """Partners by name. Their keys do not leave it."""

    def __init__(self, keys: Mapping[str, bytes], hash_key: bytes) -> None:
        self._keys = dict(keys)
        self._own = derive(hash_key, "PARTNER")
        self.fingerprints = {name: derive(key, "FINGERPRINT")[:8] for name, key in keys.items()}

    @classmethod
    def of(cls, settings: Settings) -> Partners:
        """Those of the settings."""
        keys = {name: key_bytes(key) for name, key in settings.partner_keys.items()}
        return cls(keys, key_bytes(settings.hash_key))

    def token(self, partner: str, kind: Kind, value: str) -> bytes:
        """What stands in the table for a normal form."""
        return self.token_of(kind, hmac.digest(self._keys[partner], value.encode(), "sha256"))

    def token_of(self, kind: Kind, partners_hash: bytes) -> bytes:
        """The same from what the partner sends: HMAC-SHA256 of the normal form under the partner's key."""
        return blake2b(bytes([kind]) + partners_hash, key=self._own, digest_size=TOKEN_BYTES).digest()
