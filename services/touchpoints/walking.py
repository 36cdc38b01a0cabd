"""`troika walk`: one made-up person goes through a running installation and is erased again; `helm test` runs it.

A verb of touchpoints because an image must have it: it speaks as a source and as the operator, by doors that are open to them.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc
import httpx
import orjson
from troika.identity.v1 import vault_service_pb2 as vault
from troika.identity.v1.events_pb2 import ENTITY_KIND_PERSON
from troika.identity.v1.identity_service_pb2 import IdentifierRef, ResolveIdentifiersRequest
from troika.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from troika.identity.v1.vault_service_pb2_grpc import VaultServiceStub
from troika.orchestrator.v1.orchestrator_service_pb2 import ListThemesRequest
from troika.orchestrator.v1.orchestrator_service_pb2_grpc import OrchestratorServiceStub
from troika.scoring.v1.model_service_pb2 import ListModelsRequest
from troika.scoring.v1.model_service_pb2_grpc import ModelServiceStub
from troika.tags.v1.tags_service_pb2 import GetProfileRequest
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceStub
from troika.touchpoints.v1 import touchpoints_service_pb2 as pb
from troika.touchpoints.v1.touchpoints_service_pb2_grpc import TouchpointsServiceStub

from chassis import rpc
from chassis.run import PlainVerb
from chassis.tls import Certificates

SERVICES: Final = ("identity", "tags", "scoring", "orchestrator", "touchpoints")
SOURCE: Final = "helm_test"
TIMEOUT_S: Final = 10.0
PATIENCE_S: Final = 60.0
EVERY_S: Final = 0.2

Answer = TypeVar("Answer")


class StuckError(RuntimeError):
    """A step that did not come about; the message names it."""


def channel_to(service: str) -> grpc.aio.Channel:
    """As the environment says: TROIKA_<SERVICE>_TARGET; a certificate in TROIKA_TLS_FOLDER, or TROIKA_TOKEN (CALLER.SECRET),
    with TROIKA_AUTHORITIES by TLS."""
    target = os.environ[f"TROIKA_{service.upper()}_TARGET"]
    if folder := os.environ.get("TROIKA_TLS_FOLDER"):
        return rpc.connect(target, "", "", Certificates(folder))
    caller, _, secret = os.environ.get("TROIKA_TOKEN", "").strip().partition(".")
    authorities = os.environ.get("TROIKA_AUTHORITIES", "")
    return rpc.connect(target, caller, secret, authorities=Path(authorities).read_bytes() if authorities else b"")


@asynccontextmanager
async def _doors() -> AsyncIterator[dict[str, grpc.aio.Channel]]:
    channels = {service: channel_to(service) for service in SERVICES}
    try:
        yield channels
    finally:
        for channel in channels.values():
            await channel.close()


async def _until(step: str, look: Callable[[], Awaitable[Answer]]) -> Answer:
    """What it gives as soon as that is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not (seen := await look()):
        if time.monotonic() > deadline:
            raise StuckError(f"{step} did not happen within {PATIENCE_S:.0f} s")
        await asyncio.sleep(EVERY_S)
    _say(step)
    return seen


def _say(step: str) -> None:
    sys.stdout.write(f"ok  {step}\n")
    sys.stdout.flush()


async def walk(door: str) -> None:
    """Event in, identity, tags, the others' answers; erased at the end, whatever happened before."""
    name = uuid.uuid4().hex
    async with _doors() as channels, httpx.AsyncClient(base_url=door, timeout=TIMEOUT_S, trust_env=False) as http:
        identity: Any = IdentityServiceStub(channels["identity"])
        tags: Any = TagsServiceStub(channels["tags"])
        touchpoints: Any = TouchpointsServiceStub(channels["touchpoints"])
        models: Any = ModelServiceStub(channels["scoring"])
        themes: Any = OrchestratorServiceStub(channels["orchestrator"])
        source = pb.Source(name=SOURCE, user_id_kind=pb.USER_ID_KIND_CRM_ID)
        key = (await touchpoints.CreateSource(pb.CreateSourceRequest(source=source), timeout=TIMEOUT_S)).write_key
        event = {
            "type": "track",
            "event": "Page Viewed",
            "messageId": name,
            "userId": name,
            "timestamp": datetime.now(UTC).isoformat(),
        }
        headers = {"authorization": "Basic " + base64.b64encode(f"{key}:".encode()).decode()}

        async def accepted() -> bool:
            # The new key is known to every door within two seconds.
            answer = await http.post("/v1/batch", content=orjson.dumps({"batch": [event]}), headers=headers)
            if answer.status_code not in (200, 401):
                raise StuckError(f"the door answered {answer.status_code}")
            return answer.status_code == 200

        async def known() -> int:
            asked = ResolveIdentifiersRequest(identifiers=[IdentifierRef(kind="crm_id", scope=SOURCE, value=name)])
            return int((await identity.ResolveIdentifiers(asked, timeout=TIMEOUT_S)).entity_ids[0])

        async def tagged() -> bool:
            asked = GetProfileRequest(entity_kind=ENTITY_KIND_PERSON, entity_id=person)
            try:
                return bool((await tags.GetProfile(asked, timeout=TIMEOUT_S)).tags)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
                return False

        await _until("a door took an event", accepted)
        person = await _until("identity knows who it was", known)
        try:
            await _until("tags say what is true of them", tagged)
            await models.ListModels(ListModelsRequest(), timeout=TIMEOUT_S)
            _say("scoring answers")
            await themes.ListThemes(ListThemesRequest(), timeout=TIMEOUT_S)
            _say("orchestrator answers")
        finally:
            erasing: Any = VaultServiceStub(channels["identity"])
            request = vault.ErasePersonRequest(person_id=person, request_id=f"walk-{name}", reason="a test of the installation")
            await erasing.ErasePerson(request, timeout=TIMEOUT_S)
            _say("the person is erased")


def _run(flags: argparse.Namespace) -> int:
    try:
        asyncio.run(walk(flags.door))
    except grpc.aio.AioRpcError as error:
        sys.stderr.write(f"{error.code().name}: {error.details()}\n")
        return 1
    except (StuckError, httpx.HTTPError) as error:
        sys.stderr.write(f"{str(error) or type(error).__name__}\n")
        return 1
    return 0


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--door", required=True, help="address of the public HTTP doors, as http://troika-touchpoints-web")


VERBS = (PlainVerb("walk", "send one made-up person through a running installation and erase them again", _run, _arguments),)
