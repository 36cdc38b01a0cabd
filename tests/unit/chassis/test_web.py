"""What a web app logs of requests that fail."""

from __future__ import annotations

import logging

import httpx
import pytest

from chassis.web import new_app


async def test_a_bug_is_logged_with_the_pattern_of_its_route_and_no_token(caplog: pytest.LogCaptureFixture) -> None:
    app = new_app("test", {})

    @app.get("/contacts/{token}")
    async def contact(token: str) -> None:
        raise KeyError("a bug")

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        with caplog.at_level(logging.ERROR):
            assert 500 == (await client.get("/contacts/a-secret-token")).status_code
    [record] = [record for record in caplog.records if record.name == "chassis.web"]
    assert "/contacts/{token}" == vars(record)["path"]
