"""What identity does with observed events, one transaction per micro-batch."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from chassis.bus import Message
from chassis.db import UnitOfWork
from services.identity import consents, erasure, erasure_store, events, graph, graph_store, intake, relations
from services.identity.domain.kinds import Kind
from services.identity.domain.observations import Observation
from services.identity.intake import NOTED_EVERY_US, Batch
from services.identity.profiles import write_profiles
from services.identity.store import NOBODY, Claim, Owner, Store
from services.identity.vault import Vault

# Of the tracking plan; tags makes has_mobile of it.
MOBILE_KNOWN: Final = "Mobile Known"
Observed = Callable[[UnitOfWork, Sequence[Message]], Coroutine[Any, Any, None]]


class Resolver:
    """Finds out whose events are."""

    def __init__(self, store: Store, vault: Vault) -> None:
        self._store, self._vault = store, vault

    async def resolve(self, uow: UnitOfWork, observations: Sequence[Observation]) -> list[Observation]:
        """Stores events, publishes whose they are, and returns those that name an anchor nobody knows."""
        observations = list({o.event_id: o for o in reversed(observations)}.values())[::-1]
        if not observations:
            return []
        store = self._store
        await erasure_store.hold_off(uow)
        claims = await store.claims(uow, list({o.signature for o in observations if o.signature}))
        feedback = list({o.anchor_id for o in observations if o.anchor_id})
        anchors = await store.person_anchors(uow, feedback) if feedback else {}
        unknown = [o for o in observations if o.anchor_id and o.anchor_id not in anchors]
        if unknown:
            observations = [o for o in observations if not o.anchor_id or o.anchor_id in anchors]
            unknown = await self._not_erased(uow, unknown)
        before = set(claims)
        news = [o for o in observations if o.signature and _is_news(o, claims.get(o.signature))]
        if news and (screened := await erasure.screen(uow, self._vault, news)):
            observations = [left for o in observations if (left := screened.get(o.event_id, o)) is not None]
            refused = [o for o in news if screened.get(o.event_id, o) is None]
            await store.count_refused(uow, Counter((o.source, o.persons[0].kind.name.lower(), "ERASED") for o in refused))
            news = [left for o in news if (left := screened.get(o.event_id, o)) is not None]
        if news:
            claims |= await self._learn(uow, news)
        resolved = [
            (o, anchors[o.anchor_id], NOBODY) if o.anchor_id else (o, claims[o.signature].person, claims[o.signature].vehicle)
            for o in observations
        ]
        new_ids = await store.add_observations(uow, [(o, p.anchor_id, v.anchor_id) for o, p, v in resolved])
        fresh = [entry for entry in resolved if entry[0].event_id in new_ids]
        mobiles = await _mobiles(uow, [(o, person) for o, person, _ in fresh if o.signature not in before])
        events.publish_resolved(uow, [*fresh, *mobiles])
        await relations.record(
            uow,
            [(o, p.anchor_id, v.anchor_id) for o, p, v in fresh if not o.anchor_id],
            {o.signature for o in news},
            await store.source_ids(uow, {o.source for o, _, _ in fresh}),
        )
        await consents.from_events(uow, fresh)
        return unknown

    async def _not_erased(self, uow: UnitOfWork, unknown: Sequence[Observation]) -> list[Observation]:
        """Feedback on anchors that nobody knows, without that on erased persons, which is only counted."""
        buried = await erasure.buried(uow, [o.anchor_id for o in unknown])
        await self._store.count_refused(uow, Counter((o.source, "anchor", "ERASED") for o in unknown if o.anchor_id in buried))
        return [o for o in unknown if o.anchor_id not in buried]

    async def _learn(self, uow: UnitOfWork, news: Sequence[Observation]) -> dict[bytes, Claim]:
        """Writes what is new into the graph and returns the claims with their owners after it."""
        store, vault = self._store, self._vault
        sources = await store.source_ids(uow, {o.source for o in news})
        scopes = await store.scope_ids(uow, {known.scope for o in news for known in o.persons})
        news = sorted(news, key=lambda o: o.occurred_us)
        batch = Batch()
        for o in news:
            batch.add(o, sources[o.source])
        await graph_store.lock(uow)
        found, ids = await intake.near(uow, vault, batch)
        subjects = await intake.add_identifiers(uow, vault, found, batch, ids, scopes)
        found.observed({(ids[a], ids[v], name, source): at for (a, v, name, source), at in batch.links.items()})
        owner = await graph.settle(uow, store, found)
        ids.append(0)  # what is behind -1: nobody
        claims = {
            o.signature: (o.signature, ids[person], ids[vehicle], o.occurred_us)
            for o, (person, vehicle) in zip(news, batch.anchors, strict=True)
        }
        await graph_store.add_claims(uow, list(claims.values()))
        told = {
            ids[person]: o
            for o, (person, _) in zip(news, batch.anchors, strict=True)
            if person >= 0 and (o.person_name or o.address or o.birth_date)
        }
        await write_profiles(uow, vault, told, subjects)
        return {
            signature: Claim(owner(person) if person else NOBODY, owner(vehicle) if vehicle else NOBODY, last_seen)
            for signature, person, vehicle, last_seen in claims.values()
        }


async def _mobiles(uow: UnitOfWork, claimed: Sequence[tuple[Observation, Owner]]) -> list[tuple[Observation, Owner, Owner]]:
    """Who can be reached by telephone, once for each anchor: by the event that its first number came with.

    Others plan by it and see no number. Another number tells nothing new, and a merge that it brings must leave no trace.
    """
    candidates = {
        person.anchor_id: (o, person)
        for o, person in reversed(claimed)
        if person.anchor_id and any(known.kind == Kind.MOBILE for known in o.persons)
    }
    if not candidates:
        return []
    first = await graph_store.first_seen(uow, list(candidates), Kind.MOBILE)
    return [
        (o._replace(event_id=_mobile_id(anchor), event=MOBILE_KNOWN, properties=b"", vehicle_properties=b""), person, NOBODY)
        for anchor, (o, person) in candidates.items()
        if first.get(anchor, o.occurred_us) == o.occurred_us
    ]


def _mobile_id(anchor_id: int) -> bytes:
    return hashlib.sha256(f"{MOBILE_KNOWN}\0{anchor_id}".encode()).digest()[:16]


def _is_news(observation: Observation, claim: Claim | None) -> bool:
    return claim is None or observation.occurred_us > claim.last_seen_us + NOTED_EVERY_US
