"""Encryption of callbacks as WeChat does it; written apart from the product's, so that each judges the other."""

import base64
import hashlib
import secrets

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

BLOCK_BITS = 256


def sha1(*parts: str) -> str:
    """WeChat's signature over parts in any order."""
    return hashlib.sha1("".join(sorted(parts)).encode(), usedforsecurity=False).hexdigest()


def encrypt(text: bytes, encoding_aes_key: str, receiver: str) -> str:
    """The `Encrypt` of a callback to this appid or corpid."""
    key = base64.b64decode(encoding_aes_key + "=")
    padder = PKCS7(BLOCK_BITS).padder()
    plain = secrets.token_bytes(16) + len(text).to_bytes(4, "big") + text + receiver.encode()
    encryptor = Cipher(algorithms.AES(key), modes.CBC(key[:16])).encryptor()
    padded = padder.update(plain) + padder.finalize()
    return base64.b64encode(encryptor.update(padded) + encryptor.finalize()).decode()


def decrypt(encrypted: str, encoding_aes_key: str, receiver: str) -> bytes:
    """A reply in clear; ValueError when it is not for this receiver under this key."""
    key = base64.b64decode(encoding_aes_key + "=")
    decryptor = Cipher(algorithms.AES(key), modes.CBC(key[:16])).decryptor()
    unpadder = PKCS7(BLOCK_BITS).unpadder()
    padded = decryptor.update(base64.b64decode(encrypted)) + decryptor.finalize()
    plain = unpadder.update(padded) + unpadder.finalize()
    length = int.from_bytes(plain[16:20], "big")
    if plain[20 + length :] != receiver.encode():
        raise ValueError("for another receiver")
    return plain[20 : 20 + length]
