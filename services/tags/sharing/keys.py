"""The keys that pseudonyms are made with. A share keeps the one that it was made under."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import SecretStr

from chassis.errors import FailedPrecondition
from chassis.keyrings import key_bytes
from services.tags.domain.sharing import Share


class SharingKeys:
    """Keys by id, and which of them new shares get."""

    def __init__(self, keys: Mapping[str, SecretStr], active: str) -> None:
        self._keys = {key_id: key_bytes(key) for key_id, key in keys.items()}
        self._active = active

    def active(self) -> str:
        """Id of the key for a new share; raises FailedPrecondition while there is none."""
        if self._active not in self._keys:
            raise FailedPrecondition("nothing can be shared without TROIKA_SHARING_KEYS", reason="NO_SHARING_KEY")
        return self._active

    def of(self, share: Share) -> bytes:
        """The key of a share; raises FailedPrecondition when it was taken away, which ends the share."""
        if share.key_id not in self._keys:
            raise FailedPrecondition(
                f"key {share.key_id} of this share is not configured any more", reason="SHARING_KEY_MISSING", field="share_id"
            )
        return self._keys[share.key_id]
