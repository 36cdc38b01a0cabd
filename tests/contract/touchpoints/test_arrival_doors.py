"""Posts of real dialects, broken in every way, at an open arrival door of the running suite: read or refused, never a 500."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from troika.touchpoints.v1 import arrivals_service_pb2 as pb
from troika.touchpoints.v1.arrivals_service_pb2_grpc import ArrivalsServiceStub

from local.supervisor import Suite
from tests.emulators import cameras
from tests.emulators.cameras import CAMERAS, Post, Shot

# Nobody knows this plate: what is not broken is taken, and makes no card.
SHOT = Shot("沪B88888", uuid="a0fe72d4-1dd2-11b2-8d3d-44a64240f5c1")
POSTS = [make(SHOT) for make in CAMERAS.values()] + [cameras.terminal("nobody"), cameras.dahua_alive()]
RUBBISH = st.one_of(
    st.sampled_from([b"", b"\0", b"<", b"]]>", b"&a;", b'"', b"\\", b"--", b"\r\n\r\n", b"\xff\xfe", b"9" * 400, b"[" * 5000]),
    st.binary(max_size=20),
)


@pytest.fixture(scope="module")
async def door(suite: Suite) -> str:
    async with suite.operator_channel("touchpoints") as channel:
        made = pb.ArrivalDoor(name="fuzz", dealer_code="D404")
        return str((await ArrivalsServiceStub(channel).CreateArrivalDoor(pb.CreateArrivalDoorRequest(door=made))).url)


@st.composite
def broken(draw: st.DrawFn) -> tuple[Post, bytes]:
    """A post of some device, with up to three places cut out or overwritten; near its text more often than in its pictures."""
    post = draw(st.sampled_from(POSTS))
    body = post.body
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.one_of(st.integers(0, min(len(body), 2000)), st.integers(0, len(body))))
        body = body[:at] + draw(RUBBISH) + body[at + draw(st.sampled_from([0, 1, 40, 100_000])) :]
    return post, body


@settings(
    max_examples=80,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(
    given_=broken(), content_type=st.sampled_from(["", "", "multipart/form-data; boundary=x", "application/json", "text/xml"])
)
async def test_a_broken_post_is_read_or_refused_by_name(door: str, given_: tuple[Post, bytes], content_type: str) -> None:
    post, body = given_
    url = door + post.path + (f"?{post.query}" if post.query else "")
    async with httpx.AsyncClient(timeout=20) as client:
        headers = {"content-type": content_type or post.content_type}
        # This test is faster than any camera.
        while (answer := await client.post(url, content=body, headers=headers)).status_code == 429:
            await asyncio.sleep(0.1)
    assert answer.status_code in (200, 400)
    said = answer.json()
    if answer.status_code == 200:
        assert {"result": True, "message": "success"} == said
    else:
        assert {"code", "message"} <= set(said)


async def test_strangers_learn_nothing(suite: Suite, door: str) -> None:
    token = door.rpartition("/")[2]
    async with httpx.AsyncClient(base_url=suite.url("touchpoints"), timeout=20) as client:
        answers = [
            await client.post(f"/arrivals/{wrong}", content=POSTS[0].body)
            for wrong in ("x", token[:-1], token + "A", token.lower(), "%00", "%ff%fe", "a" * 5000)
        ]
    assert {404} == {answer.status_code for answer in answers}
    assert 1 == len({answer.content for answer in answers})
