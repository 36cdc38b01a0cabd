"""Sealing of identifier values between the door that receives them and the one service that may open them.

X25519 agreement of a sender's ephemeral key with the recipient's key pair, HKDF-SHA256 (RFC 5869) to a data key,
AES-256-GCM per value. The data key itself never travels: the recipient derives it again from the ephemeral public key.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

NONCE_BYTES = 12
KEY_BYTES = 32


class CannotOpen(ValueError):
    """The sealed value was not made with this key for this event, or was changed on the way."""


@dataclass(frozen=True)
class DataKey:
    """A short-lived AES-256 key and the two public fields from which the recipient recovers it."""

    key_id: str
    ephemeral_public_key: bytes
    cipher: AESGCM = field(repr=False, compare=False)

    @classmethod
    def agree(cls, public_key: bytes, key_id: str) -> DataKey:
        """A new data key for the holder of `public_key` (32 bytes); raises ValueError on any other length."""
        ephemeral = X25519PrivateKey.generate()
        mine = ephemeral.public_key().public_bytes_raw()
        shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(public_key))
        return cls(key_id, mine, _derive(shared, key_id, mine, public_key))


def recover(private_key: X25519PrivateKey, key_id: str, ephemeral_public_key: bytes) -> DataKey:
    """The sender's data key, on the recipient's side; raises CannotOpen when the public key is no point of the curve."""
    try:
        shared = private_key.exchange(X25519PublicKey.from_public_bytes(ephemeral_public_key))
    except ValueError as error:
        raise CannotOpen("not an X25519 public key") from error
    cipher = _derive(shared, key_id, ephemeral_public_key, private_key.public_key().public_bytes_raw())
    return DataKey(key_id, ephemeral_public_key, cipher)


def seal(data_key: DataKey, event_id: bytes, plaintext: bytes) -> bytes:
    """Nonce (12 bytes, random) and ciphertext with tag; opens only together with the same event id."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + data_key.cipher.encrypt(nonce, plaintext, event_id)


def open_sealed(data_key: DataKey, event_id: bytes, sealed: bytes) -> bytes:
    """The plaintext of `seal`; raises CannotOpen."""
    try:
        return data_key.cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], event_id)
    except (InvalidTag, ValueError) as error:
        raise CannotOpen("wrong key, wrong event or changed bytes") from error


def _derive(shared: bytes, key_id: str, ephemeral_public_key: bytes, recipient_public_key: bytes) -> AESGCM:
    # Both public keys go in, so that a data key belongs to exactly one pair (RFC 9180 binds them the same way).
    info = b"troika sealing v1\0" + key_id.encode() + b"\0" + ephemeral_public_key + recipient_public_key
    return AESGCM(HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(shared))
