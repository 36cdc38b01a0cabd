"""Nobody makes us call into our own network: by no address, however it is written, by no name, whenever it is resolved."""

from __future__ import annotations

import socket

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given, settings
from hypothesis import strategies as st

from services.touchpoints.channels.http import Answer, Caller, ForbiddenAddress, PublicOnly, forbidden, is_public
from services.touchpoints.domain.deliveries import Refused, Retry

INWARD = [
    "https://127.0.0.1/hook",
    "https://127.1/hook",
    "https://127.0.0.1./hook",
    "https://2130706433/hook",
    "https://0x7f000001/hook",
    "https://0x7f.0.0.1/hook",
    "https://127.0.0.0x1/hook",
    "https://0177.0.0.1/hook",
    "https://017700000001/hook",
    "https://10.1.2.3/hook",
    "https://169.254.169.254/latest/meta-data",
    "https://100.64.0.1/hook",
    "https://0.0.0.0/hook",
    "https://255.255.255.255/hook",
    "https://224.0.0.1/hook",
    "https://[::1]/hook",
    "https://[::]/hook",
    "https://[fe80::1%25eth0]/hook",
    "https://[fc00::1]/hook",
    "https://[ff02::1]/hook",
    "https://[::ffff:127.0.0.1]/hook",
    "https://[::ffff:7f00:1]/hook",
    "https://[::127.0.0.1]/hook",
    "https://[64:ff9b::7f00:1]/hook",
    "https://[2002:7f00:1::]/hook",
    "https://[2001:0:7f00:1::]/hook",
]
UNREADABLE = [
    "http://dealer.example/hook",
    "ftp://dealer.example/hook",
    "//dealer.example/hook",
    "https:///hook",
    "https://user@dealer.example/hook",
    "https://user:word@dealer.example/hook",
    "https://@dealer.example/hook",
    "https://dealer.example\\@127.0.0.1/hook",
    "https://dealer.example:22/hook",
    "https://dealer.example:25/hook",
    "https://dealer.example:99999/hook",
    "https://dealer.example:x/hook",
    "https://dealer。example/hook",
    "https://１２７.0.0.1/hook",
    "https://①②⑦.0.0.1/hook",
    "https://dealer.example\t/hook",
    "https://[::1/hook",
    "javascript:alert(1)",
    "",
]


@pytest.mark.parametrize("url", INWARD + UNREADABLE)
def test_an_address_that_leads_inward_or_is_unclear_is_refused(url: str) -> None:
    assert forbidden(url, allow_private=False)


@pytest.mark.parametrize(
    "url",
    [
        "https://dealer.example/hook?a=b",
        "https://dealer.example:443/hook",
        "https://dealer.example:8443/hook",
        "https://DEALER.example/Hook",
        "https://8.8.8.8/hook",
        "https://[2606:4700::1111]/hook",
        "https://xn--fiq228c.example/hook",
        "https://1and1.example/hook",
    ],
)
def test_a_public_address_is_allowed(url: str) -> None:
    assert "" == forbidden(url, allow_private=False)


@given(st.ip_addresses(v=4))
@settings(max_examples=60)
def test_an_address_within_another_is_as_private_as_that(inner: object) -> None:
    packed = int(inner)  # type: ignore[call-overload]
    for outer in (
        f"::ffff:{inner}",
        f"64:ff9b::{packed >> 16:x}:{packed & 65535:x}",
        f"2002:{packed >> 16:x}:{packed & 65535:x}::",
    ):
        assert is_public(str(inner)) or not is_public(outer)


class Turning(AbstractResolver):
    """A name server that changes its mind after the first question."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        given = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0) for address in given]

    async def close(self) -> None:
        pass


async def test_a_name_is_checked_each_time_it_is_resolved_and_with_all_its_addresses() -> None:
    turning = PublicOnly(Turning(["8.8.8.8"], ["127.0.0.1"]))
    assert ["8.8.8.8"] == [found["host"] for found in await turning.resolve("rebind.example")]
    with pytest.raises(ForbiddenAddress):
        await turning.resolve("rebind.example")
    with pytest.raises(ForbiddenAddress):
        await PublicOnly(Turning(["8.8.8.8", "::ffff:10.0.0.1"])).resolve("both.example")


async def test_a_name_of_this_machine_is_not_called() -> None:
    caller = Caller(2.0, allow_private=False)
    try:
        assert Refused("forbidden_address", mendable=True) == await caller.post("https://127.0.0.1:8443/", b"", {})
        assert isinstance(await caller.post("https://localhost:8443/", b"", {}), Retry)
    finally:
        await caller.close()


async def test_a_redirect_inward_is_not_followed() -> None:
    reached: list[str] = []

    async def turn(request: web.Request) -> web.Response:
        reached.append(request.path)
        return web.Response(status=307, headers={"Location": "/inside"})

    app = web.Application()
    app.add_routes([web.post("/{way}", turn)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    caller = Caller(2.0, allow_private=True)
    try:
        answer = await caller.post(f"http://127.0.0.1:{runner.addresses[0][1]}/hook", b"{}", {})
    finally:
        await caller.close()
        await runner.cleanup()
    assert isinstance(answer, Answer)
    assert (307, ["/hook"]) == (answer.status, reached)
