"""`doctor`: looks at what a service stands on, from where it stands, and says what to do about it.

It changes nothing. It runs where the service runs: `kubectl exec deploy/troika-tags -- python -m services.tags doctor`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import asyncpg
import grpc
from alembic.script import ScriptDirectory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from nats.js.errors import NotFoundError

from chassis import rpc
from chassis.bus import DEAD_LETTERS, Bus
from chassis.db import address_of, role_of
from chassis.errors import TroikaError
from chassis.migrations import POST, stage_of
from chassis.settings import ChassisSettings
from chassis.tls import Certificates

PATIENCE_S: Final = 5.0
# Signatures and sealed data are good for minutes; a clock that is off by more than this will refuse some of them one day.
SKEW_S: Final = 2.0
EXPIRES_SOON_S: Final = 7 * 86400.0
LAG: Final = 10_000
OLDEST_POSTGRES: Final = 150000


class State(StrEnum):
    """How a thing is; `worth a look` is no reason to fail."""

    GOOD = "good"
    LOOK = "worth a look"
    BAD = "bad"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, what was found, and what to do about it."""

    what: str
    state: State
    found: str
    advice: str = ""


# What a service has looked at beside all this; raises when it is not as it must be.
Check = tuple[str, Callable[[Any], Awaitable[str]], str]


async def examine(service: str, settings: ChassisSettings, migrations: Path, own: Sequence[Check] = ()) -> list[Finding]:
    """Everything, in the order in which one thing needs the other."""
    findings: list[Finding] = []
    certificates: Certificates | None = None
    if settings.tls_folder:
        try:
            certificates = Certificates(settings.tls_folder)
        except (ValueError, OSError) as error:
            advice = "mount the Secret that cert-manager writes; TROIKA_TLS_FOLDER names the folder"
            findings.append(Finding("certificate", State.BAD, str(error), advice))
        else:
            findings.append(_expiry(certificates))
    findings.append(_token(service, settings))
    parts = [
        _postgres(service, settings, migrations),
        _nats(service, settings, certificates),
        *(_peer(name, target, service, settings, certificates) for name, target in _peers(settings)),
        *(_own(check, settings) for check in own),
    ]
    for part in await asyncio.gather(*parts):
        findings += part
    return findings


def _expiry(certificates: Certificates) -> Finding:
    left = certificates.ends_s() - time.time()
    found = f"ends {datetime.fromtimestamp(certificates.ends_s(), UTC):%Y-%m-%d}"
    if left > EXPIRES_SOON_S:
        return Finding("certificate", State.GOOD, found)
    advice = (
        "look at `kubectl describe certificate`: whoever issues it has not renewed it; pods take the new one without a restart"
    )
    return Finding("certificate", State.BAD if left < 0 else State.LOOK, found, advice)


def _token(service: str, settings: ChassisSettings) -> Finding:
    known = settings.caller_token_sha256.get(service)
    if known == sha256(settings.caller_token.encode()).hexdigest():
        return Finding("token", State.GOOD, f"{len(settings.caller_token_sha256)} callers are known")
    found = f"{service} is not among the known callers" if known is None else "the hash that all know is of another token"
    advice = (
        "TROIKA_CALLER_TOKEN and TROIKA_CALLER_TOKEN_SHA256 of all services come from one Secret: make it anew, restart all"
    )
    # Where certificates name callers nobody asks for the token.
    return Finding("token", State.LOOK if settings.tls_folder else State.BAD, found, advice)


async def _postgres(service: str, settings: ChassisSettings, migrations: Path) -> list[Finding]:
    try:
        connection = await asyncpg.connect(address_of(settings.postgres_dsn), timeout=PATIENCE_S)
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        advice = "is the address right, may the pod reach it (NetworkPolicy), is the password current?"
        return [Finding("postgres", State.BAD, type(error).__name__, advice)]
    try:
        found = [await _server(connection)]
        began = time.time()
        there = (await connection.fetchval("SELECT clock_timestamp()")).timestamp()
        found.append(_skew("clock of postgres", there, began, time.time()))
        found.append(await _role(connection, service))
        found.append(await _schema(connection, service, migrations))
        return found
    finally:
        await connection.close()


