"""The chassis on real servers: what is committed is delivered once in effect, whatever fails in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from chassis.bus import DEAD_LETTERS, Bus, Consumer, Message, Stream, replayed
from chassis.db import Database, UnitOfWork
from chassis.outbox import Outgoing, Relay, dead_letter
from chassis.testing import DatabaseFactory
from chassis.vitals import Vitals
from tests.conftest import Servers

STREAM = Stream("NUMBERS", ("troika.numbers.v1",))
SUBJECT = STREAM.subjects[0]


@pytest.fixture(scope="session")
async def toys(servers: Servers) -> AsyncIterator[DatabaseFactory]:
    factory = DatabaseFactory(servers.postgres_dsn, Path(__file__).parent)
    yield factory
    await factory.close()


@pytest.fixture
async def database(toys: DatabaseFactory) -> AsyncIterator[Database]:
    async with toys.database("toy") as database:
        yield database


async def store_numbers(uow: UnitOfWork, messages: Sequence[Message]) -> None:
    for message in messages:
        if message.data == b"poison":
            raise ValueError(message.data)
    await uow.execute("INSERT INTO seen SELECT unnest(CAST(:n AS bigint[]))", n=[int(m.data) for m in messages])


async def numbers(database: Database) -> list[int]:
    async with database.read() as uow:
        return [row.number for row in await uow.rows("SELECT number FROM seen ORDER BY number")]


async def eventually(check: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await check():
            await asyncio.sleep(0.02)


async def test_what_a_transaction_publishes_reaches_the_consumer_once(database: Database, bus: Bus) -> None:
    await bus.declare(STREAM)
    tasks = [
        asyncio.create_task(Relay(database, bus).run()),
        asyncio.create_task(bus.consume(Consumer("toy-numbers", SUBJECT, store_numbers), database)),
    ]
    for number in range(50):
        async with database.transaction() as uow:
            uow.publish(SUBJECT, str(number).encode())
    await eventually(lambda: _equal(database, list(range(50))))
    for task in tasks:
        task.cancel()


async def _equal(database: Database, expected: list[int]) -> bool:
    return await numbers(database) == expected


async def test_a_process_tells_what_waits_on_the_servers_it_stands_on(database: Database, bus: Bus) -> None:
    consumer = Consumer("toy-numbers", SUBJECT, store_numbers)
    vitals = Vitals(database, bus, [STREAM], [consumer, Consumer("toy-nothing", "troika.nothing.v1", store_numbers)])
    await bus.declare(STREAM)
    task = asyncio.create_task(bus.consume(consumer, database))
    await bus.publish_all([Outgoing("first", SUBJECT, b"0", {})])
    await eventually(lambda: _equal(database, [0]))
    task.cancel()
    await asyncio.wait([task])
    async with database.transaction() as uow:
        uow.publish(SUBJECT, b"1")
    await bus.publish_all([Outgoing(str(number), SUBJECT, b"2", {}) for number in range(3)])
    await vitals.look()

    def told(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(name, labels)

    assert 1 == told("troika_outbox_waiting")
    # The first one's acknowledgement may have gone with its consumer.
    assert told("troika_consumer_waiting", consumer="toy-numbers") in (3, 4)
    assert 4 == told("troika_stream_messages", stream="NUMBERS")
    assert (told("troika_postgres_connections_most") or 0) > (told("troika_postgres_connections") or 0) > 0
    assert (told("troika_message_age_seconds_count", consumer="toy-numbers") or 0) >= 1


async def test_a_rolled_back_transaction_publishes_nothing(database: Database, bus: Bus) -> None:
    await bus.declare(STREAM)
    with pytest.raises(RuntimeError):
        async with database.transaction() as uow:
            uow.publish(SUBJECT, b"1")
            raise RuntimeError
    assert 0 == await Relay(database, bus).relay_once()


async def test_a_message_delivered_twice_is_handled_once(database: Database, bus: Bus) -> None:
    await bus.declare(STREAM)
    consumer = Consumer("toy-numbers", SUBJECT, store_numbers)
    task = asyncio.create_task(bus.consume(consumer, database))
    first = Outgoing("same", SUBJECT, b"7", {})
    await bus.publish_all([first])
    await eventually(lambda: _equal(database, [7]))
    async with database.transaction() as uow:
        assert set() == await uow.fresh("toy-numbers", ["same"])
    task.cancel()


async def test_the_inbox_forgets_only_what_cannot_come_again(database: Database, bus: Bus) -> None:
    async with database.transaction() as uow:
        await uow.fresh("toy", ["old", "new"])
        await uow.execute("UPDATE inbox SET handled_at = now() - interval '9 days' WHERE message_id = 'old'")
    assert 1 == await Relay(database, bus).purge_inbox()
    async with database.transaction() as uow:
        assert {"old"} == await uow.fresh("toy", ["old", "new"])


async def test_one_poisoned_message_goes_to_the_dead_letters_alone(database: Database, bus: Bus) -> None:
    await bus.declare(STREAM)
    await bus.publish_all([Outgoing(str(i), SUBJECT, b"poison" if i == 3 else str(i).encode(), {}) for i in range(8)])
    task = asyncio.create_task(bus.consume(Consumer("toy-numbers", SUBJECT, store_numbers), database))
    await eventually(lambda: _equal(database, [0, 1, 2, 4, 5, 6, 7]))
    await eventually(lambda: _has_dead(bus))
    task.cancel()


async def _has_dead(bus: Bus) -> bool:
    return 1 == (await bus.extent(DEAD_LETTERS.name)).last


async def test_a_projection_reads_every_message_in_order_from_where_it_was(bus: Bus) -> None:
    await bus.declare(STREAM)
    await bus.publish_all([Outgoing(str(i), SUBJECT, str(i).encode(), {}) for i in range(5)])
    got: list[int] = []

    async def keep(message: Message) -> None:
        got.append(int(message.data))

    caught_up = asyncio.Event()
    task = asyncio.create_task(bus.follow(STREAM, 2, keep, caught_up))
    async with asyncio.timeout(10):
        await caught_up.wait()
    assert [2, 3, 4] == got
    task.cancel()


async def test_a_service_cannot_reach_outside_its_schema(database: Database) -> None:
    with pytest.raises(Exception, match="permission denied"):
        async with database.transaction() as uow:
            await uow.execute("CREATE SCHEMA elsewhere")


async def test_a_dead_letter_can_be_replayed_once_its_cause_is_gone(database: Database, bus: Bus) -> None:
    await bus.declare(STREAM)
    await bus.publish_all([dead_letter("toy-numbers", SUBJECT, b"9", "WAS_BROKEN")])
    (letter,) = await bus.dead_letters(10)
    assert ("WAS_BROKEN", SUBJECT) == (letter.headers["troika-reason"], letter.headers["troika-origin"])
    await bus.replay(letter)
    # Had another consumer of the subject handled it as well, the second of them would have failed on the repeated number.
    names = ("toy-others", "toy-numbers")
    tasks = [asyncio.create_task(bus.consume(Consumer(name, SUBJECT, store_numbers), database)) for name in names]
    await eventually(lambda: _equal(database, [9]))
    await eventually(lambda: _handled(database, len(names)))
    assert [] == await bus.dead_letters(10)
    for task in tasks:
        task.cancel()


async def _handled(database: Database, expected: int) -> bool:
    async with database.read() as uow:
        return expected == (await uow.rows("SELECT count(*) AS n FROM inbox"))[0].n


async def test_a_replay_that_is_cut_short_and_repeated_is_handled_once(database: Database, bus: Bus) -> None:
    await bus.declare(STREAM)
    await bus.publish_all([dead_letter("toy-numbers", SUBJECT, b"9", "WAS_BROKEN")])
    (letter,) = await bus.dead_letters(10)
    await bus.replay(letter)
    # As after a crash behind the publish: the same letter once more.
    await bus.publish_all([replayed(letter)])
    assert 1 == (await bus.extent(STREAM.name)).last


async def test_a_letter_is_found_behind_any_number_of_others(bus: Bus) -> None:
    await bus.publish_all([dead_letter("toy-numbers", SUBJECT, b"1", "OTHER") for _ in range(5)])
    await bus.publish_all([dead_letter("toy-numbers", SUBJECT, b"2", "WANTED")])
    found = await bus.dead_letters(1, lambda letter: letter.headers["troika-reason"] == "WANTED")
    assert [b"2"] == [letter.data for letter in found]
