"""Device tokens: whose they are, whether they still work. Values are sealed; owners are keyed digests of app user ids.

Who a user id belongs to only identity says, at the moment of sending: merges and splits need nothing here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from chassis.db import UnitOfWork
from services.touchpoints.store import erasures
from services.touchpoints.vault import Vault

JPUSH, FCM, APNS = "jpush", "fcm", "apns"
PROVIDERS = (JPUSH, FCM, APNS)
ENVIRONMENTS = ("production", "sandbox")
# FCM's own expiry; a token silent for longer belongs to an app that is gone.
SILENT_DAYS = 270
# Nothing can be sent to a user whom identity does not know.
UNKNOWN_DAYS = 30


@dataclass(frozen=True)
class Registration:
    """An app on a device tells how it can be reached, or that it cannot any more."""

    source: str
    user_id: str = field(repr=False)
    provider: str
    app: str
    environment: str
    token: str = field(repr=False)
    at: datetime


@dataclass(frozen=True)
class Token:
    """A token that may be sent to."""

    token_id: int
    provider: str
    environment: str
    value: str = field(repr=False)
    registered_at: datetime


class Tokens:
    """The registry of one touchpoints."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def owner(self, source: str, user_id: str) -> bytes:
        """What stands for an app user here."""
        return self._vault.fingerprint(f"{source}\0{user_id}", "device owner")

    async def register(self, uow: UnitOfWork, given: Registration) -> None:
        """Keeps a token as its latest user's; a device that signs in anew takes its token along, and it works again."""
        await uow.execute(
            "INSERT INTO device_token AS t (provider, app, environment, digest, owner, sealed, user_sealed, registered_at)"
            " VALUES (:provider, :app, :environment, :digest, :owner, :sealed, :user, :at)"
            " ON CONFLICT (provider, app, environment, digest) DO UPDATE SET owner = excluded.owner,"
            " anchor_id = CASE WHEN t.owner = excluded.owner THEN t.anchor_id ELSE 0 END,"
            " user_sealed = CASE WHEN t.owner = excluded.owner THEN t.user_sealed ELSE excluded.user_sealed END,"
            " registered_at = excluded.registered_at, invalid_at = NULL, invalid_reason = ''"
            " WHERE excluded.registered_at >= t.registered_at",
            provider=given.provider,
            app=given.app,
            environment=given.environment,
            digest=self._digest(given.token),
            owner=self.owner(given.source, given.user_id),
            sealed=self._vault.hide(given.token, self._place(given.provider, given.token)),
            user=self._vault.hide(f"{given.source}\0{given.user_id}", self._place(given.provider, given.token) + "/user"),
            at=given.at,
        )

    async def unregister(self, uow: UnitOfWork, given: Registration) -> None:
        """Ends a token because its user signed out; a later registration stands."""
        await uow.execute(
            "UPDATE device_token SET invalid_at = :at, invalid_reason = 'signed_out' WHERE provider = :provider AND app = :app"
            " AND environment = :environment AND digest = :digest AND registered_at <= :at AND invalid_at IS NULL",
            provider=given.provider,
            app=given.app,
            environment=given.environment,
            digest=self._digest(given.token),
            at=given.at,
        )

    async def of(self, uow: UnitOfWork, owners: Mapping[bytes, int], app: str) -> dict[bytes, list[Token]]:
        """Tokens in force by owner, newest first (index ix_device_token_owner); `owners` say which anchor each is now."""
        rows = await uow.rows(
            "SELECT t.token_id, t.provider, t.environment, t.digest, t.sealed, t.owner, t.registered_at FROM device_token t"
            " WHERE t.owner = ANY(CAST(:owners AS bytea[])) AND t.app = :app AND t.invalid_at IS NULL"
            " ORDER BY t.registered_at DESC, t.token_id",
            owners=list(owners),
            app=app,
        )
        # For erasures, which know anchors.
        await uow.execute(
            "UPDATE device_token t SET anchor_id = o.anchor, user_sealed = ''"
            " FROM unnest(CAST(:owners AS bytea[]), CAST(:anchors AS bigint[])) AS o(owner, anchor)"
            " WHERE t.owner = o.owner AND t.anchor_id <> o.anchor",
            owners=list(owners),
            anchors=list(owners.values()),
        )
        found: dict[bytes, list[Token]] = {}
        for row in rows:
            value = self._vault.show(row.sealed, f"device/{row.provider}/{bytes(row.digest).hex()}")
            token = Token(row.token_id, row.provider, row.environment, value, row.registered_at)
            found.setdefault(bytes(row.owner), []).append(token)
        return found

    async def unlinked(self, uow: UnitOfWork, after: int, most: int) -> list[tuple[int, str, str]]:
        """(number, source, user id) of tokens whose anchor is not known, beyond a number (index ix_device_token_unlinked)."""
        rows = await uow.rows(
            "SELECT token_id, provider, digest, user_sealed FROM device_token WHERE anchor_id = 0 AND token_id > :after"
            " ORDER BY token_id LIMIT :most",
            after=after,
            most=most,
        )
        found = []
        for row in rows:
            said = self._vault.show(row.user_sealed, f"device/{row.provider}/{bytes(row.digest).hex()}/user")
            source, _, user_id = said.partition("\0")
            found.append((row.token_id, source, user_id))
        return found

    def _digest(self, token: str) -> bytes:
        return self._vault.fingerprint(token, "device token")

    def _place(self, provider: str, token: str) -> str:
        return f"device/{provider}/{self._digest(token).hex()}"


