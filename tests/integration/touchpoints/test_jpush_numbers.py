"""Numbers of JPush's calls: fetched once for all who wait, not kept for long; a wrong key is noticed where they come from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from chassis.testing import DatabaseFactory
from services.touchpoints.channels.contract import Denied, Push
from services.touchpoints.channels.http import PAUSE_S, Caller
from services.touchpoints.channels.http2 import Http2
from services.touchpoints.channels.push import jpush
from services.touchpoints.channels.push.channel import PushChannel
from services.touchpoints.channels.push.jpush import POOL, JPush
from services.touchpoints.channels.push.providers import Notification, Told
from services.touchpoints.channels.push.tokens import Registration, Token, Tokens
from services.touchpoints.domain.deliveries import Channel, Delivery, Retry
from services.touchpoints.endpoints import Endpoint
from services.touchpoints.vault import Vault
from tests.emulators.providers import JPushServer, serving

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PHONES = [Token(1, "jpush", "production", "phone", NOW)]
WORDS = Notification("d1", "title", "body", "service", 60, {})
AT_ONCE = 50


@pytest.fixture
async def server() -> AsyncIterator[JPushServer]:
    async with serving(JPushServer()) as server:
        assert isinstance(server, JPushServer)
        yield server


@pytest.fixture
async def client() -> AsyncIterator[JPush]:
    caller = Caller(5, allow_private=True)
    yield JPush(caller)
    await caller.close()


def phones(server: JPushServer, secret: str) -> Endpoint:
    settings, secrets = {"jpush_app_key": server.app_key}, {"jpush_master_secret": secret}
    return Endpoint("phones", Channel.PUSH, "main", server.url, settings=settings, secrets=secrets)


async def without_numbers(client: JPush, endpoint: Endpoint) -> set[Retry]:
    told: list[Told] = await asyncio.gather(*(client.send(endpoint, WORDS, PHONES, "") for _ in range(AT_ONCE)))
    return {each.outcome for each in told if isinstance(each.outcome, Retry)}


async def test_one_asks_for_all_and_nothing_is_sent_without_a_number(server: JPushServer, client: JPush) -> None:
    endpoint = phones(server, server.secret)
    assert {Retry("no_call_number", sent_perhaps=False)} == await without_numbers(client, endpoint)
    assert (1, 0) == (server.asked, server.calls)
    assert POOL == len({client.cids.take(endpoint) for _ in range(POOL)} & server.issued)


async def test_a_wrong_key_stops_the_endpoint_before_anything_is_sent(server: JPushServer, client: JPush) -> None:
    refused = Retry("key_refused", PAUSE_S, sent_perhaps=False, pauses_endpoint=True)
    assert {refused} == await without_numbers(client, phones(server, "wrong"))
    assert (1, 0) == (server.asked, server.calls)


async def test_old_numbers_are_thrown_away(server: JPushServer, client: JPush, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = phones(server, server.secret)
    await without_numbers(client, endpoint)
    assert client.cids.take(endpoint)
    monkeypatch.setattr(jpush, "REST_S", -1.0)
    assert client.cids.short(endpoint)
    assert "" == client.cids.take(endpoint)


async def test_devices_that_no_provider_of_the_app_serves_are_none(databases: DatabaseFactory, server: JPushServer) -> None:
    caller, http2, vault = Caller(5, allow_private=True), Http2(5, allow_private=True), Vault(b"k" * 32)
    delivery = Delivery("d1", "t", 1, Channel.PUSH, (), "", "", "b", "service", 0, 0, (), "", NOW, NOW, NOW)
    async with databases.database("touchpoints") as database, database.transaction() as uow:
        await Tokens(vault).register(uow, Registration("app", "u1", "apns", "main", "production", "token", NOW))
        channel = PushChannel(caller, http2, vault, "app")
        taken = await channel.memory.take(uow, [Push(delivery, phones(server, server.secret), "u1", 101)])
    assert {"d1": Denied("no_device")} == taken
    await caller.close()
    await http2.close()
