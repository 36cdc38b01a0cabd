"""The service as it is run: its own process, killed in the middle of a training."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import orjson
from troika.scoring.v1 import model_service_pb2 as pb
from troika.scoring.v1.model_service_pb2_grpc import ModelServiceStub
from troika.scoring.v1.scoring_service_pb2 import ScorePersonsRequest
from troika.scoring.v1.scoring_service_pb2_grpc import ScoringServiceStub

from chassis import rpc
from chassis.bus import Bus
from chassis.testing import DatabaseFactory
from local.data.bank_marketing import Contacts
from tests.conftest import Servers
from tests.integration.scoring.conftest import MODEL
from tests.integration.scoring.tags_port import CUT, FEATURES, GOAL, HASHES, TOKEN, TagsPort, serving


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@asynccontextmanager
async def process(environment: Mapping[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    running = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.scoring", "serve", env=environment)
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()


async def state(stub: ModelServiceStub, operation_id: int) -> pb.Operation:
    asked = pb.GetOperationRequest(operation_id=operation_id)
    return (await stub.GetOperation(asked, timeout=60, wait_for_ready=True)).operation


async def test_a_training_whose_process_is_killed_goes_on_in_the_next_and_sigterm_ends_it_well(
    servers: Servers, databases: DatabaseFactory, bus: Bus, contacts: Contacts
) -> None:
    dsn, _ = await databases.address("scoring")
    first_row = len(contacts) - 1500
    port = TagsPort.of(contacts, range(first_row, len(contacts)), range(first_row, first_row + 1000))
    async with serving(port) as tags_target:
        grpc_port = free_port()
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((".", "gen")),
            "TROIKA_POSTGRES_DSN": dsn,
            "TROIKA_NATS_URL": servers.nats_url,
            "TROIKA_GRPC_PORT": str(grpc_port),
            "TROIKA_HTTP_PORT": str(free_port()),
            "TROIKA_CALLER_TOKEN": TOKEN,
            "TROIKA_CALLER_TOKEN_SHA256": orjson.dumps(HASHES).decode(),
            "TROIKA_TAGS_TARGET": tags_target,
            "TROIKA_MODEL_SIGNING_KEY": "k" * 32,
            "TROIKA_CALLERS": '["scoring"]',
            "TROIKA_MODEL_CALLERS": '["scoring"]',
            "TROIKA_OPERATION_LEASE_S": "2",
            "TROIKA_RESCORE_DELAY_S": "0.1",
        }
        channel = rpc.connect(f"127.0.0.1:{grpc_port}", "scoring", TOKEN)
        stub, models = ScoringServiceStub(channel), ModelServiceStub(channel)
        asked = pb.TrainModelRequest(model=MODEL, cut_predicate=CUT, goal_predicate=GOAL, features=FEATURES)
        async with process(environment) as first:
            training = (await models.TrainModel(asked, timeout=60, wait_for_ready=True)).operation
            while training.progress < 0.1:
                assert pb.OPERATION_STATE_RUNNING == training.state
                await asyncio.sleep(0.02)
                training = await state(models, training.operation_id)
            first.send_signal(signal.SIGKILL)
        async with process(environment) as second:
            async with asyncio.timeout(120):
                while pb.OPERATION_STATE_RUNNING == (training := await state(models, training.operation_id)).state:
                    await asyncio.sleep(0.1)
            assert (pb.OPERATION_STATE_SUCCEEDED, 1, 1500) == (training.state, training.model_version, training.persons_scored)
            answer = await stub.ScorePersons(ScorePersonsRequest(model=MODEL, person_ids=list(port.persons)))
            assert min(answer.scores) > 0
            second.send_signal(signal.SIGTERM)
            async with asyncio.timeout(30):
                assert 0 == await second.wait()
        await channel.close()
