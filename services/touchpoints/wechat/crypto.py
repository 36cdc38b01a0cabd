"""Signatures and encryption of callbacks (CONVENTIONS 3.4), the same for official accounts, mini-programs and WeCom."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

TOLERANCE_S = 300
# PKCS#7 over 32 bytes, not over AES's 16.
_BLOCK = 32
_SALT = 16


def signature(*parts: str) -> str:
    """SHA-1 over the sorted parts, hexadecimal: WeChat's own choice."""
    return hashlib.sha1("".join(sorted(parts)).encode(), usedforsecurity=False).hexdigest()


def genuine(tokens: Iterable[str], given: str, timestamp: str, nonce: str, now_s: float, encrypted: str = "") -> bool:
    """Whether somebody who knows one of the tokens signed this within the last five minutes."""
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 12):
        return False
    parts = (timestamp, nonce, encrypted) if encrypted else (timestamp, nonce)
    # Every token is tried, so that the time taken tells nobody which one it was.
    same = [hmac.compare_digest(signature(token, *parts).encode(), given.lower().encode()) for token in tokens if token]
    return any(same) and abs(now_s - int(timestamp)) <= TOLERANCE_S


@dataclass(frozen=True)
class Opened:
    """A decrypted callback and the key that opened it, under which the reply must be sealed."""

    message: bytes
    key: str = field(repr=False)


def opened(encrypted: str, keys: Iterable[str], receiver: str) -> Opened:
    """What was encrypted under one of the EncodingAESKeys for this receiver; raises ValueError when none opens it."""
    try:
        sealed = base64.b64decode(encrypted, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not valid base64") from error
    if not sealed or len(sealed) % _SALT:
        raise ValueError("not whole blocks")
    for key in keys:
        message = _decrypted(sealed, _raw(key), receiver.encode())
        if message is not None:
            return Opened(message, key)
    raise ValueError("not encrypted under a known key for this receiver")


def sealed(message: bytes, key: str, receiver: str, salt: bytes = b"") -> str:
    """A message as WeChat encrypts it; `salt` (16 bytes) is random but in tests."""
    raw = _raw(key)
    plain = (salt or os.urandom(_SALT)) + struct.pack(">I", len(message)) + message + receiver.encode()
    pad = _BLOCK - len(plain) % _BLOCK
    encryptor = Cipher(AES(raw), CBC(raw[:16])).encryptor()
    return base64.b64encode(encryptor.update(plain + bytes([pad]) * pad) + encryptor.finalize()).decode()


def is_key(text: str) -> str:
    """What is wrong with an EncodingAESKey; empty when nothing is."""
    try:
        return "" if len(_raw(text)) == 32 else "must be the EncodingAESKey of 43 characters"
    except ValueError:
        return "must be the EncodingAESKey of 43 characters"


def _raw(key: str) -> bytes:
    return base64.b64decode(key + "=")


def _decrypted(sealed: bytes, raw: bytes, receiver: bytes) -> bytes | None:
    decryptor = Cipher(AES(raw), CBC(raw[:16])).decryptor()
    plain = decryptor.update(sealed) + decryptor.finalize()
    pad = plain[-1]
    if not 1 <= pad <= _BLOCK or len(plain) < _SALT + 4 + pad:
        return None
    content = plain[_SALT:-pad]
    (length,) = struct.unpack(">I", content[:4])
    message, of = content[4 : 4 + length], content[4 + length :]
    return message if len(message) == length and hmac.compare_digest(of, receiver) else None
