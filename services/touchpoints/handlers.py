"""One function per fact or report that changes what touchpoints knows. The tables at the foot say which is which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import orjson

from chassis.db import UnitOfWork
from chassis.moments import from_us
from services.touchpoints import events
from services.touchpoints.channels.ads import store as ads
from services.touchpoints.channels.dealer.handovers import hand_over
from services.touchpoints.channels.dealer.notices import DealerNotices
from services.touchpoints.domain.consents import Statement
from services.touchpoints.domain.deliveries import Channel, State
from services.touchpoints.domain.feedback import Feedback, Value
from services.touchpoints.events import AnchorEvent, Update
from services.touchpoints.store import consents, deliveries, erasures, feedback
from services.touchpoints.store.erasures import ERASED, Alias, Stopped
from services.touchpoints.store.feedback import Progress, Pushed


async def take_over(uow: UnitOfWork, payloads: Sequence[bytes], consumer: str) -> None:
    """Stores requested pushes; one that can never be sent goes to the dead letters alone."""
    good = {}
    for payload in payloads:
        for request in events.requests(payload):
            try:
                delivery = events.delivery(request)
                good[delivery.delivery_id] = delivery
            except ValueError as error:
                uow.dead_letter(consumer, events.REQUESTED, events.one_request(request), str(error))
    if not good:
        return
    await erasures.hold_off(uow)
    await deliveries.add(uow, list(good.values()))
    # Requested before the orchestrator had heard of the erasure.
    if gone := await erasures.erased_persons(uow, (delivery.person_id for delivery in good.values())):
        _stop(uow, await erasures.strip(uow, sorted(gone)))


async def hand_over_leads(uow: UnitOfWork, payloads: Sequence[bytes], consumer: str) -> None:
    """Queues what dealers are told of leads that came to them or left; what cannot be read goes to the dead letters alone."""
    good = []
    for payload in payloads:
        for stated in events.lead_handovers(payload):
            try:
                good.append(events.handover(stated))
            except ValueError as error:
                uow.dead_letter(consumer, events.LEADS, events.one_handover(stated), str(error))
    if good:
        await hand_over(uow, good)


async def follow_entities(uow: UnitOfWork, payloads: Sequence[bytes], notices: DealerNotices) -> None:
    """Keeps who forbade what, and whose anchor is whose; forgets who was erased. Relations decide nothing here."""
    facts = [events.entity_facts(payload) for payload in payloads]
    erased, aliases = [e for each in facts for e in each.erased], [Alias(*a) for each in facts for a in each.aliases]
    if erased or aliases:
        await erasures.alone(uow)
    # Before the erasures: they take along whoever went into an erased person.
    if aliases and (late := await erasures.keep_aliases(uow, aliases)):
        await notices.before_erasure(uow, late, ())
        await ads.send_off(uow, late, erased=True)
        _stop(uow, await erasures.strip(uow, late))
    if erased:
        family = await erasures.family(uow, [person for person, _ in erased])
        await notices.before_erasure(uow, family, [anchor for _, anchors in erased for anchor in anchors])
        await ads.send_off(uow, family, erased=True)
        _stop(uow, await erasures.erase(uow, erased))
    stated, moves = [s for each in facts for s in each.consents], [m for each in facts for m in each.moves]
    if not stated and not moves:
        return
    buried = await erasures.buried(uow, (s.anchor_id for s in stated))
    gone = await erasures.erased_persons(uow, [*(s.person_id for s in stated), *(person for _, person, _ in moves)])
    # What an erased person said through an anchor that is somebody else's by now is theirs, and names nobody.
    living = [replace(s, person_id=0) if s.person_id in gone else s for s in stated if (s.anchor_id, s.person_id) not in buried]
    if living:
        await consents.save_consents(uow, living)
    if moved := [move for move in moves if move[1] not in gone]:
        await consents.move_anchors(uow, moved)
    named = [s for s in living if s.person_id]
    await notices.after_statements(uow, named)
    await ads.after_statements(uow, named)


def _stop(uow: UnitOfWork, stopped: Sequence[Stopped]) -> None:
    updates = [Update(push.delivery_id, State.SUPPRESSED, ERASED, push.stopped_at) for push in stopped]
    for payload in events.update_batches(updates):
        uow.publish(events.UPDATED, payload)


@dataclass(frozen=True)
class Reporter:
    """Who reports: an endpoint, and the source its events count as."""

    endpoint: str
    source: str


async def take_feedback(
    uow: UnitOfWork, reporter: Reporter, given: Sequence[tuple[int, Feedback]], received_us: int
) -> set[int]:
    """Applies what a receiver reports; returns the indexes of events about nothing that told that receiver of somebody.

    State, deliveries.updated and events.observed commit together. Reports repeated in any order change nothing.
    """
    if any(f.withdraws("") for _, f in given):
        # What is stated of somebody who is being erased must not stay behind.
        await erasures.hold_off(uow)
    known = await feedback.pushed(uow, sorted({f.delivery_id for _, f in given}))
    ours = {k: p for k, p in known.items() if p.endpoint == reporter.endpoint and not p.silent}
    strange = {index for index, f in given if f.delivery_id not in ours}
    fresh = await feedback.keep(uow, [f for index, f in given if index not in strange])
    if fresh:
        await _advance(uow, fresh)
        _observe(uow, reporter, fresh, ours, received_us)
        await _withdraw(uow, fresh, ours)
    return strange


async def _advance(uow: UnitOfWork, fresh: Sequence[Feedback]) -> None:
    furthest: dict[str, Progress] = {}
    answers: dict[str, Feedback] = {}
    for one in fresh:
        if one.meaning.state is None:
            continue
        before = furthest.get(one.delivery_id)
        if before is None or one.meaning.state > before.state:
            when = from_us(one.occurred_at_us)
            furthest[one.delivery_id] = Progress(one.delivery_id, one.meaning.state, one.meaning.reason, when)
        given = answers.get(one.delivery_id)
        if one.answer and (given is None or (one.occurred_at_us, one.answer) > (given.occurred_at_us, given.answer)):
            answers[one.delivery_id] = one
    progress = [
        Progress(p.delivery_id, p.state, p.reason, from_us(a.occurred_at_us), a.answer)
        if (a := answers.get(p.delivery_id))
        else p
        for p in furthest.values()
    ]
    rows = await feedback.advance(uow, progress)
    updates = [
        Update(r.delivery_id, r.state, r.reason, r.occurred, r.answer if State.ANSWERED <= r.state < State.FAILED else "")
        for r in rows
    ]
    for payload in events.update_batches(updates):
        uow.publish(events.UPDATED, payload)


def _observe(
    uow: UnitOfWork, reporter: Reporter, fresh: Sequence[Feedback], pushes: dict[str, Pushed], received_us: int
) -> None:
    observed = []
    for one in fresh:
        push = pushes[one.delivery_id]
        if not one.meaning.event or not push.anchor_id:
            continue
        properties: dict[str, Value] = {"delivery_id": one.delivery_id, "theme": push.theme, "channel": push.channel.label}
        if push.kind:
            del properties["theme"]
            if push.interest:
                properties["model"] = push.interest
        properties |= one.properties
        # What somebody takes back is told in the words of consent: several purposes by none, as with every opt-out.
        if taken_back := one.withdraws(push.channel.consent_channel):
            properties["channel"] = taken_back[0][1]
            if len(taken_back) == 1:
                properties["purpose"] = taken_back[0][0]
        name = (one.meaning.of_lead if push.kind else "") or one.meaning.event
        observed.append(
            AnchorEvent(one.event_id, reporter.source, name, one.occurred_at_us, push.anchor_id, orjson.dumps(properties))
        )
    for payload in events.anchor_batches(observed, received_us):
        uow.publish(events.OBSERVED, payload)


async def _withdraw(uow: UnitOfWork, fresh: Sequence[Feedback], pushes: dict[str, Pushed]) -> None:
    """An opt-out counts here at once; identity's statement of the same will follow and change nothing."""
    changes = [
        Statement(push.anchor_id, push.person_id, purpose, channel, False, False, one.occurred_at_us)
        for one in fresh
        if (push := pushes[one.delivery_id]).anchor_id
        for purpose, channel in one.withdraws(push.channel.consent_channel)
    ]
    if changes:
        await consents.save_consents(uow, changes)


def source_of(channel: Channel, scope: str, app_source: str) -> str:
    """The source that an endpoint's feedback counts as: the same name its records and events come under."""
    if channel is Channel.APP:
        return app_source
    return f"{channel.label}:{scope}" if scope else channel.label
