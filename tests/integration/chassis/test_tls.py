"""Mutual TLS: the certificate says who calls, and nobody has to restart for a new one."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from troika.tags.v1 import tags_service_pb2 as pb
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceServicer, TagsServiceStub, add_TagsServiceServicer_to_server

from chassis import rpc, terminal
from chassis.tls import Certificates
from local.authority import Authority
from local.embedded import free_port

SERVICE = "troika.tags.v1.TagsService"
SECRET = "operator-secret-of-some-length"


class Tags(TagsServiceServicer):
    """Says who asked; waits when it is asked to."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def ListTags(self, request: pb.ListTagsRequest, context: grpc.aio.ServicerContext) -> pb.ListTagsResponse:  # type: ignore[type-arg]  # noqa: N802
        if request.page_token == "wait":
            await self.go_on.wait()
        return pb.ListTagsResponse(next_page_token=rpc.caller_of(context))


class House:
    def __init__(self, folder: Path) -> None:
        self.folder, self.authority, self.tags = folder, Authority(), Tags()
        self.issue("tags")

    def issue(self, caller: str, by: Authority | None = None) -> str:
        return str((by or self.authority).issue(self.folder / caller, caller))

    @asynccontextmanager
    async def channel(self, port: int, folder: str, token: str = "") -> AsyncIterator[TagsServiceStub]:
        certificates = Certificates(folder, look_s=0)
        async with rpc.connect(f"127.0.0.1:{port}", "operator", token, certificates) as channel:
            yield TagsServiceStub(channel)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@asynccontextmanager
async def serving(house: House, token_port: int = 0, age_s: float = rpc.CONNECTION_AGE_S) -> AsyncIterator[int]:
    hashes = {"operator": sha256(SECRET.encode()).hexdigest(), "scoring": sha256(b"x").hexdigest()}
    server = rpc.Server(hashes, {SERVICE: frozenset({"scoring", "operator"})}, with_reflection=False, connection_age_s=age_s)
    add_TagsServiceServicer_to_server(house.tags, server.aio)
    tokens = f"127.0.0.1:{token_port}" if token_port else ""
    yield await server.start("127.0.0.1:0", Certificates(str(house.folder / "tags"), look_s=0), tokens)
    await server.stop(0)


async def ask(stub: TagsServiceStub, token: str = "") -> str:
    return (await stub.ListTags(pb.ListTagsRequest(page_token=token), timeout=3, wait_for_ready=False)).next_page_token


async def test_who_calls_is_who_the_certificate_names(house: House) -> None:
    async with serving(house) as port:
        # The token says otherwise, and nobody asks it.
        async with house.channel(port, house.issue("scoring"), SECRET) as stub:
            assert "scoring" == await ask(stub)
        async with house.channel(port, house.issue("identity"), SECRET) as stub:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(stub)
            assert grpc.StatusCode.PERMISSION_DENIED == refused.value.code()


async def test_without_a_certificate_of_ours_nobody_comes_in(house: House) -> None:
    async with serving(house) as port:
        strange = Authority()
        house.issue("stranger", strange)
        (house.folder / "stranger" / "ca.crt").write_bytes(house.authority.certificate)
        async with house.channel(port, str(house.folder / "stranger"), SECRET) as stub:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(stub)
            assert grpc.StatusCode.UNAVAILABLE == refused.value.code()
        async with rpc.connect(f"127.0.0.1:{port}", "operator", SECRET) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as plain:
                await ask(TagsServiceStub(channel))
            assert grpc.StatusCode.UNAVAILABLE == plain.value.code()


