"""Hashes for advertising platforms: only of who allowed it, only of what is theirs, in the platform's form, audited."""

from __future__ import annotations

import hashlib
from typing import Any

import grpc
import pytest
from troika.identity.v1 import identity_service_pb2 as pb

from chassis.rpc import reason_of
from tests.integration.identity.erasing import OWN_MOBILE, Doors, both
from tests.integration.identity.world import NOW, World

DEVICE = "a8f5f167f44f4964"
ZHANG, LI = ("app", ("crm_id", "app", "U1")), ("dealer:D001", ("crm_id", "dealer:D001", "D2"))


async def says(world: World, who: Any, name: str, at_us: int, **properties: Any) -> None:
    source, identifier = who
    await world.see((source, identifier, {"name": name, "at": at_us, "properties": properties}))


async def hashes(doors: Doors, persons: list[int], **form: Any) -> dict[int, set[tuple[str, bytes]]]:
    given: dict[str, Any] = {"kinds": ["mobile", "device"], "digest": "sha256", "mobile_form": "national"}
    answer = await doors.touchpoints.HashAddresses(pb.HashAddressesRequest(person_ids=persons, **(given | form)))
    return {each.person_id: {(h.kind, h.digest) for h in each.hashes} for each in answer.persons}


async def test_only_hashes_of_persons_who_allowed_it_leave_and_only_of_what_is_theirs(world: World, doors: Doors) -> None:
    li, zhang = await both(world)
    asked = [li, zhang, 404]
    assert {} == await hashes(doors, asked)
    # Not separate; for all channels but not separate; of another purpose.
    await says(world, ZHANG, "Consent Given", NOW - 9, purpose="marketing", channel="ads")
    await says(world, LI, "Consent Given", NOW - 9, purpose="marketing", channel="all")
    await says(world, ZHANG, "Consent Given", NOW - 8, purpose="service", channel="ads", kind="separate")
    assert {} == await hashes(doors, asked)

    await says(world, ZHANG, "Consent Given", NOW - 7, purpose="marketing", channel="ads", kind="separate")
    theirs = {("mobile", hashlib.sha256(OWN_MOBILE.encode()).digest()), ("device", hashlib.sha256(DEVICE.encode()).digest())}
    # Not the family's phone, which a record of hers names, too.
    assert {zhang: theirs} == await hashes(doors, asked)
    md5 = {
        (form, hashlib.md5(text.encode()).digest())
        for form, text in (("mobile", f"86{OWN_MOBILE}"), ("device", DEVICE.upper()))
    }
    assert {zhang: md5} == await hashes(doors, asked, digest="md5", mobile_form="digits", device_capitals=True)
    e164 = {("mobile", hashlib.sha256(f"+86{OWN_MOBILE}".encode()).digest())}
    assert {zhang: e164} == await hashes(doors, asked, kinds=["mobile", "email"], mobile_form="e164")

    # Who has nothing of her own is on no list; who wants no personalisation is not picked out for advertising; who takes
    # consent back has none.
    await says(world, LI, "Consent Given", NOW - 6, purpose="marketing", channel="all", kind="separate")
    assert {zhang} == set(await hashes(doors, asked))
    await says(world, ZHANG, "Consent Withdrawn", NOW - 5, purpose="personalisation", channel="all")
    assert {} == await hashes(doors, asked)
    await says(world, ZHANG, "Consent Given", NOW - 4, purpose="personalisation", channel="all", kind="separate")
    assert {zhang} == set(await hashes(doors, asked))
    await says(world, ZHANG, "Unsubscribed", NOW - 3, channel="ads")
    assert {} == await hashes(doors, asked)

    rows = await world.rows(
        "SELECT caller, purpose, kind, person_ids FROM reveal_audit WHERE person_ids <> '{}' ORDER BY id LIMIT 1"
    )
    assert [("touchpoints", "ads", "device,mobile", [zhang])] == [tuple(row) for row in rows]
    request = pb.HashAddressesRequest(person_ids=[zhang], kinds=["mobile"], digest="md5")
    for stub, reason in ((doors.operator, "REVEAL_NOT_ALLOWED"), (doors.touchpoints, "MOBILE_FORM_MISSING")):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.HashAddresses(request)
        assert reason == reason_of(error.value)[0]
