"""Addresses from identity, for the moment of sending only: nothing of them is stored or logged here."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from troika.identity.v1.identity_service_pb2 import RevealAddressesRequest

from services.touchpoints.channels.contract import Plan
from services.touchpoints.endpoints import Endpoint

if TYPE_CHECKING:
    from troika.identity.v1.identity_service_pb2_grpc import IdentityServiceAsyncStub

REVEAL_TIMEOUT_S = 10.0


class Address(NamedTuple):
    """Where one push goes."""

    endpoint: Endpoint
    value: str
    anchor_id: int


class Contact(NamedTuple):
    """Whom a dealer calls."""

    mobile: str
    name: str


class Addresses:
    """Asks identity, which audits every answer."""

    def __init__(self, identity: IdentityServiceAsyncStub) -> None:
        self._identity = identity

    async def find(self, plan: Plan) -> dict[str, Address]:
        """Addresses by delivery id, one question per lookup of the plan; deliveries without any are left out."""
        found = {delivery.delivery_id: Address(endpoint, "", 0) for delivery, endpoint in plan.direct}
        for lookup in plan.lookups:
            routes = [(d, e) for d, e in lookup.routes if d.delivery_id not in found]
            if not routes:
                continue
            persons = sorted({d.person_id for d, _ in routes})
            request = RevealAddressesRequest(person_ids=persons, kind=lookup.kind, scope=lookup.scope, purpose="push")
            answer = await self._identity.RevealAddresses(request, timeout=REVEAL_TIMEOUT_S)
            by_person = {a.person_id: a for a in answer.addresses}
            for delivery, endpoint in routes:
                if address := by_person.get(delivery.person_id):
                    found[delivery.delivery_id] = Address(endpoint, address.value, address.anchor_id)
        return found

    async def contact(self, person_id: int) -> Contact | None:
        """The mobile number and name of a person, for a dealer who holds a lead; None when there is no number."""
        request = RevealAddressesRequest(person_ids=[person_id], kind="mobile", purpose="dealer_contact")
        answer = await self._identity.RevealAddresses(request, timeout=REVEAL_TIMEOUT_S)
        return next((Contact(a.value, a.person_name) for a in answer.addresses), None)