@dataclass(frozen=True)
class Dead:
    """A token that a provider knows no more; `since`: when it says so, so that a later registration stands."""

    token_id: int
    reason: str
    since: datetime | None = None


async def note(uow: UnitOfWork, reached: Iterable[int], dead: Sequence[Dead]) -> None:
    """What providers said of tokens."""
    await uow.execute(
        "UPDATE device_token SET last_success_at = now() WHERE token_id = ANY(CAST(:ids AS bigint[]))", ids=sorted(set(reached))
    )
    await uow.execute(
        "UPDATE device_token t SET invalid_at = now(), invalid_reason = d.reason FROM unnest(CAST(:ids AS bigint[]),"
        " CAST(:reasons AS text[]), CAST(:since AS timestamptz[])) AS d(id, reason, since)"
        " WHERE t.token_id = d.id AND t.invalid_at IS NULL AND (d.since IS NULL OR d.since > t.registered_at)",
        ids=[each.token_id for each in dead],
        reasons=[each.reason for each in dead],
        since=[each.since for each in dead],
    )


async def link(uow: UnitOfWork, anchors: Mapping[int, int]) -> None:
    """Notes the anchors of tokens, by which erasures find them; one that was erased meanwhile takes its tokens along."""
    await erasures.hold_off(uow)
    await uow.execute(
        "UPDATE device_token t SET anchor_id = l.anchor, user_sealed = '' FROM unnest(CAST(:ids AS bigint[]),"
        " CAST(:anchors AS bigint[])) AS l(id, anchor) WHERE t.token_id = l.id AND t.anchor_id = 0",
        ids=list(anchors),
        anchors=list(anchors.values()),
    )
    await uow.execute(
        "DELETE FROM device_token t USING erased_anchor e WHERE t.token_id = ANY(CAST(:ids AS bigint[]))"
        " AND e.anchor_id = t.anchor_id",
        ids=list(anchors),
    )


async def prune(uow: UnitOfWork) -> int:
    """Deletes tokens silent for too long, of users whom nobody came to know, and long known to be dead; returns how many."""
    await uow.execute("DELETE FROM push_call WHERE made_at < now() - interval '3 days'")
    return await uow.execute(
        "DELETE FROM device_token WHERE GREATEST(registered_at, last_success_at) < now() - make_interval(days => :days)"
        " OR invalid_at < now() - interval '30 days'"
        " OR (anchor_id = 0 AND registered_at < now() - make_interval(days => :unknown))",
        days=SILENT_DAYS,
        unknown=UNKNOWN_DAYS,
    )
