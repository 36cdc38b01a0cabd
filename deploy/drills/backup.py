"""Saves what an installation of Troika cannot make again, and puts it back; docs/howto/backup.md says why in this order.

    python deploy/drills/backup.py save FOLDER       the lake, PostgreSQL at one moment, then the streams; services go on
    python deploy/drills/backup.py restore FOLDER    into an empty PostgreSQL and an empty NATS, before the services start

TROIKA_POSTGRES_DSN (of who may make roles and lock tables), TROIKA_NATS_URL, TROIKA_TLS_FOLDER and TROIKA_LAKE (a folder) say
where; pg_dump and pg_restore of at least the server's version are on the PATH.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import asyncpg
import nats
from nats.aio.client import Client
from nats.js.errors import NotFoundError

ROOT: Final = Path(__file__).resolve().parents[2]
SERVICES: Final = ("identity", "tags", "scoring", "orchestrator", "touchpoints")
CHUNK: Final = 64 * 1024
PATIENCE_S: Final = 30.0
LENGTHS: Final = "lengths.json"
# Doors publish straight to them, before any database has heard of it.
FROM_OUTSIDE: Final = ("EVENTS_OBSERVED", "EVENTS_QUARANTINED", "DEADLETTERS")


class RefusedError(RuntimeError):
    """A server said no; the message is its own."""


async def save_postgres(dsn: str, client: Client, folder: Path, programs: str = "") -> None:
    """One moment of all schemas, and how long every stream was then. `programs`: the folder of pg_dump."""
    snapshot, lock = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    try:
        # Who publishes holds the outbox; while nobody can, what is published and what PostgreSQL knows of is the same.
        async with snapshot.transaction(isolation="repeatable_read", readonly=True):
            async with lock.transaction():
                boxes = ", ".join(f"{service}.outbox" for service in SERVICES)
                await lock.execute(f"SET LOCAL lock_timeout = '10s'; LOCK TABLE {boxes} IN EXCLUSIVE MODE")
                name = await snapshot.fetchval("SELECT pg_export_snapshot()")
                lengths = {str(i.config.name): i.state.last_seq for i in await client.jetstream().streams_info()}
            (folder / LENGTHS).write_text(json.dumps(lengths))
            dump = [str(Path(programs) / "pg_dump"), "--format=custom", f"--snapshot={name}"]
            await asyncio.to_thread(subprocess.run, [*dump, f"--file={folder / 'postgres.dump'}", dsn], check=True)
    finally:
        await lock.close()
        await snapshot.close()


async def restore_postgres(dsn: str, folder: Path, programs: str = "") -> None:
    """Roles first: they belong to the server and are in no dump of a database."""
    connection = await asyncpg.connect(dsn)
    try:
        for service in SERVICES:
            role = f"troika_{service}"
            if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role):
                await connection.execute(f"CREATE ROLE {role} NOLOGIN; GRANT {role} TO CURRENT_USER")
        restore = [str(Path(programs) / "pg_restore"), "--exit-on-error", f"--dbname={dsn}", str(folder / "postgres.dump")]
        await asyncio.to_thread(subprocess.run, restore, check=True)
        # The lake is older than the database: it reads again what streams still have, and takes nothing twice.
        await connection.execute("DELETE FROM tags.inbox WHERE consumer = 'tags-lake'")
    finally:
        await connection.close()


def save_lake(lake: str, folder: Path) -> None:
    """Files of the lake never change once they have their name, so copying needs no moment."""
    if lake:
        shutil.copytree(lake, folder / "lake", dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.tmp"))


def restore_lake(lake: str, folder: Path) -> None:
    """As it was saved; what is there is replaced."""
    if lake and (folder / "lake").exists():
        shutil.rmtree(lake, ignore_errors=True)
        shutil.copytree(folder / "lake", lake)


async def save_streams(client: Client, folder: Path) -> list[str]:
    """Every stream with its messages and without its consumers; returns their names."""
    names = [str(info.config.name) for info in await client.jetstream().streams_info()]
    for name in names:
        inbox = client.new_inbox()
        chunks = await client.subscribe(inbox)
        # Consumers stand where the services were when the streams were saved, which is later than the database knows of.
        wanted = {"deliver_subject": inbox, "no_consumers": True, "chunk_size": CHUNK}
        about = await _ask(client, f"$JS.API.STREAM.SNAPSHOT.{name}", wanted)
        (folder / f"{name}.json").write_text(json.dumps({"config": about["config"], "state": about["state"]}))
        with (folder / f"{name}.stream").open("wb") as out:
            while (chunk := await chunks.next_msg(timeout=PATIENCE_S)).data:
                out.write(chunk.data)
                if chunk.reply:
                    await client.publish(chunk.reply)
        if (chunk.headers or {}).get("Status", "204") != "204":
            raise RefusedError(f"{name}: {chunk.headers}")
        await chunks.unsubscribe()
    return names


async def restore_streams(client: Client, folder: Path) -> list[str]:
    """Puts streams back that are not there; returns their names. What was published after the moment of PostgreSQL is left out:
    services have forgotten that they said it, and will say it again, perhaps of other ids. What came from outside stays.
    """
    lengths, names = json.loads((folder / LENGTHS).read_text()), []
    for source in sorted(folder.glob("*.stream")):  # noqa: ASYNC240  # nothing else runs meanwhile
        name, about = source.stem, json.loads(source.with_suffix(".json").read_text())
        deliver = str((await _ask(client, f"$JS.API.STREAM.RESTORE.{name}", about))["deliver_subject"])
        with source.open("rb") as content:
            while chunk := content.read(CHUNK):
                await client.request(deliver, chunk, timeout=PATIENCE_S)
        _checked(json.loads((await client.request(deliver, b"", timeout=PATIENCE_S)).data))
        if name not in FROM_OUTSIDE:
            for sequence in range(lengths.get(name, 0) + 1, about["state"]["last_seq"] + 1):
                with suppress(NotFoundError):
                    await client.jetstream().delete_msg(name, sequence)
        names.append(name)
    return names


async def _ask(client: Client, subject: str, question: Mapping[str, Any]) -> dict[str, Any]:
    answer = await client.request(subject, json.dumps(question).encode(), timeout=PATIENCE_S)
    return _checked(json.loads(answer.data))


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    if "error" in answer:
        raise RefusedError(str(answer["error"].get("description", answer["error"])))
    return answer


async def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("save", "restore"))
    parser.add_argument("folder", type=Path)
    flags = parser.parse_args()
    dsn, url, lake = os.environ["TROIKA_POSTGRES_DSN"], os.environ["TROIKA_NATS_URL"], os.environ.get("TROIKA_LAKE", "")
    context = None
    if tls := os.environ.get("TROIKA_TLS_FOLDER"):
        sys.path.insert(0, str(ROOT))
        from chassis.tls import Certificates

        context = Certificates(tls).client_context()
    flags.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with await nats.connect(url, tls=context) as client:
        if flags.verb == "save":
            save_lake(lake, flags.folder)
            await save_postgres(dsn, client, flags.folder)
            saved = await save_streams(client, flags.folder)
        else:
            await restore_postgres(dsn, flags.folder)
            restore_lake(lake, flags.folder)
            saved = await restore_streams(client, flags.folder)
    sys.stdout.write(f"{flags.verb}d: PostgreSQL, {'the lake, ' if lake else ''}{len(saved)} streams\n")


if __name__ == "__main__":
    asyncio.run(main())
