"""Links that name a push, what it was for and how it came. They never expire: whoever finds an old message may still say no."""

from __future__ import annotations

from dataclasses import dataclass

from services.touchpoints.domain.deliveries import Delivery
from services.touchpoints.vault import Vault

_SEPARATOR = "\x1f"


@dataclass(frozen=True)
class Named:
    """What a link is about; `channel` in the words of consent."""

    delivery_id: str
    purpose: str
    channel: str


class Links:
    """Makes and reads them; whoever holds one may change what its person allows, and see nothing else."""

    def __init__(self, vault: Vault, public_url: str) -> None:
        self._vault, self._base = vault, public_url.rstrip("/")

    def unsubscribe(self, delivery: Delivery) -> str:
        """One click ends messages of this purpose on this channel; also the address for a List-Unsubscribe header."""
        return f"{self._base}/unsubscribe/{self._token(delivery)}"

    def preferences(self, delivery: Delivery) -> str:
        """The page of everything that may be allowed."""
        return f"{self._base}/preferences/{self._token(delivery)}"

    def read(self, token: str) -> Named | None:
        """What a token names; None when it was not made here."""
        parts = (self._vault.read_link(token) or "").split(_SEPARATOR)
        return Named(*parts) if len(parts) == 3 else None

    def _token(self, delivery: Delivery) -> str:
        named = (delivery.delivery_id, delivery.purpose, delivery.channel.consent_channel)
        return self._vault.link(_SEPARATOR.join(named))
