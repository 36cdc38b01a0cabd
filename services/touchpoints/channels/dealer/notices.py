"""What dealers who know of somebody must hear: that the person was erased, or changed what a dealer may do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from chassis.consents import ALL_CHANNELS, SHARING
from chassis.db import UnitOfWork
from services.touchpoints.channels.dealer import store
from services.touchpoints.channels.dealer.store import Told
from services.touchpoints.domain import dealers
from services.touchpoints.domain.consents import Statement
from services.touchpoints.domain.deliveries import CONSENT, ERASED, Channel
from services.touchpoints.domain.handovers import NOTICE_LIFE, dealer_delivery, stamp
from services.touchpoints.store import consents, deliveries, erasures
from services.touchpoints.store.consents import Asked
from services.touchpoints.vault import Vault

_SERVICE = "service"


class DealerNotices:
    """Queues the notices of one transaction; the engine sends them like every push."""

    def __init__(self, vault: Vault, regimes: Mapping[str, str]) -> None:
        self._vault, self._regimes = vault, regimes

    async def before_erasure(self, uow: UnitOfWork, persons: Sequence[int], anchors: Sequence[int]) -> None:
        """For persons who are about to be forgotten here: their pseudonyms at the dealers, and nothing else."""
        now = datetime.now(UTC)
        # Otherwise a dealer might be told in between.
        await store.hold(uow, persons, anchors)
        found = await store.told(uow, persons, anchors)
        made = []
        for each in found:
            reference = self._reference(each)
            details: dict[str, object] = {"customer_ref": reference, "lead_ids": each.leads}
            name = f"erased-{reference.removeprefix('customers/')}"
            made.append(dealer_delivery(name, 0, each.dealer_code, ERASED, details, now, NOTICE_LIFE))
        if made:
            await deliveries.add(uow, made)

    async def after_statements(self, uow: UnitOfWork, said: Sequence[Statement]) -> None:
        """Tells dealers where what they may do is not what they heard last."""
        ours = [s for s in said if s.channel in (Channel.DEALER.consent_channel, ALL_CHANNELS) or s.purpose == SHARING]
        if not ours:
            return
        persons = await erasures.family(uow, [s.person_id for s in ours])
        found = await store.told(uow, persons, [s.anchor_id for s in ours])
        if not found:
            return
        asked = [
            Asked(str(number), each.person_id, each.anchor_id, _SERVICE, Channel.DEALER) for number, each in enumerate(found)
        ]
        forbidden = await consents.forbidden(uow, asked, self._regimes)
        heard = await store.consents_told(uow, [each.person_id for each in found])
        now = datetime.now(UTC)
        made = []
        for number, each in enumerate(found):
            withdrawn = str(number) in forbidden
            if withdrawn != heard.get((each.dealer_code, each.person_id), False):
                details: dict[str, object] = {"lead_ids": each.leads, "withdrawn": withdrawn, "at": stamp(now)}
                name = f"consent-{self._reference(each).removeprefix('customers/')}-{int(now.timestamp() * 1e6)}"
                made.append(dealer_delivery(name, each.person_id, each.dealer_code, CONSENT, details, now, NOTICE_LIFE))
        if made:
            await deliveries.add(uow, made)

    def _reference(self, each: Told) -> str:
        return self._vault.reference(dealers.name_of(each.dealer_code), each.person_id)