async def test_from_outside_a_token_is_shown_over_tls(house: House) -> None:
    port = free_port()
    async with serving(house, port):
        credentials = grpc.ssl_channel_credentials(house.authority.certificate)
        for secret, code in ((SECRET, None), ("wrong", grpc.StatusCode.UNAUTHENTICATED)):
            metadata = grpc.aio.Metadata(("authorization", f"Bearer operator.{secret}"))
            async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
                call = TagsServiceStub(channel).ListTags(pb.ListTagsRequest(), metadata=metadata, timeout=3)
                if code is None:
                    assert "operator" == (await call).next_page_token
                else:
                    with pytest.raises(grpc.aio.AioRpcError) as refused:
                        await call
                    assert code == refused.value.code()


async def test_certificates_are_renewed_without_a_restart_and_calls_under_way_end_well(house: House) -> None:
    async with serving(house) as port, house.channel(port, house.issue("scoring")) as stub:
        waiting = asyncio.create_task(ask(stub, "wait"))
        await asyncio.sleep(0.05)
        # A new authority for all: both sides must read their files again to understand each other.
        house.authority = Authority()
        house.issue("tags")
        house.issue("scoring")
        assert "scoring" == await ask(stub)
        house.tags.go_on.set()
        assert "scoring" == await waiting


async def test_connections_end_and_no_call_notices(house: House) -> None:
    """So that clients look for new pods; one that is under way ends on its old connection."""
    peers = set()

    async def listed(request: pb.ListTagsRequest, context: grpc.aio.ServicerContext) -> pb.ListTagsResponse:  # type: ignore[type-arg]
        peers.add(context.peer())
        return await Tags.ListTags(house.tags, request, context)

    house.tags.ListTags = listed  # type: ignore[method-assign]
    async with serving(house, age_s=0.1) as port, house.channel(port, house.issue("scoring")) as stub:
        waiting = asyncio.create_task(ask(stub, "wait"))
        async with asyncio.timeout(20):
            while len(peers) < 4:
                assert "scoring" == await ask(stub)
        house.tags.go_on.set()
        assert "scoring" == await waiting


def test_half_of_a_renewal_is_no_renewal(house: House) -> None:
    certificates = Certificates(house.issue("scoring"), look_s=0)
    before = certificates.pems
    other = Authority().issue(house.folder / "other", "scoring")
    (house.folder / "scoring" / "tls.key").write_bytes((other / "tls.key").read_bytes())
    assert not certificates.renewed()
    assert before == certificates.pems
    (house.folder / "scoring" / "tls.crt").write_bytes((other / "tls.crt").read_bytes())
    assert certificates.renewed()
    (house.folder / "scoring" / "tls.crt").unlink()
    assert not certificates.renewed()


def test_a_folder_without_certificates_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tls\.key"):
        Certificates(str(tmp_path))


def test_a_certificate_tells_when_it_ends(house: House) -> None:
    folder = Path(house.issue("scoring"))
    ends = x509.load_pem_x509_certificate((folder / "tls.crt").read_bytes()).not_valid_after_utc
    assert ends.timestamp() == Certificates(str(folder)).ends_s()


async def test_who_asks_from_a_terminal_shows_a_certificate_also_through_a_forwarded_port(
    house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    terminal.door_arguments(parser, "tags", 7002)

    async def use(channel: grpc.aio.Channel) -> int:
        sys.stdout.write((await TagsServiceStub(channel).ListTags(pb.ListTagsRequest(), timeout=5)).next_page_token)
        return 0

    async def asked(*words: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(terminal.ask, parser.parse_args(["--target", f"127.0.0.1:{port}", *words]), "tags", use)
        said = capsys.readouterr()
        return code, said.out, said.err.partition(":")[0]

    async with serving(house) as port:
        monkeypatch.setenv("TROIKA_TLS_FOLDER", house.issue("operator"))
        assert (0, "operator", "") == await asked()
        assert (0, "operator", "") == await asked("--server-name", "localhost")
        assert (1, "") == (await asked("--server-name", "elsewhere"))[:2]
        monkeypatch.setenv("TROIKA_TLS_FOLDER", str(house.folder / "nobody"))
        assert (1, "", "CERTIFICATE_NOT_READ") == await asked()
