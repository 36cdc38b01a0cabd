"""Themes by command: in whatever order somebody gives them, and from the command line."""

from __future__ import annotations

import argparse
import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from troika.orchestrator.v1 import orchestrator_service_pb2 as pb

from services.orchestrator.launching import Launcher
from services.orchestrator.themes import command
from tests.integration.orchestrator.conftest import House
from tests.integration.orchestrator.test_themes import get
from tests.integration.orchestrator.world import SECRET

COMMANDS = ("edit", "submit", "approve", "reject", "launch", "pause", "resume", "work")


@dataclass
class Book:
    """What really happened to one theme, beside what the service says of it."""

    house: House
    name: str
    authors: dict[int, str]
    approved: set[int]

    async def give(self, command: str, me: str, version: int) -> None:
        """Gives a command in somebody's name, whether it is in order or not."""
        stub = self.house.call if me == "operator" else self.house.second
        theme, chosen = await get(self.house, self.name), {"name": self.name, "version": version}
        with suppress(grpc.aio.AioRpcError):
            match command:
                case "edit":
                    theme.title = f"Version {theme.version + 1}"
                    self.authors[(await stub.UpdateTheme(pb.UpdateThemeRequest(theme=theme))).theme.version] = me
                case "approve":
                    after = (await stub.ApproveTheme(pb.ApproveThemeRequest(**chosen))).theme
                    assert me not in (self.authors[after.version], after.review.submitter)
                    self.approved.add(after.version)
                case "submit":
                    await stub.SubmitTheme(pb.SubmitThemeRequest(**chosen))
                case "reject":
                    await stub.RejectTheme(pb.RejectThemeRequest(**chosen, reason="no"))
                case "launch" | "pause" | "resume":
                    verb = command.capitalize()
                    await getattr(stub, f"{verb}Theme")(getattr(pb, f"{verb}ThemeRequest")(name=self.name))
                case _:
                    before = await self.house.decisions(self.name)
                    await Launcher(self.house.room).work_once()
                    assert theme.state == pb.THEME_STATE_RUNNING or before == await self.house.decisions(self.name)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False))
async def test_whatever_is_commanded_only_what_a_second_person_approved_decides(house: House, draw: random.Random) -> None:
    name = await house.make(budget=pb.Budget(max_contacts=20), audience="job = 'student'")
    book = Book(house, name, {1: "operator"}, set())
    for _ in range(25):
        version = max(1, (await get(house, name)).version - draw.choice([0, 0, 0, 1]))
        await book.give(draw.choice(COMMANDS), draw.choice(["operator", "approver"]), version)
        theme = await get(house, name)
        assert max(book.approved, default=0) == theme.approved_version
        assert book.approved or theme.state < pb.THEME_STATE_APPROVED
        if await house.decisions(name):
            assert book.approved and theme.state >= pb.THEME_STATE_RUNNING
    async with house.transaction() as uow:
        await uow.execute("UPDATE launch SET finished_at = COALESCE(finished_at, now())")


async def test_the_command_line_does_what_the_door_does(
    house: House, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tokens = {}
    for person in ("operator", "approver"):
        tokens[person] = tmp_path / f"{person}.token"
        tokens[person].write_text(f"{person}.{SECRET}\n")

    async def run(person: str, *words: str) -> tuple[int, str]:
        parser = argparse.ArgumentParser()
        command.arguments(parser)
        flags = parser.parse_args([*words, "--target", house.target, "--token-file", str(tokens[person])])
        code = await asyncio.to_thread(command.VERBS[0].run, flags)
        out, err = capfd.readouterr()
        return code, out + err

    name = await house.make()
    number = name.removeprefix("themes/")
    assert (1, "NOT_APPROVED (name): no version of themes/1 is approved\n") == await run("operator", "launch", name)
    code, told = await run("operator", "submit", number, "--dry-run")
    assert (0, True) == (code, "in_review" in told)
    assert 0 == (await run("operator", "submit", number))[0]
    code, told = await run("operator", "approve", number)
    assert (1, True) == (code, told.startswith("SAME_PERSON (version): "))
    assert 0 == (await run("approver", "approve", number))[0]
    code, told = await run("operator", "show", number, "--json")
    shown = orjson.loads(told)
    assert (0, "THEME_STATE_APPROVED", "approver") == (code, shown["state"], shown["review"]["reviewer"])
    code, told = await run("operator", "preview", number)
    assert (0, True) == (code, "300 chosen" in told)
    code, told = await run("operator", "list", "--state", "approved")
    assert (0, True) == (code, "Spring service" in told)
    assert (0, "none\n") == await run("operator", "list", "--state", "paused")
    assert 0 == (await run("operator", "launch", number))[0]
    code, told = await run("operator", "pause", number)
    assert (0, True) == (code, "paused" in told and "launch is under way" in told)
    assert 0 == (await run("operator", "resume", number))[0]
    assert 0 == (await run("operator", "finish", number))[0]
    code, told = await run("operator", "show", number, "--versions")
    assert (0, True) == (code, "approved" in told and "reviewed by approver" in told)
