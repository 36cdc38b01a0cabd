"""What is only meant to hurt, at every door that takes a body: a typed refusal, nobody held up, and memory as it was.

The doors are those of the OpenAPI document: a new one is attacked by being described.
"""

from __future__ import annotations

import asyncio
import gzip
import re
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from local.supervisor import Suite
from tests.contract.test_http_doors import DOCUMENT, SENSORS, key

__all__ = ["key"]

# Everything that takes a body, however it is sent.
DOORS = sorted((p, m) for p, methods in DOCUMENT["paths"].items() for m, said in methods.items() if "requestBody" in said)
GIANT = b"1" * 900_000
XML = b'<?xml version="1.0"?>'
LAUGHS = (
    XML
    + b"<!DOCTYPE l [<!ENTITY a0 'ha'>"
    + b"".join(b"<!ENTITY a%d '%s'>" % (n, b"&a%d;" % (n - 1) * 10) for n in range(1, 10))
    + b"]><adf><prospect>&a9;</prospect></adf>"
)
OUTSIDE = (
    XML
    + b'<!DOCTYPE a [<!ENTITY % x SYSTEM "http://127.0.0.1:1/x"> %x; <!ENTITY b SYSTEM "file:///etc/passwd">]><xml>&b;</xml>'
)
# What takes a megabyte compressed is some 900 MB otherwise.
BOMB = gzip.compress(b"[" * 50_000_000, 6)
# A gibibyte in a gibibyte of a gibibyte: each layer looks like the body that is expected.
NESTED_BOMB = gzip.compress(gzip.compress(b"0" * 20_000_000) * 20)
MULTIPART = b"".join(b"--x\r\nContent-Disposition: form-data; name=%d\r\n\r\n1\r\n" % n for n in range(15_000)) + b"--x--\r\n"

FORM = {"content-type": "application/x-www-form-urlencoded"}
DEEP = b'{"a":' * 900 + b"1" + b"}" * 901
BODIES: dict[str, tuple[bytes, dict[str, Any]]] = {
    "nothing": (b"", {}),
    "a gzip bomb": (BOMB, {"content-encoding": "gzip"}),
    "a gzip bomb that does not say so": (BOMB, {}),
    "a bomb in a bomb": (NESTED_BOMB, {"content-encoding": "gzip"}),
    "half a gzip": (gzip.compress(b'{"batch":[]}' * 1000)[:-9], {"content-encoding": "gzip"}),
    "two gzips in one": (gzip.compress(b'{"batch":') + gzip.compress(b"[]}"), {"content-encoding": "gzip"}),
    "gzip with rubbish behind": (gzip.compress(b"{}") + b"\x00" * 1000, {"content-encoding": "gzip"}),
    "no gzip": (b"\x1f\x8b" + b"\xff" * 100, {"content-encoding": "gzip"}),
    "a deflate bomb": (zlib.compress(b"0" * 50_000_000), {"content-encoding": "deflate"}),
    "raw deflate": (zlib.compress(b"{}")[2:-4], {"content-encoding": "deflate"}),
    "an encoding nobody knows": (b"{}", {"content-encoding": "br, gzip, zstd"}),
    "deep lists": (b"[" * 900_000, {}),
    "deep lists that close": (b"[" * 400_000 + b"]" * 400_000, {}),
    "deep objects": (b'{"batch":[' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"]}", {}),
    "an event that is deep": (b'{"type":"track","event":"E","userId":"u","properties":' + DEEP, {}),
    "a giant number": (b'{"batch":[{"userId":' + GIANT + b"}]}", {}),
    "a giant exponent": (b'{"batch":[{"userId":1e999999999,"timestamp":-1e400}],"time":1e999}', {}),
    "no numbers": (b'{"batch":[{"a":NaN,"b":Infinity}]}', {}),
    "halves of characters": (b'{"batch":[{"type":"track","event":"\\ud800","userId":"\\udfff"}]}', {}),
    "zeros in words": (b'{"batch":[{"type":"track","event":"\\u0000","userId":"\\u0000"}],"event":"\\u0000"}', {}),
    "many equal keys": (b"{" + b'"a":1,' * 100_000 + b'"a":1}', {}),
    "many different keys": (b"{" + b",".join(b'"%d":1' % n for n in range(60_000)) + b"}", {}),
    "no UTF-8": (b'{"batch":[{"userId":"\xff\xfe\x80"}]}', {}),
    "UTF-16": ('{"batch":[]}'.encode("utf-16"), {"content-type": "application/json; charset=utf-16"}),
    "a billion laughs": (LAUGHS, {"content-type": "text/xml"}),
    "entities from outside": (OUTSIDE, {"content-type": "text/xml"}),
    "deep XML": (b"<a>" * 250_000, {"content-type": "text/xml"}),
    "wide XML": (b"<adf>" + b"<prospect/>" * 80_000 + b"</adf>", {"content-type": "application/x-adf+xml"}),
    "an XML of attributes": (b"<a " + b" ".join(b'a%d=""' % n for n in range(60_000)) + b"/>", {"content-type": "text/xml"}),
    "a form of many fields": (b"&".join(b"data%d=1" % n for n in range(80_000)), FORM),
    "a form in base64": (b"data=" + b"A" * 900_000, FORM),
    "many parts": (MULTIPART, {"content-type": "multipart/form-data; boundary=x"}),
    "parts without a boundary": (b"--x\r\n", {"content-type": "multipart/mixed"}),
    "a content type that is none": (b"{}", {"content-type": b";;;=\xff"}),
    "too much": (b"x" * 6_000_000, {}),
}  # fmt: skip


