"""Chance that repeats itself: the same person and key always draw the same number."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def units(person_id: NDArray[np.int64], key: bytes) -> NDArray[np.float64]:
    """One number of [0, 1) per person, even over persons and independent between keys (at least 8 bytes, random)."""
    mixed = person_id.astype(np.uint64) ^ np.uint64(int.from_bytes(key[:8], "big"))
    # splitmix64 (Steele, Lea & Flood 2014): full avalanche, one vectorised pass; arithmetic wraps on purpose.
    mixed = (mixed + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / 2.0**53


def key_of(*parts: bytes | str) -> bytes:
    """16 bytes that depend on all parts and on where each ends."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.digest()
