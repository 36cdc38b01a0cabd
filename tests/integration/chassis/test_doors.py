"""The gRPC gate and the HTTP frame: who may come in, and what callers see when something is wrong."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
from fastapi import FastAPI, Request
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from troika.orchestrator.v1 import orchestrator_service_pb2 as orchestrator
from troika.tags.v1 import tags_service_pb2 as pb
from troika.tags.v1 import tags_service_pb2_grpc as stubs

from chassis import rpc, web
from chassis.errors import InvalidArgument, NotFound, ResourceExhausted, Unavailable

SERVICE = "troika.tags.v1.TagsService"
SECRET = "a secret that is long enough"


class Tags(stubs.TagsServiceServicer):
    """Answers by what the predicate says."""

    async def CountAudience(self, request: Any, context: Any) -> pb.CountAudienceResponse:  # noqa: N802
        match request.predicate:
            case "missing":
                raise NotFound("no such tag", field="predicate")
            case "bug":
                raise ZeroDivisionError("13800138000")
            case "down":
                raise ConnectionRefusedError
        return pb.CountAudienceResponse(count=7)

    async def StreamAudience(self, request: Any, context: Any) -> AsyncIterator[pb.StreamAudienceResponse]:  # noqa: N802
        yield pb.StreamAudienceResponse(entity_ids=[1, 2])
        if request.predicate == "missing":
            raise NotFound("no such tag", field="predicate")


@pytest.fixture
async def address() -> AsyncIterator[str]:
    hashes = {name: hashlib.sha256(SECRET.encode()).hexdigest() for name in ("scoring", "identity")}
    server = rpc.Server(hashes, {SERVICE: frozenset({"scoring"})}, with_reflection=True)
    stubs.add_TagsServiceServicer_to_server(Tags(), server.aio)
    port = await server.start("127.0.0.1:0")
    yield f"127.0.0.1:{port}"
    await server.stop(0)


async def count(address: str, caller: str = "scoring", secret: str = SECRET, **request: Any) -> pb.CountAudienceResponse:
    async with rpc.connect(address, caller, secret) as channel:
        request = {"entity_kind": 1} | request
        answer: pb.CountAudienceResponse = await stubs.TagsServiceStub(channel).CountAudience(
            pb.CountAudienceRequest(**request)
        )
        return answer


async def refused(address: str, **arguments: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await count(address, **arguments)
    return caught.value


async def test_a_listed_caller_with_its_token_comes_in(address: str) -> None:
    assert 7 == (await count(address)).count


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"secret": "another secret that is long"}, grpc.StatusCode.UNAUTHENTICATED),
        ({"caller": "nobody"}, grpc.StatusCode.UNAUTHENTICATED),
        ({"caller": "identity"}, grpc.StatusCode.PERMISSION_DENIED),
    ],
)
async def test_nobody_else_does(address: str, arguments: dict[str, str], code: grpc.StatusCode) -> None:
    error = await refused(address, **arguments)
    assert code == error.code()
    assert "authorization" == rpc.reason_of(error)[1]


async def test_a_field_at_fault_is_named_with_rich_details(address: str) -> None:
    error = await refused(address, predicate="missing")
    assert grpc.StatusCode.NOT_FOUND == error.code()
    bad = error_details_pb2.BadRequest()
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None
    assert any(detail.Unpack(bad) for detail in status.details)
    assert "predicate" == bad.field_violations[0].field


async def test_rules_of_the_proto_are_checked_before_the_handler(address: str) -> None:
    error = await refused(address, entity_kind=0)
    assert (grpc.StatusCode.INVALID_ARGUMENT, "entity_kind") == (error.code(), rpc.reason_of(error)[1])


def test_text_with_a_nul_is_refused_wherever_it_stands() -> None:
    theme = orchestrator.Theme(
        title="t",
        audience="x",
        goal=orchestrator.Goal(event="e\0", window_days=1),
        offers=["offers/1"],
        language="en",
        purpose="service",
        bands=[orchestrator.ScoreBand(channels=["app"])],
        budget=orchestrator.Budget(max_contacts=1),
        model="m",
    )
    with pytest.raises(InvalidArgument) as caught:
        rpc.validate(orchestrator.CreateThemeRequest(theme=theme))
    assert ("NUL_CHARACTER", "theme.goal.event") == (caught.value.reason, caught.value.field)


async def test_a_bug_shows_nothing_of_itself(address: str) -> None:
    error = await refused(address, predicate="bug")
    assert (grpc.StatusCode.INTERNAL, "internal error") == (error.code(), error.details())


async def test_a_dead_dependency_asks_to_try_again(address: str) -> None:
    assert grpc.StatusCode.UNAVAILABLE == (await refused(address, predicate="down")).code()


async def test_an_error_in_the_middle_of_a_stream_is_typed_too(address: str) -> None:
    async with rpc.connect(address, "scoring", SECRET) as channel:
        stream = stubs.TagsServiceStub(channel).StreamAudience(pb.StreamAudienceRequest(entity_kind=1, predicate="missing"))
        chunks: list[list[int]] = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for chunk in stream:
                chunks.append(list(chunk.entity_ids))
    assert [[1, 2]] == chunks
    assert ("NOT_FOUND", "predicate") == rpc.reason_of(caught.value)


async def test_health_answers_without_a_token(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE))
    assert health_pb2.HealthCheckResponse.SERVING == answer.status


async def down() -> None:
    raise ConnectionRefusedError


@pytest.fixture
async def site() -> AsyncIterator[httpx.AsyncClient]:
    app: FastAPI = web.new_app("test", {"postgres": down})

    @app.post("/read")
    async def read(request: Request) -> dict[str, int]:
        return {"size": len(await web.read_body(request, 10))}

    @app.get("/error/{name}")
    async def error(name: str) -> None:
        raise {"busy": ResourceExhausted("busy"), "down": Unavailable("down"), "bug": ZeroDivisionError("x")}[name]

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_readyz_names_what_is_down(site: httpx.AsyncClient) -> None:
    answer = await site.get("/readyz")
    assert (503, {"postgres": "ConnectionRefusedError"}) == (answer.status_code, answer.json()["down"])
    assert 200 == (await site.get("/livez")).status_code


@pytest.mark.parametrize(("name", "status"), [("busy", 429), ("down", 503), ("bug", 500)])
async def test_http_errors_have_a_code_and_a_message(site: httpx.AsyncClient, name: str, status: int) -> None:
    answer = await site.get(f"/error/{name}")
    assert status == answer.status_code
    assert {"code", "message"} == set(answer.json())
    assert (status in (429, 503)) == ("retry-after" in answer.headers)


async def test_a_body_over_the_limit_is_refused_by_name(site: httpx.AsyncClient) -> None:
    answer = await site.post("/read", content=b"x" * 11)
    assert (400, "payload_too_large", "body") == (answer.status_code, answer.json()["code"], answer.json()["field"])


async def test_an_unknown_path_is_a_typed_404(site: httpx.AsyncClient) -> None:
    answer = await site.get("/nowhere")
    assert (404, "not_found") == (answer.status_code, answer.json()["code"])


async def test_a_client_that_hangs_up_is_no_error_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    app = web.new_app("test", {})
    sent: list[Any] = []

    @app.post("/slow")
    async def slow(request: Request) -> dict[str, int]:
        return {"size": len(await web.read_body(request, 100))}

    async def hang_up() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def collect(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/slow", "headers": [], "query_string": b"", "http_version": "1.1"}
    await app(scope, hang_up, collect)
    assert 499 == sent[0]["status"]
    assert [] == [record for record in caplog.records if record.levelname == "ERROR"]
