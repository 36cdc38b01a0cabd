"""Secrets at rest and tokens that only this service can read: AES-256-GCM under keys derived from the settings key."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

NONCE = 12


class Vault:
    """A key for each use, so that none of them can be played against another."""

    def __init__(self, key: bytes) -> None:
        def derive(use: bytes) -> bytes:
            return HKDF(SHA256(), 32, salt=None, info=b"troika touchpoints " + use).derive(key)

        self._secrets, self._tokens, self._references, self._links, self._fingerprints = (
            AESGCM(derive(b"secrets")),
            AESGCM(derive(b"tokens")),
            derive(b"references"),
            derive(b"links"),
            derive(b"fingerprints"),
        )

    def hide(self, text: str, place: str) -> bytes:
        """A secret for the database; `place` (endpoint and column) must be the same to see it again. Empty stays empty."""
        if not text:
            return b""
        nonce = os.urandom(NONCE)
        return nonce + self._secrets.encrypt(nonce, text.encode(), place.encode())

    def show(self, hidden: bytes, place: str) -> str:
        """The secret; raises cryptography's InvalidTag when the row or the key is another."""
        return self._secrets.decrypt(hidden[:NONCE], hidden[NONCE:], place.encode()).decode() if hidden else ""

    def token(self, text: str, expires_s: int) -> str:
        """An opaque token for a path that carries `text` until an instant (seconds since the epoch)."""
        nonce = os.urandom(NONCE)
        sealed = self._tokens.encrypt(nonce, struct.pack(">q", expires_s) + text.encode(), b"")
        return _base64(nonce + sealed)

    def read_token(self, token: str) -> tuple[str, int] | None:
        """(text, expiry) of a token made here, expired or not; None for anything else."""
        try:
            raw = _bytes(token)
            plain = self._tokens.decrypt(raw[:NONCE], raw[NONCE:], b"")
            return plain[8:].decode(), int(struct.unpack(">q", plain[:8])[0])
        except (binascii.Error, InvalidTag, ValueError, struct.error):
            return None

    def link(self, text: str) -> str:
        """A token for a path that carries `text` for ever, the same each time: made by nobody else."""
        return _base64(text.encode()) + "." + _base64(self._mark(text))

    def read_link(self, token: str) -> str | None:
        """The text of a link made here; None for anything else."""
        plain, _, mark = token.partition(".")
        try:
            text = _bytes(plain).decode()
            return text if hmac.compare_digest(_bytes(mark), self._mark(text)) else None
        except (binascii.Error, ValueError):
            return None

    def _mark(self, text: str) -> bytes:
        return hmac.new(self._links, text.encode(), hashlib.sha256).digest()[:16]

    def reference(self, recipient: str, person_id: int) -> str:
        """A pseudonym of a person: the same for one recipient, unlinkable between recipients."""
        digest = hmac.new(self._references, f"{recipient}\0{person_id}".encode(), hashlib.sha256).digest()
        return "customers/" + base64.b32encode(digest[:15]).decode().lower()

    def fingerprint(self, text: str, place: str) -> bytes:
        """16 bytes by which the same text is known again at the same place; nothing can be read from them."""
        return hmac.new(self._fingerprints, f"{place}\0{text}".encode(), hashlib.sha256).digest()[:16]


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
