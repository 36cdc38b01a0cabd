"""What the way in is compared with: FastAPI reads the bytes, JetStream has them, the answer goes out. `NATS_URL PORT`."""

from __future__ import annotations

import sys

import nats
import orjson
import uvicorn
import uvloop
from fastapi import FastAPI, Request, Response

SUBJECT = "bench.events"


async def serve(nats_url: str, port: int) -> None:
    """Until it is ended."""
    bus = await nats.connect(nats_url)
    js = bus.jetstream()
    await js.add_stream(name="BENCH", subjects=[SUBJECT])
    app = FastAPI()

    async def take(request: Request) -> Response:
        body = await request.body()
        orjson.loads(body)
        await js.publish(SUBJECT, body)
        return Response(b'{"success":true}', media_type="application/json")

    for path in ("/v1/batch", "/v1/track"):
        app.add_api_route(path, take, methods=["POST"], response_model=None)
    await uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, log_level="warning", access_log=False)).serve()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
