"""The keys of identity: tokens to match by, and sealing of values at rest so that a stolen table shows nothing."""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from chassis.sealing import NONCE_BYTES
from services.identity.domain.identifiers import Identifier, Known, normal_or_reason
from services.identity.domain.kinds import Kind

TOKEN_BYTES = 16
# Values met lately; a cached one costs a dictionary look-up instead of a normalisation and an HMAC.
CACHED_VALUES = 50_000


class Vault:
    """Derives one key per kind, so that tokens of one kind say nothing about another."""

    def __init__(self, token_key: bytes, vault_key: bytes) -> None:
        self._keys: Mapping[Kind, bytes] = {kind: _derive(token_key, kind.name) for kind in Kind}
        self._name_key = _derive(token_key, "NAME")
        self._cipher = AESGCM(_derive(vault_key, "VALUES"))
        self._cache: dict[tuple[str, str, str], Known | str] = {}

    def known(self, kind: str, scope: str, value: str) -> Known | str:
        """The identifier in its normal form with its token, or the reason why it is none."""
        key = (kind, scope, value)
        if (found := self._cache.get(key)) is not None:
            return found
        if len(self._cache) >= CACHED_VALUES:
            self._cache.clear()
        normal = normal_or_reason(kind, scope, value)
        result = self.tokenised(normal) if isinstance(normal, Identifier) else normal
        self._cache[key] = result
        return result

    def tokenised(self, identifier: Identifier) -> Known:
        """Adds the token: HMAC-SHA256 under the kind's key, cut to 16 bytes."""
        text = f"{identifier.scope}\0{identifier.value}".encode()
        token = hmac.digest(self._keys[identifier.kind], text, "sha256")[:TOKEN_BYTES]
        return Known(identifier.kind, identifier.scope, identifier.value, token)

    def name_token(self, sound: str) -> bytes:
        """Stands for the sound of a name."""
        return hmac.digest(self._name_key, sound.encode(), "sha256")[:TOKEN_BYTES]

    def seal(self, token: bytes, text: str) -> bytes:
        """AES-256-GCM, nonce first; bound to the token beside it, so that a swapped cell does not open."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, text.encode(), token)

    def open(self, token: bytes, sealed: bytes) -> str:
        """The text; raises cryptography's InvalidTag when the cell was swapped or the key is another."""
        return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], token).decode()


def _derive(key: bytes, purpose: str) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=b"troika identity v1\0" + purpose.encode()).derive(key)
