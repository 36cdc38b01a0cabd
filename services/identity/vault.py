"""The vault: tokens to match by, and envelopes, so that a stolen table shows nothing and a deleted key is an erased person.

A subject's values are sealed under its own data key (AES-256-GCM); the data key is wrapped under a key-encryption key that
the database never sees. Every seal is bound to its row and column, every wrap to the row of its key.
"""

from __future__ import annotations

import os
from hashlib import blake2b

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from chassis.errors import FailedPrecondition
from chassis.keyrings import key_bytes
from chassis.sealing import KEY_BYTES, NONCE_BYTES
from services.identity.domain.identifiers import Identifier, Known, normal_or_reason
from services.identity.keks import EnvironmentKeks, FileKeks, KekProvider
from services.identity.settings import Settings
from services.identity.tokens import Tokens, derive

# Values met lately; a cached one costs a dictionary look-up instead of a normalisation and an HMAC.
CACHED_VALUES = 50_000


def identifier_place(identifier_id: int) -> bytes:
    """Binds the sealed value of an identifier to its row."""
    return b"identifier:%d:sealed" % identifier_id


def profile_place(anchor_id: int) -> bytes:
    """Binds a sealed profile to its row."""
    return b"profile:%d:sealed" % anchor_id


def _wrapped_place(key_id: int) -> bytes:
    return b"subject_key:%d:wrapped" % key_id


class Subject:
    """A data key in the open, with what its row holds: `kek_id` and `wrapped`. It is not kept longer than a batch."""

    __slots__ = ("_cipher", "kek_id", "key_id", "wrapped")

    def __init__(self, key_id: int, kek_id: str, wrapped: bytes, cipher: AESGCM) -> None:
        self.key_id, self.kek_id, self.wrapped, self._cipher = key_id, kek_id, wrapped, cipher

    def seal(self, place: bytes, text: str) -> bytes:
        """Nonce (12 bytes, random) and ciphertext with tag; opens only at the same place."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, text.encode(), place)

    def open(self, place: bytes, sealed: bytes) -> str:
        """The text; raises FailedPrecondition SEALED_VALUE_UNREADABLE when the cell was swapped, changed or emptied."""
        return _decrypt(self._cipher, place, sealed).decode()


class Vault:
    """All keys of identity but the doors'."""

    def __init__(self, tokens: Tokens, hash_key: bytes, keks: KekProvider) -> None:
        self.tokens, self.keks = tokens, keks
        self._name_key, self._address_key = derive(hash_key, "NAME"), derive(hash_key, "ADDRESS")
        self._cache: dict[tuple[str, str, str], Known | str] = {}

    @classmethod
    def of(cls, settings: Settings) -> Vault:
        """The vault that settings describe; raises FailedPrecondition KEK_FILE_UNUSABLE."""
        keys = {number: key_bytes(key) for number, key in settings.token_keys.items()}
        tokens = Tokens(keys, settings.token_key_number, settings.next_token_key_number)
        keks: KekProvider
        if settings.kek_file is not None:
            try:
                keks = FileKeks(settings.kek_file)
            except ValueError as error:
                raise FailedPrecondition(str(error), reason="KEK_FILE_UNUSABLE", field="kek_file") from None
        else:
            keks = EnvironmentKeks({kek_id: key_bytes(key) for kek_id, key in settings.keks.items()}, settings.kek_id)
        return cls(tokens, key_bytes(settings.hash_key), keks)

    def known(self, kind: str, scope: str, value: str) -> Known | str:
        """The identifier in its normal form with its token under the active key, or the reason why it is none."""
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
        """Adds the token under the active key."""
        kind, scope, value = identifier.kind, identifier.scope, identifier.value
        return Known(kind, scope, value, self.tokens.of(kind, scope, value))

    def lookup_tokens(self, known: Known) -> tuple[bytes, ...]:
        """All tokens that its row may stand under in either column, the active key's first; one while nothing rotates."""
        if len(self.tokens.numbers) == 1:
            return (known.token,)
        return (known.token, *self.tokens.others(known.kind, known.scope, known.value))

    def next_token(self, known: Known) -> bytes | None:
        """The token under the next key, to be written beside the token; None while no rotation is prepared."""
        return self.tokens.next_of(known.kind, known.scope, known.value)

    @property
    def rotating(self) -> bool:
        """Whether rows may stand under another key than the active one."""
        return len(self.tokens.numbers) > 1

    def name_hash(self, sound: str) -> int:
        """Stands for the sound of a name: signed 64 bits, never 0."""
        return _hash(self._name_key, sound)

    def address_hash(self, normal: str) -> int:
        """Stands for the normal form of an address: signed 64 bits, never 0."""
        return _hash(self._address_key, normal)

    def subject(self, key_id: int) -> Subject:
        """A fresh data key, wrapped under the active key-encryption key."""
        kek_id, kek = self.keks.active()
        random = os.urandom(KEY_BYTES + NONCE_BYTES)
        key, nonce = random[:KEY_BYTES], random[KEY_BYTES:]
        return Subject(key_id, kek_id, nonce + kek.encrypt(nonce, key, _wrapped_place(key_id)), AESGCM(key))

    def unwrap(self, key_id: int, kek_id: str, wrapped: bytes) -> Subject:
        """The data key of a row; raises FailedPrecondition KEK_MISSING or SEALED_VALUE_UNREADABLE."""
        return Subject(key_id, kek_id, wrapped, AESGCM(_decrypt(self.keks.get(kek_id), _wrapped_place(key_id), wrapped)))

    def rewrap(self, key_id: int, kek_id: str, wrapped: bytes) -> tuple[str, bytes]:
        """The same data key under the active key-encryption key: its id, the wrap. What is sealed stays as it is."""
        key = _decrypt(self.keks.get(kek_id), _wrapped_place(key_id), wrapped)
        active_id, kek = self.keks.active()
        nonce = os.urandom(NONCE_BYTES)
        return active_id, nonce + kek.encrypt(nonce, key, _wrapped_place(key_id))

    def open(self, key_id: int, kek_id: str, wrapped: bytes, place: bytes, sealed: bytes) -> str:
        """The text of one cell; raises as `unwrap` and `Subject.open` do."""
        return self.unwrap(key_id, kek_id, wrapped).open(place, sealed)


def _decrypt(cipher: AESGCM, place: bytes, sealed: bytes) -> bytes:
    try:
        return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], place)
    except (InvalidTag, ValueError):
        # The place is a table, a row and a column; nothing of the value is in the message.
        raise FailedPrecondition(
            f"{place.decode()} does not open: swapped, changed, erased or under another key",
            reason="SEALED_VALUE_UNREADABLE",
            field="sealed",
        ) from None


def _hash(key: bytes, text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), key=key, digest_size=8).digest(), "big", signed=True) or 1
