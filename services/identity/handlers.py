"""What identity does with observed events, one transaction per micro-batch."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import orjson

from chassis.bus import Message
from chassis.db import UnitOfWork
from services.identity import events, graph, graph_store
from services.identity.domain.identifiers import Known
from services.identity.domain.kinds import Space
from services.identity.domain.observations import Observation
from services.identity.events import Statement
from services.identity.graph_store import LinkSeen
from services.identity.store import NOBODY, Claim, Owner, Store
from services.identity.vault import Vault

Observed = Callable[[UnitOfWork, Sequence[Message]], Coroutine[Any, Any, None]]

# A known claim is noted again once a day: a chatty app must not cost a write per event.
NOTED_EVERY_US = 86_400_000_000
CONSENT_EVENTS = {"Unsubscribed": True, "Consent Given": False}
CHANNELS = frozenset({"app", "wechat", "dealer", "all"})


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
        claims = await store.claims(uow, list({o.signature for o in observations if o.signature}))
        feedback = list({o.anchor_id for o in observations if o.anchor_id})
        anchors = await store.person_anchors(uow, feedback) if feedback else {}
        unknown = [o for o in observations if o.anchor_id and o.anchor_id not in anchors]
        if unknown:
            observations = [o for o in observations if not o.anchor_id or o.anchor_id in anchors]
        news = [o for o in observations if o.signature and _is_news(o, claims.get(o.signature))]
        if news:
            claims |= await self._learn(uow, news)
        resolved = [
            (o, anchors[o.anchor_id], NOBODY) if o.anchor_id else (o, claims[o.signature].person, claims[o.signature].vehicle)
            for o in observations
        ]
        new_ids = await store.add_observations(uow, [(o, p.anchor_id, v.anchor_id) for o, p, v in resolved])
        fresh = [entry for entry in resolved if entry[0].event_id in new_ids]
        events.publish_resolved(uow, fresh)
        await self._consents(uow, fresh)
        return unknown

    async def _learn(self, uow: UnitOfWork, news: Sequence[Observation]) -> dict[bytes, Claim]:
        """Writes what is new into the graph and returns the claims with their owners after it."""
        await graph_store.lock(uow)
        store, vault = self._store, self._vault
        seen: dict[bytes, tuple[Known, bool, int]] = {}
        for o in news:
            for group in (o.persons, o.vehicles):
                for place, known in enumerate(group):
                    before = seen.get(known.token)
                    anchor = place == 0 or (before is not None and before[1])
                    seen[known.token] = (known, anchor, max(o.occurred_us, before[2] if before else o.occurred_us))
        ids, became_anchors = await graph_store.ensure_identifiers(uow, vault, seen)
        sources = await store.source_ids(uow, {o.source for o in news})
        links = await graph_store.add_links(uow, vault, _links(news, ids, sources))
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
        await graph_store.add_relations(uow, _relations(news, claims))
        kinds = {ids[token]: known.kind for token, (known, _, _) in seen.items()}
        for space in Space:
            touched = {at for link in links if link.space is space for at in (link.anchor_id, link.value_id)}
            touched |= {at for at in became_anchors if kinds[at].space is space}
            await graph.recompute(uow, space, touched)
        owners = await store.owners(
            uow, list({at for _, person, vehicle, _ in claims.values() for at in (person, vehicle) if at})
        )
        return {
            signature: Claim(owners.get(person, NOBODY), owners.get(vehicle, NOBODY), last_seen)
            for signature, person, vehicle, last_seen in claims.values()
        }

    async def _consents(self, uow: UnitOfWork, fresh: Sequence[tuple[Observation, Owner, Owner]]) -> None:
        said: dict[tuple[int, str], Statement] = {}
        for o, person, _ in fresh:
            if o.name not in CONSENT_EVENTS or not person.anchor_id:
                continue
            statement = Statement(
                person.anchor_id, person.entity_id, _channel(o.properties), CONSENT_EVENTS[o.name], o.occurred_us
            )
            key = statement.anchor_id, statement.channel
            if key not in said or said[key].stated_us < statement.stated_us:
                said[key] = statement
        if said:
            changed = await self._store.state_consents(
                uow, [(s.anchor_id, s.channel, s.opted_out, s.stated_us) for s in said.values()]
            )
            events.publish_changed(uow, statements=[said[key] for key in changed])


def _is_news(observation: Observation, claim: Claim | None) -> bool:
    return claim is None or observation.occurred_us > claim.last_seen_us + NOTED_EVERY_US


def _links(news: Sequence[Observation], ids: dict[bytes, int], sources: Mapping[str, int]) -> list[LinkSeen]:
    """What observations claim, each link once with the latest time. Cars are evidence on persons, too, beside a name."""
    links: dict[tuple[Space, int, int, bytes, int], LinkSeen] = {}

    def add(space: Space, anchor: int, value: int, o: Observation, *, named: bool, name: str = "") -> None:
        key = (space, anchor, value, o.name_token if named else b"", sources[o.source])
        before = links.get(key)
        if before is None or before.seen_us < o.occurred_us:
            links[key] = LinkSeen(*key, o.occurred_us, name)

    for o in news:
        if o.persons:
            anchor = ids[o.persons[0].token]
            for known in o.persons[1:]:
                add(Space.PERSON, anchor, ids[known.token], o, named=True)
            if o.name_token:
                add(Space.PERSON, anchor, anchor, o, named=True, name=o.person_name)
                for known in o.vehicles:
                    add(Space.PERSON, anchor, ids[known.token], o, named=True)
        if o.vehicles:
            anchor = ids[o.vehicles[0].token]
            for known in o.vehicles[1:]:
                add(Space.VEHICLE, anchor, ids[known.token], o, named=False)
    return list(links.values())


def _relations(
    news: Sequence[Observation], claims: dict[bytes, tuple[bytes, int, int, int]]
) -> dict[tuple[int, int, str], tuple[int, int]]:
    relations: dict[tuple[int, int, str], tuple[int, int]] = {}
    for o in news:
        _, person, vehicle, _ = claims[o.signature]
        if person and vehicle and o.relation:
            key = (person, vehicle, o.relation)
            first, last = relations.get(key, (o.occurred_us, o.occurred_us))
            relations[key] = (min(first, o.occurred_us), max(last, o.occurred_us))
    return relations


def _channel(properties: bytes) -> str:
    """The channel a consent is about; all of them when it names none that we know."""
    try:
        channel = orjson.loads(properties or b"{}").get("channel")
    except (orjson.JSONDecodeError, AttributeError):
        channel = None
    return channel if channel in CHANNELS else "all"
