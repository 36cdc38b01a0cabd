"""Sources and endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chassis.db import UnitOfWork
from services.touchpoints.domain.deliveries import Channel
from services.touchpoints.domain.observed import Source

USER_ID_KINDS = {1: "crm_id", 2: "openid"}


@dataclass(frozen=True)
class EndpointRow:
    """An endpoint as stored; its secrets are sealed."""

    name: str
    channel: Channel
    scope: str
    url: str
    secret: bytes
    # One JSON object each, the second sealed.
    settings: str
    secrets: bytes
    disabled: bool = False
    # The secret before this one, while it is good; types of webhooks that the endpoint does without.
    previous_secret: bytes = b""
    event_types_off: Sequence[str] = ()


async def sources(uow: UnitOfWork) -> dict[bytes, Source]:
    """All sources by the SHA-256 of each of their keys."""
    rows = await uow.rows(
        "SELECT name, user_id_kind, appid, k.sha256, k.server_side FROM source"
        " CROSS JOIN LATERAL (VALUES (write_key_sha256, FALSE), (server_key_sha256, TRUE)) AS k(sha256, server_side)"
        " WHERE k.sha256 <> ''"
    )
    return {row.sha256: Source(row.name, USER_ID_KINDS[row.user_id_kind], row.appid, row.server_side) for row in rows}


async def save_source(
    uow: UnitOfWork, name: str, user_id_kind: int, appid: str, key_sha256: bytes, *, server_side: bool = False
) -> None:
    """Makes a source with one of its keys, or gives an existing one that key anew; the old one ends, the other kind stays."""
    await uow.execute(
        "INSERT INTO source AS s (name, user_id_kind, appid, write_key_sha256, server_key_sha256)"
        " VALUES (:name, :kind, :appid, :publishable, :server)"
        " ON CONFLICT (name) DO UPDATE SET user_id_kind = excluded.user_id_kind, appid = excluded.appid,"
        " write_key_sha256 = COALESCE(NULLIF(excluded.write_key_sha256, ''), s.write_key_sha256),"
        " server_key_sha256 = COALESCE(NULLIF(excluded.server_key_sha256, ''), s.server_key_sha256)",
        name=name,
        kind=user_id_kind,
        appid=appid,
        publishable=b"" if server_side else key_sha256,
        server=key_sha256 if server_side else b"",
    )


async def endpoints(uow: UnitOfWork) -> list[EndpointRow]:
    """All endpoints."""
    rows = await uow.rows(
        "SELECT name, channel, scope, url, secret, CAST(settings AS text) AS settings, secrets,"
        " disabled_at IS NOT NULL AS disabled, event_types_off,"
        " CASE WHEN previous_until > now() THEN previous_secret ELSE '' END AS previous_secret FROM endpoint ORDER BY name"
    )
    return [EndpointRow(**(dict(row._mapping) | {"channel": Channel(row.channel)})) for row in rows]


async def hold_endpoints(uow: UnitOfWork) -> None:
    """Lets one transaction at a time change endpoints: what one of them may be depends on the others."""
    await uow.rows("SELECT pg_advisory_xact_lock(hashtext('touchpoints endpoints'))")


async def save_endpoint(uow: UnitOfWork, row: EndpointRow) -> bool:
    """Makes an endpoint, or changes an existing one and turns it on again; True when it has the secret that is given.

    It keeps the one that it has, unless it comes under another scope.
    """
    made = await uow.rows(
        "INSERT INTO endpoint (name, channel, scope, url, secret, settings, secrets)"
        " VALUES (:name, :channel, :scope, :url, :secret, CAST(:settings AS jsonb), :secrets)"
        # Under another scope it is somebody else's: neither key nor secret of who had it opens anything any more.
        " ON CONFLICT (name) DO UPDATE SET url = excluded.url, scope = excluded.scope, settings = excluded.settings,"
        " secrets = excluded.secrets, disabled_at = NULL,"
        " secret = CASE WHEN endpoint.scope = excluded.scope THEN endpoint.secret ELSE excluded.secret END,"
        " management_key_sha256 = CASE WHEN endpoint.scope = excluded.scope THEN endpoint.management_key_sha256 ELSE '' END,"
        " previous_secret = CASE WHEN endpoint.scope = excluded.scope THEN endpoint.previous_secret ELSE '' END,"
        " previous_until = CASE WHEN endpoint.scope = excluded.scope THEN endpoint.previous_until END"
        " RETURNING secret = :secret AS made",
        name=row.name,
        channel=int(row.channel),
        scope=row.scope,
        url=row.url,
        secret=row.secret,
        settings=row.settings,
        secrets=row.secrets,
    )
    return bool(made[0].made)


async def disable_endpoint(uow: UnitOfWork, name: str) -> None:
    """Nothing is sent to it until it is registered again."""
    await uow.execute("UPDATE endpoint SET disabled_at = now() WHERE name = :name AND disabled_at IS NULL", name=name)
