"""Sealed values open only for the recipient, only for their event, only unchanged."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from chassis.sealing import CannotOpen, DataKey, open_sealed, recover, seal

PRIVATE = X25519PrivateKey.generate()
PUBLIC = PRIVATE.public_key().public_bytes_raw()
EVENT = bytes(16)


def test_the_recipient_opens_what_the_door_sealed() -> None:
    key = DataKey.agree(PUBLIC, "k1")
    sealed = seal(key, EVENT, b"138")
    assert b"138" == open_sealed(recover(PRIVATE, "k1", key.ephemeral_public_key), EVENT, sealed)


def test_a_sealed_value_does_not_open_for_another_event_key_or_recipient() -> None:
    key = DataKey.agree(PUBLIC, "k1")
    sealed = seal(key, EVENT, b"138")
    mine = recover(PRIVATE, "k1", key.ephemeral_public_key)
    for wrong_key, event, box in (
        (mine, b"x" * 16, sealed),
        (mine, EVENT, sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (mine, EVENT, b""),
        (recover(PRIVATE, "k2", key.ephemeral_public_key), EVENT, sealed),
        (recover(X25519PrivateKey.generate(), "k1", key.ephemeral_public_key), EVENT, sealed),
    ):
        with pytest.raises(CannotOpen):
            open_sealed(wrong_key, event, box)


@pytest.mark.parametrize("point", [b"", b"short", bytes(32)])
def test_a_key_that_is_no_point_is_refused(point: bytes) -> None:
    with pytest.raises(CannotOpen):
        recover(PRIVATE, "k1", point)
