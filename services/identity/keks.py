"""Key-encryption keys: they wrap the data keys of subjects and come from outside, by environment or by file."""

from __future__ import annotations

import json
import os
import stat
import time
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from chassis.errors import FailedPrecondition
from chassis.sealing import KEY_BYTES

# A file that was changed is noticed after this long at the latest, and at once when a key is asked for that is not known.
LOOKED_AT_EVERY_S = 1.0


class Kek(NamedTuple):
    """A key-encryption key with its id."""

    id: str
    cipher: AESGCM


class KekProvider(Protocol):
    """Where key-encryption keys come from. A key service of a cloud fits behind this too."""

    def active(self) -> Kek:
        """The key that new data keys are wrapped under."""

    def get(self, kek_id: str) -> AESGCM:
        """A key by its id; raises FailedPrecondition KEK_MISSING."""

    def ids(self) -> frozenset[str]:
        """The keys there are."""


class EnvironmentKeks:
    """Keys from settings; they change only with the process."""

    def __init__(self, keys: Mapping[str, bytes], active: str) -> None:
        """Raises ValueError when the active key is not among the keys."""
        self._ciphers = {kek_id: AESGCM(key) for kek_id, key in keys.items()}
        if active not in self._ciphers:
            raise ValueError(f"key-encryption key {active!r} is not configured")
        self._active = Kek(active, self._ciphers[active])

    def active(self) -> Kek:
        """As configured."""
        return self._active

    def get(self, kek_id: str) -> AESGCM:
        """Raises FailedPrecondition KEK_MISSING."""
        return self._ciphers.get(kek_id) or _missing(kek_id)

    def ids(self) -> frozenset[str]:
        """As configured."""
        return frozenset(self._ciphers)


class FileKeks:
    """Keys from a JSON file {"active": id, "keks": {id: base64}} that is read again when it changes.

    The file must belong to this user or root and be closed to others; a group may read it (mounted secrets come so).
    """

    def __init__(self, path: Path) -> None:
        """Raises ValueError when the file cannot be used."""
        self._path = path
        self._looked_at = 0.0
        self._stamp: tuple[int, int, int] = (0, 0, 0)
        self._keks = self._read()

    def active(self) -> Kek:
        """The file's word of a second ago at the latest; a file that became unreadable changes nothing."""
        if time.monotonic() - self._looked_at > LOOKED_AT_EVERY_S:
            self._refresh()
        return self._keks.active()

    def get(self, kek_id: str) -> AESGCM:
        """Reads the file again for a key it does not know; raises FailedPrecondition KEK_MISSING."""
        if kek_id not in self._keks.ids():
            self._refresh()
        return self._keks.get(kek_id)

    def ids(self) -> frozenset[str]:
        """As last read."""
        return self._keks.ids()

    def _refresh(self) -> None:
        self._looked_at = time.monotonic()
        try:
            if _stamp(self._path.stat()) != self._stamp:
                self._keks = self._read()
        except (OSError, ValueError):
            return

    def _read(self) -> EnvironmentKeks:
        self._looked_at = time.monotonic()
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                raw = file.read()
        except OSError as error:
            raise ValueError(f"the file of key-encryption keys cannot be read: {error.strerror}") from error
        if found.st_uid not in (0, os.getuid()) or found.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
            raise ValueError("the file of key-encryption keys must be ours and closed to others (mode 0600, or 0440)")
        try:
            content = json.loads(raw)
            keys = {str(kek_id): b64decode(key, validate=True) for kek_id, key in content["keks"].items()}
            active = str(content["active"])
        except (ValueError, KeyError, TypeError, AttributeError):
            # No cause: its message would quote the file.
            raise ValueError('the file of key-encryption keys must be {"active": id, "keks": {id: base64}}') from None
        if wrong := sorted(kek_id for kek_id, key in keys.items() if len(key) != KEY_BYTES):
            raise ValueError(f"key-encryption keys are {KEY_BYTES} bytes: {wrong}")
        keks = EnvironmentKeks(keys, active)
        self._stamp = _stamp(found)
        return keks


def _stamp(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_mtime_ns, found.st_size, found.st_ino


def _missing(kek_id: str) -> AESGCM:
    raise FailedPrecondition(f"key-encryption key {kek_id} is not configured", reason="KEK_MISSING", field="kek_id")
