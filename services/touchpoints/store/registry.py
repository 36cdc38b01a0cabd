"""Sources and endpoints."""

from __future__ import annotations

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
    wechat_secret: bytes
    wechat_callback_token: bytes
    wechat_template_id: str
    disabled: bool = False


async def sources(uow: UnitOfWork) -> dict[bytes, Source]:
    """All sources by the SHA-256 of their write key."""
    rows = await uow.rows("SELECT name, user_id_kind, appid, write_key_sha256 FROM source")
    return {row.write_key_sha256: Source(row.name, USER_ID_KINDS[row.user_id_kind], row.appid) for row in rows}


async def save_source(uow: UnitOfWork, name: str, user_id_kind: int, appid: str, write_key_sha256: bytes) -> None:
    """Makes a source, or gives an existing one a new key; the old key ends."""
    await uow.execute(
        "INSERT INTO source (name, user_id_kind, appid, write_key_sha256) VALUES (:name, :kind, :appid, :key)"
        " ON CONFLICT (name) DO UPDATE SET user_id_kind = excluded.user_id_kind, appid = excluded.appid,"
        " write_key_sha256 = excluded.write_key_sha256",
        name=name,
        kind=user_id_kind,
        appid=appid,
        key=write_key_sha256,
    )


async def endpoints(uow: UnitOfWork) -> list[EndpointRow]:
    """All endpoints."""
    rows = await uow.rows(
        "SELECT name, channel, scope, url, secret, wechat_secret, wechat_callback_token, wechat_template_id,"
        " disabled_at IS NOT NULL AS disabled FROM endpoint ORDER BY name"
    )
    return [EndpointRow(**(dict(row._mapping) | {"channel": Channel(row.channel)})) for row in rows]


async def save_endpoint(uow: UnitOfWork, row: EndpointRow) -> bool:
    """Makes an endpoint, or changes an existing one's address and turns it on again; True when it is new.

    An existing one keeps its secret, and its WeChat fields where the new ones are empty.
    """
    made = await uow.rows(
        "INSERT INTO endpoint AS e (name, channel, scope, url, secret, wechat_secret, wechat_callback_token,"
        " wechat_template_id) VALUES (:name, :channel, :scope, :url, :secret, :wechat_secret, :callback, :template)"
        " ON CONFLICT (name) DO UPDATE SET url = excluded.url, scope = excluded.scope, disabled_at = NULL,"
        " wechat_secret = CASE WHEN excluded.wechat_secret = '' THEN e.wechat_secret ELSE excluded.wechat_secret END,"
        " wechat_callback_token = CASE WHEN excluded.wechat_callback_token = '' THEN e.wechat_callback_token"
        " ELSE excluded.wechat_callback_token END, wechat_template_id = COALESCE(NULLIF(excluded.wechat_template_id, ''),"
        " e.wechat_template_id) RETURNING (xmax = 0) AS made",
        name=row.name,
        channel=int(row.channel),
        scope=row.scope,
        url=row.url,
        secret=row.secret,
        wechat_secret=row.wechat_secret,
        callback=row.wechat_callback_token,
        template=row.wechat_template_id,
    )
    return bool(made[0].made)


async def disable_endpoint(uow: UnitOfWork, name: str) -> None:
    """Nothing is sent to it until it is registered again."""
    await uow.execute("UPDATE endpoint SET disabled_at = now() WHERE name = :name AND disabled_at IS NULL", name=name)
