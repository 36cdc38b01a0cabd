"""The memory of the WeChat channels: windows and credits are taken once per push, whatever dies in between."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from chassis.db import Reader, UnitOfWork
from services.touchpoints.channels.contract import Denied, Push, Settled
from services.touchpoints.domain.deliveries import Channel, Refused, Retry, State
from services.touchpoints.vault import Vault
from services.touchpoints.wechat import store
from services.touchpoints.wechat.choice import FOR_EVER, GONE, Choice, Wish, choose
from services.touchpoints.wechat.errors import BAD_ADDRESS, NO_PERMISSION, OUTSIDE_WINDOW, UNREACHABLE
from services.touchpoints.wechat.store import Follower, Opening, Spend
from services.touchpoints.wechat.templates import Form, templates
from services.touchpoints.wechat.tokens import account


def follower_of(vault: Vault, name: str, openid: str) -> Follower:
    """Somebody at an account, by a hash that only this service can make."""
    return Follower(name, vault.fingerprint(openid, name))


class FollowerMemory:
    """Which form each push takes and what pays for it; `forms` are those the channel has."""

    def __init__(self, vault: Vault, forms: frozenset[Form]) -> None:
        self._vault, self._forms = vault, forms

    async def take(self, uow: UnitOfWork, pushes: Sequence[Push]) -> Mapping[str, Choice | Denied]:
        """A Choice for each push that may go; the same one again for a push that was tried before."""
        of = {p.delivery.delivery_id: follower_of(self._vault, account(p.endpoint), p.address) for p in pushes}
        followers = sorted(set(of.values()))
        await store.release(uow, followers)
        before = await store.held(uow, sorted(of))
        known = await store.allowances(uow, followers)
        now_us, grants, spends = time.time_ns() // 1000, dict[str, Any](), list[Spend]()
        for push in pushes:
            name, delivery = push.delivery.delivery_id, push.delivery
            if name in before:
                # Only templates carry a number by which WeChat knows a repeat; of the others its own word may still come.
                again = delivery.unsure_s is None or before[name].form is Form.TEMPLATE
                grants[name] = before[name] if again else Denied("outcome_unknown", State.SENDING)
                continue
            mine = known.get(of[name], {})
            chosen = choose(
                Wish(delivery.purpose, delivery.offer),
                self._forms,
                templates(push.endpoint.settings.get("templates", ""), push.endpoint.settings.get("template_id", "")),
                {kind: one.allowance for kind, one in mine.items()},
                now_us,
            )
            if isinstance(chosen, str):
                grants[name] = Denied(chosen)
                continue
            opened_us = 0
            if chosen.pays:
                paid = mine[chosen.pays]
                opened_us = paid.opened_us
                mine[chosen.pays] = paid._replace(allowance=replace(paid.allowance, left=paid.allowance.left - 1))
            grants[name] = chosen
            spends.append(Spend(name, of[name], chosen, opened_us, push.anchor_id))
        if spends:
            await store.spend(uow, spends)
        return grants

    async def credits(self, reader: Reader, channel: Channel) -> Mapping[str, int]:
        """Messages that people said yes to and that were not sent yet, by endpoint."""
        rows = await reader.fetch(store.CREDITS, channel.label, int(channel))
        return {row["name"]: row["credits"] for row in rows}

    async def settle(self, uow: UnitOfWork, settled: Sequence[Settled]) -> None:
        """What is over is forgotten; what was not sent is given back, unless the provider says that there is none."""
        over, back = list[str](), list[str]()
        none_left, gone = list[tuple[Follower, str]](), list[Follower]()
        for push, outcome, change in ((s.push, s.outcome, s.change) for s in settled):
            name, choice = push.delivery.delivery_id, push.grant
            reason = outcome.reason if isinstance(outcome, Refused | Retry) else ""
            follower = follower_of(self._vault, account(push.endpoint), push.address)
            void = reason in (NO_PERMISSION, OUTSIDE_WINDOW)
            if void and isinstance(choice, Choice) and choice.pays:
                none_left.append((follower, choice.pays))
            if reason in (UNREACHABLE, BAD_ADDRESS):
                gone.append(follower)
            unsent = isinstance(outcome, Refused) or (isinstance(outcome, Retry) and not outcome.sent_perhaps)
            # Told that there is no permission, the next attempt chooses anew.
            if void or change.state is not State.SENDING:
                over.append(name)
                if unsent and not void:
                    back.append(name)
        if none_left:
            await store.spend_all(uow, none_left)
        if gone:
            now_us = time.time_ns() // 1000
            await store.open_allowances(uow, [Opening(f, GONE, 0, now_us, FOR_EVER) for f in sorted(set(gone))])
        if over:
            await store.close_spends(uow, over, back)
