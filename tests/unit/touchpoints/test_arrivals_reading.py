"""What posts of cameras and terminals amount to: every dialect, in every cut of the stream, and rubbish."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.touchpoints.arrivals import multipart, skimming
from services.touchpoints.arrivals.reading import read
from services.touchpoints.arrivals.sightings import CarSeen, Heartbeat, Seen, Unreadable, VisitorSeen, happened
from tests.emulators import cameras
from tests.emulators.cameras import CAMERAS, PICTURE, Post, Shot

NOW = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
SHOT = Shot("京A12345", uuid="a0fe72d4-1dd2-11b2-8d3d-44a64240f5c1", at=NOW)


async def cut(body: bytes, cuts: Sequence[int]) -> AsyncIterator[bytes]:
    places = [0, *sorted(cuts), len(body)]
    for start, end in pairwise(places):
        yield body[start:end]


def seen(post: Post, cuts: Sequence[int] = ()) -> Seen:
    return asyncio.run(_read(post, cuts))


async def _read(post: Post, cuts: Sequence[int]) -> Seen:
    return await read(cut(post.body, cuts), post.content_type, post.query.encode())


@pytest.mark.parametrize("dialect", sorted(CAMERAS))
def test_every_dialect_says_the_same(dialect: str) -> None:
    car = seen(CAMERAS[dialect](SHOT))
    assert isinstance(car, CarSeen)
    wanted = ("京A12345", SHOT.uuid, NOW, 98.0, "forward", False)
    assert wanted == (car.plate_text, car.post, car.camera_time, car.confidence, car.direction, car.late)
    assert car.device


@settings(max_examples=60, deadline=None)
@given(dialect=st.sampled_from(sorted(CAMERAS)), data=st.data())
def test_where_the_stream_is_cut_changes_nothing(dialect: str, data: st.DataObject) -> None:
    post = CAMERAS[dialect](SHOT)
    # Cuts near the seams of parts are the ones that hurt.
    seams = [at for mark in (b"--", b"\\", b'"', b"\n") for at in _places(post.body, mark)]
    near = st.sampled_from(seams or [0]).flatmap(lambda at: st.integers(at - 2, at + 30))
    cuts = data.draw(st.lists(st.one_of(near, st.integers(0, len(post.body))), max_size=12))
    inside = [min(max(at, 0), len(post.body)) for at in cuts]
    assert seen(post) == seen(post, inside)


def _places(body: bytes, mark: bytes) -> list[int]:
    found, at = [], body.find(mark)
    while at >= 0 and len(found) < 40:
        found.append(at)
        at = body.find(mark, at + 1)
    return found


async def test_a_boundary_is_found_wherever_it_is_cut_in_two() -> None:
    picture = PICTURE[:40]
    body = cameras.parts(
        ('name="a.jpg"; filename="a.jpg"', "image/jpeg", picture),
        ('name="anpr.xml"', "text/xml", cameras.xml(SHOT)),
        ('name="b.jpg"; filename="b.jpg"', "image/jpeg", picture),
        boundary="7e13971310878",
    )
    whole = await multipart.texts(cut(body, []), "")
    assert [("anpr.xml", cameras.xml(SHOT))] == [(part.name, part.content) for part in whole]
    for at in range(len(body)):
        assert whole == await multipart.texts(cut(body, [at]), "")


def test_pictures_are_never_held() -> None:
    async def big() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="p"; filename="p.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
        for _ in range(64):
            held.append(len(body.held))
            yield PICTURE
        yield b"\r\n--x--\r\n"

    held: list[int] = []
    body = multipart._Body(big())

    async def run() -> None:
        await body.first_line()
        await body.headers()
        await body.content(b"--x", keep=False)

    asyncio.run(run())
    assert max(held) < 100


def test_long_strings_leave_nothing_behind() -> None:
    document = {"a": "短", "picture": "x" * 1_000_000, "after": 'quo"ted\\', "b": [1, "y" * 5000]}
    body = json.dumps(document).encode()

    async def run() -> bytes:
        return await skimming.skim(cut(body, range(0, len(body), 1000)))

    left = asyncio.run(run())
    assert {"a": "短", "picture": "", "after": 'quo"ted\\', "b": [1, ""]} == skimming.parsed(left)
    assert len(left) < 200


class Counted(bytes):
    """Bytes that count what is cut out of them."""

    copied = 0

    def __radd__(self, other: bytes) -> Counted:
        return self if not other else Counted(other + bytes(self))

    def __getitem__(self, place: Any) -> Any:
        piece = super().__getitem__(place)
        Counted.copied += len(piece) if isinstance(piece, bytes) else 1
        return piece


@pytest.mark.parametrize("body", [b'"' * 200_000, b'"\\"a' * 50_000], ids=["quotes", "escapes"])
def test_many_short_strings_are_copied_a_few_times_and_not_the_rest_with_each(body: bytes) -> None:
    Counted.copied = 0
    skimmer = skimming._Skimmer()
    skimmer.feed(Counted(body))
    assert body == skimmer.document()
    assert 0 < Counted.copied < 4 * len(body)


def test_occupants_and_faces_are_left_where_they_are() -> None:
    for make in CAMERAS.values():
        assert not {"yes", "41", "female", "smoking"} & set(str(seen(make(SHOT))).replace("'", " ").split())
    snap = {"eventType": "faceCapture", "faceCapture": [{"faces": [{"age": 41}]}]}
    assert Heartbeat("other_event") == seen(Post(json.dumps(snap).encode(), "application/json"))


@pytest.mark.parametrize("dialect", sorted(set(CAMERAS) - {"dahua"}))
def test_inactive_is_a_heartbeat(dialect: str) -> None:
    assert Heartbeat() == seen(CAMERAS[dialect](Shot(state="inactive", at=NOW)))


def test_a_terminal_tells_faces_from_cards() -> None:
    face, card = seen(cameras.terminal("C-1", serial=7)), seen(cameras.terminal("C-1", card="998", minor=1))
    assert isinstance(face, VisitorSeen)
    assert isinstance(card, VisitorSeen)
    assert ("C-1", True, "C-1", "998", False) == (face.employee, face.face, card.employee, card.code, card.face)
    # 76: compared and not the same.
    assert Heartbeat("other_event") == seen(cameras.terminal("C-1", minor=76))


def alert(inner: str, head: str = "") -> bytes:
    return f"{head}<EventNotificationAlert><eventType>ANPR</eventType>{inner}</EventNotificationAlert>".encode()


XML_BOMB = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
HOSTILE = {
    "entities": (alert("<licensePlate>&b;</licensePlate>", XML_BOMB), "text/xml"),
    "external entity": (alert("&x;", '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'), "text/xml"),
    "not closed": (b"<EventNotificationAlert>", "text/xml"),
    "another root": (b"<a/>", "text/xml"),
    "no encoding": (b'<?xml version="1.0" encoding="nosuch"?><a>\xff\xff</a>', "text/xml"),
    "a codec that is none": (b'<?xml version="1.0" encoding="hex"?><a/>', "text/xml"),
    "huge text": (b"<a>" + b"x" * 300_000, "text/xml"),
    "nan": (alert("<licensePlate>x</licensePlate><confidenceLevel>nan</confidenceLevel>"), "text/xml"),
    "a long number": (alert(f"<confidenceLevel>{'9' * 5000}</confidenceLevel>"), "text/xml"),
    "infinite": (b'{"eventType":"ANPR","ANPR":{"confidenceLevel":1e999}}', "application/json"),
    "digits without end": (b'{"Picture":{"Plate":{"Confidence":' + b"1" * 300_000 + b"}}}", "application/json"),
    "wrong types": (b'{"Picture":{"Plate":[]}}', "application/json"),
    "plate is an object": (b'{"Picture":{"Plate":{"PlateNumber":{}}}}', "application/json"),
    "a list": (b"[1]", "application/json"),
    "deep": (b'{"Picture":' + b"[" * 100_000, "application/json"),
    "cut off": (b'{"Picture":{"Plate":{"PlateNumber":"', "application/json"),
    "lone surrogate": (b'{"eventType":"\\ud800"}', "application/json"),
    "neither": (b"hello", "text/plain"),
    "binary": (bytes(range(256)), "application/octet-stream"),
    "no boundary": (b"x" * 1000, "multipart/form-data"),
    "another boundary": (b"y\r\nz", "multipart/form-data; boundary=x"),
    "headers without end": (b"--x\r\n" + b"a: b\r\n" * 5000, "multipart/form-data; boundary=x"),
    "parts without end": (b"--x\r\na: b\r\n\r\n\r\n" * 5000, "multipart/form-data; boundary=x"),
    "text without end": (b"--x\r\na: b\r\n\r\n" + b"t" * 300_000, "multipart/form-data; boundary=x"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_posts_are_refused_by_the_field(what: str) -> None:
    body, content_type = HOSTILE[what]
    with pytest.raises(Unreadable) as refused:
        seen(Post(body, content_type), range(0, len(body), 777))
    assert refused.value.field


@pytest.mark.parametrize("query", ["licensePlate=%ff%ff%ff", "&".join(f"a{n}=1" for n in range(300))])
def test_hostile_queries_are_refused(query: str) -> None:
    with pytest.raises(Unreadable):
        seen(Post(b"", "", query=query))


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=400),
        st.binary(max_size=200).map(lambda tail: b"--x\r\n" + tail),
        st.text(max_size=200).map(alert),
        st.recursive(st.none() | st.floats() | st.text(), lambda each: st.dictionaries(st.text(), each), max_leaves=8).map(
            lambda value: json.dumps({"Picture": {"Plate": value, "SnapInfo": value}}).encode()
        ),
    ),
    st.sampled_from(["multipart/form-data; boundary=x", "application/json", "text/xml", ""]),
)
def test_rubbish_is_read_or_refused_and_nothing_else(body: bytes, content_type: str) -> None:
    with suppress(Unreadable):
        seen(Post(body, content_type))


def test_clocks_that_are_wrong_are_not_believed() -> None:
    second = timedelta(seconds=1)
    assert NOW - 30 * second == happened(NOW - 30 * second, NOW)
    # A second ahead is the network; nothing has happened that is still to come.
    assert NOW == happened(NOW + second, NOW)
    wrong = [None, NOW + 3600 * second, NOW - 8 * 3600 * second, datetime(1970, 1, 1, tzinfo=UTC)]
    assert [NOW] * 4 == [happened(at, NOW) for at in wrong]
    kept = NOW - timedelta(hours=8)
    assert (kept, NOW) == (happened(kept, NOW, late=True), happened(NOW - timedelta(days=3), NOW, late=True))