async def _server(connection: Any) -> Finding:
    row = await connection.fetchrow(
        "SELECT current_setting('server_version_num')::int AS version, current_setting('server_version') AS named,"
        " current_setting('max_connections')::int AS most, pg_is_in_recovery() AS standby,"
        " (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS used"
    )
    found = f"{row['named']}, {row['used']} of {row['most']} connections"
    if row["version"] < OLDEST_POSTGRES or row["standby"]:
        return Finding(
            "postgres", State.BAD, found, "it must be PostgreSQL 15 or newer, and the primary: a standby takes no writes"
        )
    if row["used"] > 0.9 * row["most"]:
        return Finding("postgres", State.LOOK, found, "raise max_connections, or lower TROIKA_POSTGRES_POOL_SIZE")
    return Finding("postgres", State.GOOD, found)


async def _role(connection: Any, service: str) -> Finding:
    role = role_of(service)
    row = await connection.fetchrow(
        "SELECT r.rolname IS NOT NULL AS there, u.rolsuper,"
        " coalesce(pg_has_role(current_user, r.oid, 'MEMBER'), false) AS member"
        " FROM pg_roles u LEFT JOIN pg_roles r ON r.rolname = $1 WHERE u.rolname = current_user",
        role,
    )
    if not row["there"]:
        return Finding("database role", State.BAD, f"there is no {role}", "run the migrations: they make it")
    if not row["member"]:
        return Finding("database role", State.BAD, f"the login may not become {role}", f"GRANT {role} TO the login of the DSN")
    if row["rolsuper"]:
        advice = f"give the service a login that is a member of {role} alone (`{service}.login` of the chart)"
        return Finding("database role", State.LOOK, "the login is a superuser", advice)
    return Finding("database role", State.GOOD, f"the login may become {role}")


async def _schema(connection: Any, service: str, migrations: Path) -> Finding:
    try:
        await connection.execute(f"SET ROLE {role_of(service)}")
        present = await connection.fetchval(f"SELECT version_num FROM {service}.schema_version")  # noqa: S608  # a name of ours
    except asyncpg.PostgresError as error:
        return Finding("schema", State.BAD, type(error).__name__, f"run `python -m services.{service} migrate`")
    script = ScriptDirectory(str(migrations))
    pending = []
    for revision in script.walk_revisions():
        if revision.revision == present:
            break
        pending.append(revision)
    else:
        advice = "the database is of a later release: roll this service forward, never the schema back"
        return Finding("schema", State.BAD, f"{present} is unknown here", advice)
    if any(stage_of(each) != POST for each in pending):
        found = f"{present}, {len(pending)} behind"
        return Finding("schema", State.BAD, found, f"run `python -m services.{service} migrate`")
    if pending:
        advice = f"once no pod of the release before is left: `python -m services.{service} migrate --post`"
        return Finding("schema", State.LOOK, f"{present}, {len(pending)} still to come after the rollout", advice)
    return Finding("schema", State.GOOD, str(present))


