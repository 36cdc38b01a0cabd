"""The JetStream doors: facts of other rooms into the orchestrator's projections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from troika.identity.v1 import events_pb2 as identity_pb2
from troika.touchpoints.v1 import events_pb2 as touchpoints_pb2

from chassis.bus import Consumer, Message, parsed
from chassis.consents import ALL_CHANNELS, DEFAULT_REGIMES, MESSAGES
from chassis.db import UnitOfWork
from chassis.moments import from_us
from services.orchestrator.arbiter import pieces, recording
from services.orchestrator.events import CHANNELS_HEALTH, DELIVERIES_UPDATED, ENTITIES_CHANGED, EVENTS_RESOLVED
from services.orchestrator.experiments.collecting import Collector, Happened
from services.orchestrator.journeys.enrolments import EnrolmentStore
from services.orchestrator.leads.chain import Stage
from services.orchestrator.leads.collecting import DEFAULT_STAGES, LeadCollector, follow_handovers, follow_pushes
from services.orchestrator.leads.consents import withdraw
from services.orchestrator.leads.store import LeadStore
from services.orchestrator.store.consents import NO_END, ConsentStore, Statement
from services.orchestrator.store.erasures import ErasureStore, Tombstone
from services.orchestrator.store.holding import hold_off_erasures
from services.orchestrator.store.projections import Alias, GoalReached, Move, ProjectionStore, Update
from services.orchestrator.themes.definitions import Goal
from services.orchestrator.themes.states import Theme
from services.orchestrator.themes.store import ThemeStore

DELIVERIES = "orchestrator-deliveries"
RESOLVED = "orchestrator-resolved"
ENTITIES = "orchestrator-entities"
HEALTH = "orchestrator-channels"
# Events may be as late as the bus keeps them; older themes need not be looked at.
LATE = timedelta(days=7)
CONSENT_CHANNELS = frozenset({"app", "wechat", "dealer", "sms", "phone", "email", "car", "web", "ads", ALL_CHANNELS})


def consumers(
    lead_stages: Mapping[str, Stage] = DEFAULT_STAGES,
    regimes: Mapping[str, str] = DEFAULT_REGIMES,
    successes: frozenset[str] = frozenset({"clicked", "answered"}),
) -> list[Consumer]:
    """All consumers of this service; `lead_stages` says of which stage of a lead an event tells.

    `successes`: outcomes that make an offer that was shown a success.
    """

    async def resolved(uow: UnitOfWork, messages: Sequence[Message], /) -> None:
        await reach_goals(uow, messages, lead_stages)

    async def entities(uow: UnitOfWork, messages: Sequence[Message], /) -> None:
        await follow_entities(uow, messages, regimes)

    async def deliveries(uow: UnitOfWork, messages: Sequence[Message], /) -> None:
        await update_deliveries(uow, messages, successes)

    return [
        Consumer(DELIVERIES, DELIVERIES_UPDATED, deliveries),
        Consumer(RESOLVED, EVENTS_RESOLVED, resolved, batch=64),
        Consumer(ENTITIES, ENTITIES_CHANGED, entities),
        Consumer(HEALTH, CHANNELS_HEALTH, follow_health),
    ]


async def follow_health(uow: UnitOfWork, messages: Sequence[Message], /) -> None:
    """Keeps how channels do; what was said later counts."""
    for message in messages:
        if (told := parsed(uow, HEALTH, message, touchpoints_pb2.ChannelsHealth)) is None:
            continue
        latest = {state.channel: state for state in told.channels}
        await uow.fetch(
            "INSERT INTO channel_health AS h (channel, failing, reason, pushes_left, at)"
            " SELECT c, f, r, l, to_timestamp($5::bigint / 1e6)"
            " FROM unnest($1::text[], $2::boolean[], $3::text[], $4::bigint[]) AS n (c, f, r, l)"
            " ORDER BY c ON CONFLICT (channel) DO UPDATE SET failing = excluded.failing, reason = excluded.reason,"
            " pushes_left = excluded.pushes_left, at = excluded.at WHERE excluded.at > h.at",
            list(latest),
            [state.failing for state in latest.values()],
            [state.reason for state in latest.values()],
            [state.left if state.HasField("left") else None for state in latest.values()],
            told.at_us,
        )
        await uow.fetch("DELETE FROM channel_given WHERE minute < now() - interval '1 hour'")


async def update_deliveries(uow: UnitOfWork, messages: Sequence[Message], successes: frozenset[str], /) -> None:
    """Keeps the furthest state of each push and its last answer."""
    furthest: dict[str, Update] = {}
    for message in messages:
        if (batch := parsed(uow, DELIVERIES, message, touchpoints_pb2.DeliveriesUpdated)) is None:
            continue
        for update in batch.updates:
            if not update.delivery_id or not update.state:
                alone = touchpoints_pb2.DeliveriesUpdated(updates=[update])
                uow.dead_letter(DELIVERIES, DELIVERIES_UPDATED, alone.SerializeToString(), "INVALID_UPDATE")
                continue
            known = furthest.get(update.delivery_id)
            answer = update.answer or (known[3] if known else "")
            if known is None or update.state > known[1]:
                found = (update.delivery_id, int(update.state), update.reason, answer, from_us(update.occurred_at_us))
            else:
                found = (*known[:3], answer, known[4])
            furthest[update.delivery_id] = found
    if furthest:
        await hold_off_erasures(uow)
        await ProjectionStore(uow).update_deliveries(list(furthest.values()))
        await pieces.settle(uow, furthest)
        await recording.hear(uow, furthest, successes)
        await follow_pushes(uow, furthest)
        await follow_handovers(uow, {name: (update[1], update[2]) for name, update in furthest.items()})


async def reach_goals(
    uow: UnitOfWork, messages: Sequence[Message], lead_stages: Mapping[str, Stage] = DEFAULT_STAGES, /
) -> None:
    """Remembers the first goal event of each anchor in each theme under way, what experiments measure, and steps of leads."""
    collector, leads = await Collector.of(uow), LeadCollector(lead_stages)
    themes = await ThemeStore(uow).counting(datetime.now(UTC) - LATE)
    by_event: dict[str, list[Theme]] = {}
    for theme in themes:
        by_event.setdefault(theme.definition.goal.event, []).append(theme)
    listened = collector.events | leads.events
    # Most batches hold no goal event at all; looking for the bare name is a hundred times cheaper than parsing.
    names = [name.encode() for name in {*by_event, *listened}]
    reached: dict[tuple[int, int], GoalReached] = {}
    for message in messages:
        if not any(name in message.data for name in names):
            continue
        if (batch := parsed(uow, RESOLVED, message, identity_pb2.ResolvedBatch)) is None:
            continue
        for event in batch.events:
            try:
                for goal in filter(None, [_goal(theme, event) for theme in by_event.get(event.name, ())]):
                    reached[goal[:2]] = min(reached.get(goal[:2], goal), goal, key=lambda g: g[4])
                if event.name in listened:
                    happened = _happened(event)
                    collector.take(happened)
                    leads.take(event.source, happened)
            except (orjson.JSONDecodeError, OverflowError, ValueError):
                alone = identity_pb2.ResolvedBatch(events=[event])
                uow.dead_letter(RESOLVED, EVENTS_RESOLVED, alone.SerializeToString(), "INVALID_EVENT")
    await collector.keep(uow)
    if reached:
        erasures = ErasureStore(uow)
        await hold_off_erasures(uow)
        stones = await erasures.tombstones(anchor for _, anchor in reached)
        living = [g for g in reached.values() if g[1] not in stones or not stones[g[1]].covers(g[2], g[3])]
        await ProjectionStore(uow).reach_goals(living)
    await leads.keep(uow)


def _goal(theme: Theme, event: identity_pb2.ResolvedEvent) -> GoalReached | None:
    """The goal that an event is for a theme, None when it is none."""
    owner, at = event.person, from_us(event.occurred_at_us)
    window = timedelta(days=theme.definition.goal.window_days)
    if not owner.entity_id or theme.launched_at is None or not theme.launched_at <= at <= theme.launched_at + window:
        return None
    properties = _properties(event)
    # The answer to another theme's push is that theme's success.
    if properties.get("theme", theme.name) != theme.name or not _meets(theme.definition.goal, properties):
        return None
    return theme.theme_id, owner.anchor_id, owner.entity_id, owner.version, at


def _happened(event: identity_pb2.ResolvedEvent) -> Happened:
    """What an experiment may measure."""
    owner, at = event.person, from_us(event.occurred_at_us)
    if owner.entity_id and len(event.event_id) != 16:
        raise ValueError("an event without an id cannot be counted once")
    return Happened(event.event_id, event.name, owner.anchor_id, owner.entity_id, owner.version, at, _properties(event))


def _properties(event: identity_pb2.ResolvedEvent) -> dict[str, Any]:
    properties = orjson.loads(event.properties_json or b"{}")
    if not isinstance(properties, dict):
        raise ValueError("properties are no object")
    return properties


def _meets(goal: Goal, properties: dict[str, Any]) -> bool:
    if not goal.field:
        return True
    given = properties.get(goal.field)
    if isinstance(given, bool):
        return goal.value == ("true" if given else "false")
    return given is not None and goal.value == str(given)


async def follow_entities(
    uow: UnitOfWork, messages: Sequence[Message], regimes: Mapping[str, str] = DEFAULT_REGIMES, /
) -> None:
    """Follows who is who and who forbade what, and forgets who was erased. Relations decide nothing here."""
    moves: dict[int, Move] = {}
    aliases: dict[int, Alias] = {}
    consents: list[Statement] = []
    erased: dict[int, Tombstone] = {}
    # Those without any anchor, too.
    gone: set[int] = set()
    touched: set[int] = set()
    for message in messages:
        if (batch := parsed(uow, ENTITIES, message, identity_pb2.EntitiesChanged)) is None:
            continue
        for move in batch.anchor_moves:
            _keep_move(moves, move)
        for change in batch.cluster_changes:
            _keep_alias(aliases, change)
            touched |= {change.other_id, change.survivor_id} if change.entity_kind == identity_pb2.ENTITY_KIND_PERSON else set()
        erased |= {anchor: Tombstone(anchor, e.person_id) for e in batch.erasures for anchor in e.anchor_ids}
        gone |= {e.person_id for e in batch.erasures}
        for stated in batch.consent_changes:
            consents += _statements(uow, stated)
    erasures, store = ErasureStore(uow), ProjectionStore(uow)
    # Before the erasures: it takes along whoever went into an erased person.
    if aliases:
        await _keep_aliases(erasures, store, aliases)
        await EnrolmentStore(uow).follow(touched, datetime.now(UTC))
    if gone:
        await erasures.erase(list(erased.values()), gone)
    stones = await erasures.tombstones([*moves, *(statement.anchor_id for statement in consents)])
    late = [move for move in moves.values() if move[0] in stones and stones[move[0]].covers(*move[1:])]
    # A late move says since when the anchor was the person's: what is older than that is the person's, too.
    await erasures.bury([Tombstone(a, p, v) for a, p, v in late if p == stones[a].person_id])
    if living := [move for move in moves.values() if move not in late]:
        await store.move_anchors(living)
    said = [s for s in consents if s.anchor_id not in stones or stones[s.anchor_id].person_id != s.person_id]
    if said:
        await ConsentStore(uow).keep(said)
    await LeadStore(uow).follow([move[0] for move in living], aliases)
    await withdraw(uow, (s.person_id for s in said), regimes)


async def _keep_aliases(erasures: ErasureStore, store: ProjectionStore, aliases: dict[int, Alias]) -> None:
    """Keeps who went into whom; who went into somebody who was erased meanwhile was erased with them."""
    erased = await erasures.erased([person for alias in aliases.values() for person in alias[:2] if person])
    if gone := [person for person, survivor, _ in aliases.values() if survivor in erased]:
        await erasures.erase([], gone)
    if living := [alias for alias in aliases.values() if erased.isdisjoint(alias[:2])]:
        await store.alias(living)


def _keep_move(moves: dict[int, Move], move: identity_pb2.AnchorMove) -> None:
    owner = move.owner
    known = moves.get(owner.anchor_id)
    if move.entity_kind == identity_pb2.ENTITY_KIND_PERSON and (known is None or owner.version > known[2]):
        moves[owner.anchor_id] = (owner.anchor_id, owner.entity_id, owner.version)


def _keep_alias(aliases: dict[int, Alias], change: identity_pb2.ClusterChange) -> None:
    known = aliases.get(change.other_id)
    if change.entity_kind == identity_pb2.ENTITY_KIND_PERSON and (known is None or change.op_id > known[2]):
        survivor = change.survivor_id if change.operation == "merge" else None
        aliases[change.other_id] = (change.other_id, survivor, change.op_id)


def _statements(uow: UnitOfWork, change: identity_pb2.ConsentChange) -> list[Statement]:
    """What a change says, for each purpose that it is about; without one it is about messages of any."""
    if change.channel not in CONSENT_CHANNELS:
        alone = identity_pb2.EntitiesChanged(consent_changes=[change])
        uow.dead_letter(ENTITIES, ENTITIES_CHANGED, alone.SerializeToString(), "UNKNOWN_CHANNEL")
        return []
    separate, expires_us = change.kind == identity_pb2.CONSENT_KIND_SEPARATE, change.expires_at_us or NO_END
    return [
        Statement(
            change.anchor_id,
            change.person_id,
            purpose,
            change.channel,
            separate,
            not change.opted_out,
            change.stated_at_us,
            expires_us,
        )
        for purpose in ((change.purpose,) if change.purpose else MESSAGES)
    ]
