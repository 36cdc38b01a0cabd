"""What identity does with observed events, one transaction per micro-batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any

from chassis.bus import Message
from chassis.db import UnitOfWork
from services.identity import consents, erasure, erasure_store, events, graph, graph_store, intake, relations
from services.identity.domain.kinds import GUARDS, Names, Space
from services.identity.domain.observations import Observation
from services.identity.graph import Neighbourhood
from services.identity.graph_store import LinkSeen
from services.identity.intake import NOTED_EVERY_US, Seen
from services.identity.profiles import write_profiles
from services.identity.store import NOBODY, Claim, Store
from services.identity.vault import Vault

Observed = Callable[[UnitOfWork, Sequence[Message]], Coroutine[Any, Any, None]]

# As anchors, these need a link to themselves that says under which name they came; a record's own id means one person anyway.
_NAMED = frozenset(int(kind) for kind, guard in GUARDS[Space.PERSON].items() if guard.names is Names.SPLIT)


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
        events.publish_resolved(uow, fresh)
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
        await graph_store.lock(uow)
        seen: dict[bytes, Seen] = {}
        for o in news:
            for group in (o.persons, o.vehicles):
                for place, known in enumerate(group):
                    if (before := seen.get(known.token)) is None:
                        seen[known.token] = Seen(known, place == 0, o.occurred_us, o.occurred_us)
                    else:
                        before.again(place == 0, o.occurred_us)
        found = await intake.near(uow, vault, seen)
        ids, subjects = await intake.add_identifiers(uow, vault, found, seen, scopes)
        _add_links(found, news, ids, sources)
        owners = await graph.settle(uow, store, found)
        claims = {
            o.signature: (
                o.signature,
                ids[o.persons[0].token] if o.persons else 0,
                ids[o.vehicles[0].token] if o.vehicles else 0,
                o.occurred_us,
            )
            for o in sorted(news, key=lambda o: o.occurred_us)
        }
        await graph_store.add_claims(uow, list(claims.values()))
        await write_profiles(uow, vault, {ids[o.persons[0].token]: o for o in _latest(news)}, subjects)
        return {
            signature: Claim(owners.get(person, NOBODY), owners.get(vehicle, NOBODY), last_seen)
            for signature, person, vehicle, last_seen in claims.values()
        }


def _is_news(observation: Observation, claim: Claim | None) -> bool:
    return claim is None or observation.occurred_us > claim.last_seen_us + NOTED_EVERY_US


def _latest(news: Sequence[Observation]) -> list[Observation]:
    """Observations that say more of a person than identifiers, the latest last."""
    told = [o for o in news if o.persons and (o.person_name or o.address or o.birth_date)]
    return sorted(told, key=lambda o: o.occurred_us)


def _add_links(found: Neighbourhood, news: Sequence[Observation], ids: Mapping[bytes, int], sources: Mapping[str, int]) -> None:
    """What observations claim, each link once with the latest time."""
    links: dict[tuple[int, int, int, int], int] = {}
    for o in news:
        source, at = sources[o.source], o.occurred_us
        for anchor, value, name in _claimed(o, ids):
            key = (anchor, value, name, source)
            if links.get(key, -1) < at:
                links[key] = at
    for (anchor, value, name, source), at in links.items():
        found.link(LinkSeen(anchor, value, name, source, 0, at))


def _claimed(o: Observation, ids: Mapping[bytes, int]) -> Iterator[tuple[int, int, int]]:
    """(Anchor, value, name) of each link; cars are evidence on persons, too, beside a name."""
    if o.persons:
        anchor = ids[o.persons[0].token]
        for known in o.persons[1:]:
            yield anchor, ids[known.token], o.name
        if o.name:
            if o.persons[0].kind in _NAMED:
                yield anchor, anchor, o.name
            for known in o.vehicles:
                yield anchor, ids[known.token], o.name
    if len(o.vehicles) > 1:
        anchor = ids[o.vehicles[0].token]
        for known in o.vehicles[1:]:
            yield anchor, ids[known.token], 0