def address(path: str) -> str:
    """A door's path with something in its places."""
    return re.sub(r"\{[^}]*\}", "hostile", path)


def attacks() -> Iterator[tuple[tuple[str, str], bytes, dict[str, Any]]]:
    for body, headers in BODIES.values():
        for door in DOORS:
            yield door, body, headers


def explained(answer: httpx.Response) -> bool:
    """Whether a refusal in JSON says what it is."""
    if answer.status_code < 400 or not answer.headers["content-type"].startswith("application/json"):
        return True
    return {"code", "message"} <= set(answer.json())


async def attack(client: httpx.AsyncClient, *keys: str) -> list[str]:
    """All bodies at all doors under each key, "" for none; returns what was answered wrongly."""
    wrong: list[str] = []
    waiting = list(attacks())

    async def attacker() -> None:
        while waiting:
            (door, method), body, headers = waiting.pop()
            for shown in keys:
                query = {"token": shown} if shown and door in SENSORS else {}
                auth = (shown, "") if shown else None
                asked = {"content": body, "headers": headers, "auth": auth, "params": query}
                answer = await client.request(method, address(door), **asked)
                named = next(name for name, (other, _) in BODIES.items() if other is body)
                if answer.status_code >= 500 or 300 <= answer.status_code < 400:
                    wrong.append(f"{door}: {named}: {answer.status_code}")
                elif not explained(answer):
                    wrong.append(f"{door}: {named}: {answer.text[:100]}")

    await asyncio.gather(*(attacker() for _ in range(4)))
    return wrong


def resident_mb(suite: Suite) -> tuple[float, float]:
    """What touchpoints holds now, and the most that it ever held."""
    process = psutil.Process(suite.children["touchpoints"].pid)
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    return process.memory_info().rss / 2**20, int(peak[1]) / 1024 if peak else 0.0


@pytest.fixture(scope="module")
async def client(suite: Suite) -> Any:
    async with httpx.AsyncClient(base_url=suite.url("touchpoints"), timeout=60, trust_env=False) as client:
        yield client


async def taken_in_s(client: httpx.AsyncClient, key: str, message_id: str) -> float:
    """How long a good event takes to be durable."""
    event = {"type": "track", "event": "Model Viewed", "userId": "known", "messageId": message_id}
    begin = time.perf_counter()
    answer = await client.post("/v1/batch", json={"batch": [event]}, auth=(key, ""))
    assert (200, {"success": True}) == (answer.status_code, answer.json())
    return time.perf_counter() - begin


async def test_nothing_that_is_meant_to_hurt_does(suite: Suite, client: httpx.AsyncClient, key: str) -> None:
    pid = suite.children["touchpoints"].pid
    assert [] == await attack(client, key, "")
    held, _ = resident_mb(suite)
    assert [] == await attack(client, key)
    after, peak = resident_mb(suite)
    # It is the same process, holds no more after the second time than after the first, and never held much.
    assert pid == suite.children["touchpoints"].pid
    assert after < held + 48, (held, after)
    assert peak < held + 300, (held, peak)
    assert await taken_in_s(client, key, "hostile-1") < 10


async def test_bodies_that_never_end_hold_nobody_up(suite: Suite, client: httpx.AsyncClient, key: str) -> None:
    host = urlsplit(suite.url("touchpoints"))
    head = '{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{{"batch":['
    stalled = []
    for door, method in DOORS * 4:
        _, writer = await asyncio.open_connection(host.hostname, host.port)
        writer.write(head.format(method=method.upper(), path=address(door)).encode())
        stalled.append(writer)
    chunked = b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n" + b"x" * 1000
    for rubbish in (
        chunked,
        b"POST /v1/batch HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"\x16\x03\x01" + b"\x00" * 500,
        b"\r\n" * 5000,
    ):
        _, writer = await asyncio.open_connection(host.hostname, host.port)
        writer.write(rubbish)
        stalled.append(writer)
    try:
        assert await taken_in_s(client, key, "slow-1") < 10
        assert 200 == (await client.get("/livez")).status_code
    finally:
        for writer in stalled:
            writer.close()
    assert await taken_in_s(client, key, "slow-2") < 10
