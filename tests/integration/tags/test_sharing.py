"""Shares: who may read what until when, under which names, and never of groups too small."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from troika.tags.v1 import sharing_service_pb2 as pb

from chassis.db import Database
from tests.integration.tags import world
from tests.integration.tags.sharing_house import asked, consenting, crowd, moment, open_house, people, refused, said, told

COUNTS = pb.SHARE_FORM_COUNTS


async def test_a_recipient_sees_chosen_tags_under_names_of_its_own(database: Database) -> None:
    await consenting(database, range(1, 11), "student", 30)
    await consenting(database, range(11, 31), "retired", 70)
    async with open_house(database) as house:
        first, again = await house.share(), await house.share(request_id="another")
        other = await house.share("insurer")
        read = await house.read(first)
        assert {("student",): 10, ("retired",): 20} == Counter(read.rows.values())
        assert (["job"], 30, 1) == (list(read.receipt.tags), read.receipt.persons, read.receipt.number)
        assert {16} == {len(name) for name in read.rows}
        # The same in each reading, and nothing in common with any other share.
        assert read.rows == (await house.read(first)).rows
        assert not read.rows.keys() & (await house.read(again)).rows.keys()
        assert not read.rows.keys() & (await house.read(other, "insurer")).rows.keys()


async def test_rows_come_in_an_order_that_says_nothing(database: Database) -> None:
    await consenting(database, range(1, 201))
    async with open_house(database) as house:
        share = await house.share()
        one, two = [list((await house.read(share)).rows) for _ in range(2)]
        assert sorted(one) == sorted(two)
        assert one != two


async def test_groups_too_small_are_left_out_and_counted(database: Database) -> None:
    await consenting(database, range(1, 11), "student", 30)
    await consenting(database, range(11, 15), "retired", 70)
    await consenting(database, range(15, 20), "student", 31)
    async with open_house(database) as house:
        read = await house.read(await house.share(tags=["job", "age"]))
        assert {("student", 30.0): 10, ("student", 31.0): 5} == Counter(read.rows.values())
        [use] = (await house.operator.ListDataUses(pb.ListDataUsesRequest())).uses
        assert (15, 4, 0) == (use.persons, use.suppressed, use.without_consent)


async def test_an_audience_that_is_too_small_gives_nothing_but_a_receipt(database: Database) -> None:
    await consenting(database, range(1, 5))
    async with open_house(database) as house:
        for form in (pb.SHARE_FORM_ROWS, COUNTS):
            read = await house.read(await house.share(form=form))
            assert ({}, 0) == (read.rows, read.receipt.persons)
            assert [] == [value for counts in read.counts for value in counts.values]
        assert 2 == len((await house.operator.ListDataUses(pb.ListDataUsesRequest())).uses)
        assert ([], 0, 0) == await house.account(1)


async def test_an_audience_may_be_shared_without_tags(database: Database) -> None:
    await consenting(database, range(1, 21), "student", 30)
    await consenting(database, range(21, 41), "student", 60)
    async with open_house(database) as house:
        young = await house.read(await house.share(tags=[], predicate="age < 40"))
        assert [()] * 20 == list(young.rows.values())


async def test_missing_values_are_values_like_others(database: Database) -> None:
    await consenting(database, range(1, 11), "student", 30)
    await world.resolved(database, *(world.event(n, person=(n, n, 1)) for n in range(11, 17)))
    await told(database, *(said(n) for n in range(11, 17)))
    async with open_house(database) as house:
        read = await house.read(await house.share(tags=["job", "age"]))
        assert {("student", 30.0): 10, (None, None): 6} == Counter(read.rows.values())


async def test_counts_hide_small_cells_and_one_more_with_each(database: Database) -> None:
    await consenting(database, range(1, 3), "student", 30)
    await consenting(database, range(3, 13), "retired", 30)
    await consenting(database, range(13, 33), "services", 30)
    async with open_house(database) as house:
        read = await house.read(await house.share(form=COUNTS, tags=["job", "age", "has_app"]))
        job, age, app = read.counts
        assert {} == read.rows
        assert [("services", 20)] == [(value.word, value.persons) for value in job.values]
        assert [(30.0, 32)] == [(value.number, value.persons) for value in age.values]
        assert [(None, 32)] == [(value.WhichOneof("value"), value.persons) for value in app.values]
        assert [True, False, False] == [counts.incomplete for counts in read.counts]
        assert 32 == read.receipt.persons
        [use] = (await house.operator.ListDataUses(pb.ListDataUsesRequest())).uses
        assert (32, 2) == (use.persons, use.suppressed)


async def test_many_rows_come_in_chunks(database: Database) -> None:
    await crowd(database, 10_500)
    async with open_house(database) as house:
        read = await house.read(await house.share())
        assert (2, 10_500) == (read.chunks, len(read.rows))
        assert [] == (await house.verify()).flaws


async def test_nothing_is_read_after_the_end(database: Database) -> None:
    await consenting(database, range(1, 11))
    async with open_house(database) as house:
        revoked = await house.share()
        for _ in range(2):
            ended = await house.operator.RevokeShare(pb.RevokeShareRequest(share_id=revoked, reason="over"))
            assert "over" == ended.share.revoke_reason
        async with refused("FAILED_PRECONDITION", "SHARE_REVOKED"):
            await house.read(revoked)
        brief = await house.share(expires_at=moment(datetime.now(UTC) + timedelta(seconds=0.5)))
        await asyncio.sleep(0.6)
        async with refused("FAILED_PRECONDITION", "SHARE_EXPIRED"):
            await house.read(brief)
        assert [] == list((await house.operator.ListDataUses(pb.ListDataUsesRequest())).uses)


async def test_a_reading_under_way_stops_when_the_share_is_revoked(database: Database) -> None:
    await crowd(database, 40_000)
    async with open_house(database) as house:
        share = await house.share()
        await house.following.look()
        call = house.recipients["agency"].ReadShare(pb.ReadShareRequest(share_id=share))
        got = 0
        async with refused("FAILED_PRECONDITION", "SHARE_ENDED"):
            async for chunk in call:
                if not got:
                    await house.operator.RevokeShare(pb.RevokeShareRequest(share_id=share, reason="over"))
                got += len(chunk.pseudonyms)
        assert 0 < got < 40_000


async def test_shares_of_others_do_not_exist(database: Database) -> None:
    await consenting(database, range(1, 11))
    async with open_house(database) as house:
        share = await house.share("agency")
        for number in (share, share + 1):
            async with refused("NOT_FOUND", "SHARE_NOT_FOUND"):
                await house.read(number, "insurer")
        assert [] == list((await house.operator.ListDataUses(pb.ListDataUsesRequest())).uses)


async def test_recipients_make_no_shares(database: Database) -> None:
    async with open_house(database) as house:
        stub = type(house.operator)(house.channels["agency"])
        async with refused("PERMISSION_DENIED", "PERMISSION_DENIED"):
            await stub.CreateShare(asked())


@pytest.mark.parametrize(
    ("terms", "reason"),
    [
        ({"recipient": "stranger"}, "UNKNOWN_RECIPIENT"),
        ({"min_group_size": 4}, "GROUP_TOO_SMALL"),
        ({"min_group_size": 1}, "INVALID_ARGUMENT"),
        ({"tags": ["nosuch"]}, "UNKNOWN_TAG"),
        ({"predicate": "age >"}, "SYNTAX"),
        ({"tags": []}, "NOTHING_TO_SHARE"),
        ({"expires_at": moment(datetime(2020, 1, 1, tzinfo=UTC))}, "EXPIRES_IN_THE_PAST"),
        ({"purpose": ""}, "INVALID_ARGUMENT"),
    ],
)
async def test_what_cannot_be_shared_is_refused_and_leaves_nothing(
    database: Database, terms: dict[str, object], reason: str
) -> None:
    async with open_house(database) as house:
        async with refused("INVALID_ARGUMENT", reason):
            await house.operator.CreateShare(asked(**{"recipient": "agency"} | terms))
        assert [] == list((await house.operator.ListShares(pb.ListSharesRequest())).shares)


async def test_a_repeated_request_gives_the_same_share_and_another_under_its_id_is_refused(database: Database) -> None:
    async with open_house(database) as house:
        request = asked(request_id="r1")
        made = [(await house.operator.CreateShare(request)).share for _ in range(2)]
        assert made[0] == made[1]
        async with refused("FAILED_PRECONDITION", "REQUEST_ID_TAKEN"):
            await house.operator.CreateShare(asked(request_id="r1", purpose="Another"))
        assert 1 == len((await house.operator.ListShares(pb.ListSharesRequest())).shares)


async def test_shares_and_uses_are_listed_page_by_page(database: Database) -> None:
    async with open_house(database) as house:
        numbers = [await house.share(request_id=str(n)) for n in range(5)] + [await house.share("insurer")]
        found: list[int] = []
        token = ""
        while True:
            request = pb.ListSharesRequest(recipient="agency", page_size=2, page_token=token)
            page = await house.operator.ListShares(request)
            found += [share.share_id for share in page.shares]
            if not (token := page.next_page_token):
                break
        assert numbers[4::-1] == found
        for number in numbers[:3]:
            await house.read(number)
        newest = await house.operator.ListDataUses(pb.ListDataUsesRequest(page_size=2))
        rest = await house.operator.ListDataUses(pb.ListDataUsesRequest(page_size=2, page_token=newest.next_page_token))
        assert [3, 2, 1] == [use.number for use in (*newest.uses, *rest.uses)]
        assert [2] == [
            use.number for use in (await house.operator.ListDataUses(pb.ListDataUsesRequest(share_id=numbers[1]))).uses
        ]


async def test_keys_rotate_and_a_share_keeps_its_own(database: Database) -> None:
    await consenting(database, range(1, 11))
    async with open_house(database) as house:
        old = await house.share()
        before = (await house.read(old)).rows
    async with open_house(database, key_ids=("k1", "k2"), active="k2") as house:
        new = await house.share(request_id="new")
        assert before == (await house.read(old)).rows
        assert not before.keys() & (await house.read(new)).rows.keys()
        keys = {share.share_id: share.key_id for share in (await house.operator.ListShares(pb.ListSharesRequest())).shares}
        assert {old: "k1", new: "k2"} == keys
    async with open_house(database, key_ids=("k2",), active="k2") as house:
        async with refused("FAILED_PRECONDITION", "SHARING_KEY_MISSING"):
            await house.read(old)
        assert 10 == len((await house.read(new)).rows)


async def test_without_a_key_nothing_is_shared(database: Database) -> None:
    async with open_house(database, key_ids=()) as house:
        async with refused("FAILED_PRECONDITION", "NO_SHARING_KEY"):
            await house.share()


async def test_those_who_did_not_agree_are_not_in_it(database: Database) -> None:
    await people(database, range(1, 31))
    now = datetime.now(UTC)
    await told(
        database,
        *(said(n) for n in range(1, 11)),
        *(said(n, separate=False) for n in range(11, 13)),
        *(said(n, channel="app") for n in range(13, 15)),
        *(said(n, purpose="dealer_sharing") for n in range(15, 17)),
        *(said(n, ends=now - timedelta(hours=1)) for n in range(17, 19)),
        *(said(n, ends=now + timedelta(hours=1)) for n in range(19, 21)),
        *(said(n) for n in range(21, 23)),
        *(said(n, given=False, at=200, channel="wechat") for n in range(21, 23)),
    )
    async with open_house(database) as house:
        read = await house.read(await house.share())
        assert 12 == len(read.rows)
        assert [1] * 12 == [len((await house.account(n))[0]) for n in (*range(1, 11), 19, 20)]
        assert [0] * 18 == [len((await house.account(n))[0]) for n in (*range(11, 19), *range(21, 31))]
        [use] = (await house.operator.ListDataUses(pb.ListDataUsesRequest())).uses
        assert 18 == use.without_consent