async def _nats(service: str, settings: ChassisSettings, certificates: Certificates | None) -> list[Finding]:
    try:
        async with asyncio.timeout(PATIENCE_S), _bus(service, settings, certificates) as bus:
            began = time.time()
            there = await bus.clock()
            found = [Finding("nats", State.GOOD, "connected"), _skew("clock of nats", there, began, time.time())]
            for stream, replicas, messages in await bus.streams():
                state = State.GOOD if replicas >= settings.nats_replicas else State.LOOK
                if stream == DEAD_LETTERS.name and messages:
                    advice = "something could not be processed: look at the letters, mend what they name, replay them"
                    found.append(Finding(f"stream {stream}", State.LOOK, f"{messages} letters", advice))
                    continue
                advice = "" if state is State.GOOD else f"{settings.nats_replicas} are wanted: has the cluster so many servers?"
                found.append(Finding(f"stream {stream}", state, f"{messages} messages, {replicas} copies", advice))
            for name, waiting, readers in await bus.readers(f"{service}-"):
                told = f"{waiting} messages wait, {readers} readers"
                if not readers:
                    found.append(Finding(f"consumer {name}", State.BAD, told, f"no pod of {service} reads it: are they ready?"))
                elif waiting > LAG:
                    found.append(
                        Finding(f"consumer {name}", State.LOOK, told, "more replicas, or look for what slows them down")
                    )
                else:
                    found.append(Finding(f"consumer {name}", State.GOOD, told))
            return found
    except NotFoundError:
        advice = "JetStream holds no stream of ours yet: start the services, each declares its own"
        return [Finding("nats", State.BAD, "no streams", advice)]
    except Exception as error:
        advice = (
            "is the address right, may the pod reach it, does the server know the password or certificate, is JetStream on?"
        )
        return [Finding("nats", State.BAD, type(error).__name__, advice)]


@asynccontextmanager
async def _bus(service: str, settings: ChassisSettings, certificates: Certificates | None) -> AsyncIterator[Bus]:
    bus = Bus(settings.nats_url, f"{service} doctor", settings.nats_replicas, certificates, settings.nats_ca_file)
    await bus.connect()
    try:
        yield bus
    finally:
        await bus.close()


def _skew(what: str, there: float, began: float, ended: float) -> Finding:
    """The answer was made somewhen between `began` and `ended`, so that long ways are no skew."""
    off = max(began - there, there - ended, 0.0)
    if off <= SKEW_S:
        return Finding(what, State.GOOD, f"{off:.1f} s from here")
    return Finding(what, State.BAD, f"{off:.1f} s from here", "run NTP on all nodes: times of events decide what is newer")


def _peers(settings: ChassisSettings) -> list[tuple[str, str]]:
    names = sorted(name for name in type(settings).model_fields if name.endswith("_target"))
    return [(name.removesuffix("_target"), str(getattr(settings, name))) for name in names]


async def _peer(
    name: str, target: str, service: str, settings: ChassisSettings, certificates: Certificates | None
) -> list[Finding]:
    if settings.tls_folder and certificates is None:
        return []
    channel = rpc.connect(target, service, settings.caller_token, certificates)
    try:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S, wait_for_ready=False)
    except grpc.aio.AioRpcError as error:
        advice = (
            f"is a pod of {name} ready, may this one reach it (NetworkPolicy), is its certificate of our authority and name?"
        )
        return [Finding(f"door of {name}", State.BAD, f"{error.code().name}: {error.details()}", advice)]
    finally:
        await channel.close()
    serving = answer.status == health_pb2.HealthCheckResponse.SERVING
    return [Finding(f"door of {name}", State.GOOD if serving else State.LOOK, target, "" if serving else "it is stopping")]


async def _own(check: Check, settings: ChassisSettings) -> list[Finding]:
    what, look, advice = check
    try:
        async with asyncio.timeout(PATIENCE_S):
            return [Finding(what, State.GOOD, await look(settings))]
    except Exception as error:
        said = error.message if isinstance(error, TroikaError) else type(error).__name__
        return [Finding(what, State.BAD, said, advice)]


def show(findings: Sequence[Finding], *, as_json: bool) -> int:
    """Prints them; 1 when one is bad."""
    if as_json:
        lines = [json.dumps([asdict(each) for each in findings], indent=1)]
    else:
        width, marks = max(len(each.what) for each in findings), {State.GOOD: "ok  ", State.LOOK: "look", State.BAD: "BAD "}
        lines = []
        for each in findings:
            lines.append(f"{marks[each.state]}  {each.what:<{width}}  {each.found}")
            if each.advice:
                lines.append(f"{'':<{width + 8}}{each.advice}")
    sys.stdout.write("\n".join(lines) + "\n")
    return int(any(each.state is State.BAD for each in findings))
