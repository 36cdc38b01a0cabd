"""Tokens: keyed hashes that stand for values in the tables, so that equal values meet and nobody can read them back."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from chassis.keyrings import LARGEST_KEY_NUMBER
from services.identity.domain.kinds import Kind

TOKEN_BYTES = 16


def derive(key: bytes, purpose: str) -> bytes:
    """32 bytes by HKDF-SHA256 (RFC 5869), one key for each purpose."""
    return HKDF(SHA256(), 32, salt=None, info=b"troika identity v1\0" + purpose.encode()).derive(key)


class Tokens:
    """One byte with the number of the token key, then 15 of HMAC-SHA256 under a key of the value's kind.

    `active` is the key that tokens are made with; `following` the one that rows are to stand under next. Every configured
    key is looked up, so that replicas before and after a switch find the same rows.
    """

    def __init__(self, keys: Mapping[int, bytes], active: int, following: int | None = None) -> None:
        """Raises ValueError when a number is not configured or does not fit into a byte."""
        for number in (active, *([] if following is None else [following])):
            if number not in keys:
                raise ValueError(f"token key {number} is not configured")
        if following == active:
            raise ValueError("the next token key is the active one")
        if any(not 1 <= number <= LARGEST_KEY_NUMBER for number in keys):
            raise ValueError(f"token keys bear numbers from 1 to {LARGEST_KEY_NUMBER}")
        self.numbers = frozenset(keys)
        self.active, self.following = active, following
        self._keys = {number: _by_kind(key) for number, key in keys.items()}
        self._prefix = {number: bytes([number]) for number in keys}
        self._others = tuple(sorted(self.numbers - {active}))

    def under(self, number: int, kind: Kind, scope: str, value: str) -> bytes:
        """The token under one key."""
        text = f"{scope}\0{value}".encode()
        return self._prefix[number] + hmac.digest(self._keys[number][kind], text, "sha256")[: TOKEN_BYTES - 1]

    def of(self, kind: Kind, scope: str, value: str) -> bytes:
        """The token under the active key."""
        return self.under(self.active, kind, scope, value)

    def next_of(self, kind: Kind, scope: str, value: str) -> bytes | None:
        """The token under the next key; None while no rotation is prepared."""
        return None if self.following is None else self.under(self.following, kind, scope, value)

    def others(self, kind: Kind, scope: str, value: str) -> tuple[bytes, ...]:
        """The tokens under all keys that are configured beside the active one."""
        return tuple(self.under(number, kind, scope, value) for number in self._others)


def _by_kind(key: bytes) -> list[bytes]:
    """Derived keys, each at the number of its kind."""
    found = [b""] * (max(Kind) + 1)
    for kind in Kind:
        found[kind] = derive(key, kind.name)
    return found
