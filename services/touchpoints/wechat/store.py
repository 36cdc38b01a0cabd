"""What is remembered of followers and accounts: allowances, messages that hold one, tokens. Set-based.

Followers stand here under a keyed hash of account and openid; `anchor_id` is identity's anchor once a push has told it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from chassis.db import UnitOfWork
from services.touchpoints.domain.deliveries import State
from services.touchpoints.wechat.choice import Allowance, Choice
from services.touchpoints.wechat.templates import Form

# Credits do not run out; nobody collects more than this.
MOST_CREDITS = 1000


class Follower(NamedTuple):
    """Somebody at an account."""

    account: str
    hash: bytes


class Opening(NamedTuple):
    """So many messages of a kind to somebody from an instant until another, microseconds since the epoch."""

    follower: Follower
    kind: str
    remaining: int
    opened_us: int
    until_us: int


# Credits that are left, by endpoint of a channel ($1 its label, $2 its number).
CREDITS = """
SELECT e.name, sum(a.remaining)::bigint AS credits FROM endpoint e JOIN wechat_allowance a ON a.account = $1 || ':' || e.scope
WHERE e.channel = $2 AND a.kind LIKE 'credit:%' GROUP BY e.name
"""


async def open_allowances(uow: UnitOfWork, openings: Sequence[Opening]) -> None:
    """Replaces allowances that are older; what came late, or twice, changes nothing. Each kind of a follower at most once."""
    await uow.execute(
        "INSERT INTO wechat_allowance AS a (account, follower, kind, remaining, opened_us, until_us, anchor_id)"
        " SELECT o.account, o.follower, o.kind, o.remaining, o.opened, o.until, COALESCE((SELECT max(k.anchor_id)"
        " FROM wechat_allowance k WHERE k.account = o.account AND k.follower = o.follower), 0)"
        " FROM unnest(CAST(:accounts AS text[]), CAST(:followers AS bytea[]), CAST(:kinds AS text[]),"
        " CAST(:remaining AS int[]), CAST(:opened AS bigint[]), CAST(:until AS bigint[]))"
        " AS o(account, follower, kind, remaining, opened, until) ORDER BY o.account, o.follower, o.kind"
        " ON CONFLICT (account, follower, kind) DO UPDATE SET remaining = excluded.remaining, opened_us = excluded.opened_us,"
        " until_us = excluded.until_us WHERE excluded.opened_us > a.opened_us"
        # A yes and a no within one second of WeChat's clock: the no.
        " OR (excluded.opened_us = a.opened_us AND excluded.remaining = 0 AND excluded.until_us > a.until_us)",
        accounts=[o.follower.account for o in openings],
        followers=[o.follower.hash for o in openings],
        kinds=[o.kind for o in openings],
        remaining=[o.remaining for o in openings],
        opened=[o.opened_us for o in openings],
        until=[o.until_us for o in openings],
    )


async def add_credits(uow: UnitOfWork, follower: Follower, bought: Mapping[str, int], until_us: int) -> None:
    """Adds to what is there; the caller sees to it that each event is counted once."""
    kinds = sorted(bought)
    await uow.execute(
        "INSERT INTO wechat_allowance AS a (account, follower, kind, remaining, opened_us, until_us, anchor_id)"
        " SELECT :account, :follower, o.kind, o.remaining, 0, :until, COALESCE((SELECT max(k.anchor_id)"
        " FROM wechat_allowance k WHERE k.account = :account AND k.follower = :follower), 0)"
        " FROM unnest(CAST(:kinds AS text[]), CAST(:remaining AS int[])) AS o(kind, remaining) ORDER BY o.kind"
        " ON CONFLICT (account, follower, kind) DO UPDATE SET remaining = LEAST(a.remaining + excluded.remaining, :most)",
        account=follower.account,
        follower=follower.hash,
        kinds=kinds,
        remaining=[bought[kind] for kind in kinds],
        until=until_us,
        most=MOST_CREDITS,
    )


async def spend_all(uow: UnitOfWork, taken: Iterable[tuple[Follower, str]]) -> None:
    """Empties allowances that turned out to be none."""
    pairs = sorted(set(taken))
    await uow.execute(
        "UPDATE wechat_allowance a SET remaining = 0 FROM unnest(CAST(:accounts AS text[]), CAST(:followers AS bytea[]),"
        " CAST(:kinds AS text[])) AS t(account, follower, kind)"
        " WHERE a.account = t.account AND a.follower = t.follower AND a.kind = t.kind",
        accounts=[f.account for f, _ in pairs],
        followers=[f.hash for f, _ in pairs],
        kinds=[kind for _, kind in pairs],
    )


# Messages that hold an allowance though they never went and never will: theirs goes back, if it is still the same one.
# `unsure_since` is set where a call's outcome is not known; that one may have used it up.
RELEASE = f"""
WITH over AS (
    DELETE FROM wechat_spend s USING delivery d, unnest(CAST(:accounts AS text[]), CAST(:followers AS bytea[]))
        AS f(account, follower)
    WHERE s.account = f.account AND s.follower = f.follower AND d.delivery_id = s.delivery_id
        AND d.state >= {int(State.ACCEPTED)}
    RETURNING s.*, d.state >= {int(State.FAILED)} AND d.unsure_since IS NULL AS unused
), back AS (
    SELECT account, follower, pays, opened_us, count(*) AS messages FROM over WHERE unused AND pays <> ''
    GROUP BY account, follower, pays, opened_us
)
UPDATE wechat_allowance a SET remaining = a.remaining + back.messages FROM back
WHERE a.account = back.account AND a.follower = back.follower AND a.kind = back.pays AND a.opened_us = back.opened_us
"""  # noqa: S608  (a constant of ours)


async def release(uow: UnitOfWork, followers: Sequence[Follower]) -> None:
    """Gives back what messages hold that ended without being sent."""
    await uow.execute(RELEASE, accounts=[f.account for f in followers], followers=[f.hash for f in followers])


async def held(uow: UnitOfWork, delivery_ids: Sequence[str]) -> dict[str, Choice]:
    """How messages that were tried before go, by delivery."""
    rows = await uow.rows(
        "SELECT delivery_id, form, template, pays FROM wechat_spend WHERE delivery_id = ANY(:ids)", ids=list(delivery_ids)
    )
    return {row.delivery_id: Choice(Form(row.form), row.template, row.pays) for row in rows}


class Held(NamedTuple):
    """An allowance with the instant it was opened at."""

    allowance: Allowance
    opened_us: int


async def allowances(uow: UnitOfWork, followers: Sequence[Follower]) -> dict[Follower, dict[str, Held]]:
    """All allowances of some followers, locked in one order until the end of the transaction."""
    rows = await uow.rows(
        "SELECT a.account, a.follower, a.kind, a.remaining, a.opened_us, a.until_us FROM wechat_allowance a"
        " JOIN unnest(CAST(:accounts AS text[]), CAST(:followers AS bytea[])) AS f(account, follower)"
        " ON a.account = f.account AND a.follower = f.follower ORDER BY a.account, a.follower, a.kind FOR UPDATE OF a",
        accounts=[f.account for f in followers],
        followers=[f.hash for f in followers],
    )
    found: dict[Follower, dict[str, Held]] = {}
    for row in rows:
        of = found.setdefault(Follower(row.account, bytes(row.follower)), {})
        of[row.kind] = Held(Allowance(row.remaining, row.until_us), row.opened_us)
    return found


class Spend(NamedTuple):
    """One message is about to go."""

    delivery_id: str
    follower: Follower
    choice: Choice
    opened_us: int
    anchor_id: int


async def spend(uow: UnitOfWork, spends: Sequence[Spend]) -> None:
    """Notes how messages go, and takes what pays for them; the allowances are locked already."""
    columns: dict[str, list[Any]] = {
        "ids": [s.delivery_id for s in spends],
        "accounts": [s.follower.account for s in spends],
        "followers": [s.follower.hash for s in spends],
    }
    await uow.execute(
        "INSERT INTO wechat_spend (delivery_id, account, follower, form, template, pays, opened_us)"
        " SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:accounts AS text[]), CAST(:followers AS bytea[]),"
        " CAST(:forms AS text[]), CAST(:templates AS text[]), CAST(:pays AS text[]), CAST(:opened AS bigint[]))",
        forms=[s.choice.form.value for s in spends],
        templates=[s.choice.template for s in spends],
        pays=[s.choice.pays for s in spends],
        opened=[s.opened_us for s in spends],
        **columns,
    )
    await uow.execute(
        "UPDATE wechat_allowance a SET remaining = a.remaining - t.messages, anchor_id = t.anchor_id FROM ("
        " SELECT account, follower, kind, sum(one) AS messages, max(anchor_id) AS anchor_id FROM ("
        "  SELECT s.account, s.follower, k.kind, CASE WHEN s.pays = k.kind THEN 1 ELSE 0 END AS one, s.anchor_id"
        "  FROM unnest(CAST(:accounts AS text[]), CAST(:followers AS bytea[]), CAST(:pays AS text[]),"
        "   CAST(:anchors AS bigint[])) AS s(account, follower, pays, anchor_id)"
        "  JOIN wechat_allowance k ON k.account = s.account AND k.follower = s.follower) AS each"
        " GROUP BY account, follower, kind) AS t WHERE a.account = t.account AND a.follower = t.follower AND a.kind = t.kind"
        " AND (t.messages > 0 OR a.anchor_id <> t.anchor_id)",
        accounts=columns["accounts"],
        followers=columns["followers"],
        pays=[s.choice.pays for s in spends],
        anchors=[s.anchor_id for s in spends],
    )


async def close_spends(uow: UnitOfWork, delivery_ids: Sequence[str], give_back: Sequence[str]) -> None:
    """Forgets how messages went; those of `give_back` were not sent, and what they held goes back."""
    await uow.execute(
        "WITH over AS (DELETE FROM wechat_spend WHERE delivery_id = ANY(CAST(:ids AS text[])) RETURNING *), back AS ("
        " SELECT account, follower, pays, opened_us, count(*) AS messages FROM over"
        " WHERE pays <> '' AND delivery_id = ANY(CAST(:back AS text[])) GROUP BY account, follower, pays, opened_us)"
        " UPDATE wechat_allowance a SET remaining = a.remaining + back.messages FROM back"
        " WHERE a.account = back.account AND a.follower = back.follower AND a.kind = back.pays"
        " AND a.opened_us = back.opened_us",
        ids=list(delivery_ids),
        back=list(give_back),
    )


async def pushes_by_number(uow: UnitOfWork, endpoint: str, numbers: Sequence[str]) -> dict[str, str]:
    """Deliveries by the numbers that the provider gave them (index ix_delivery_provider_id)."""
    rows = await uow.rows(
        "SELECT provider_id, delivery_id FROM delivery WHERE provider_id = ANY(:numbers) AND provider_id <> ''"
        " AND endpoint = :endpoint",
        numbers=list(numbers),
        endpoint=endpoint,
    )
    return {row.provider_id: row.delivery_id for row in rows}


# A message that bears a number nobody noted (the answer was lost, or is on its way) is the one push to this follower under this
# template whose outcome is not known, if there is one only.
LOST = f"""
WITH m AS (SELECT * FROM unnest(CAST(:numbers AS text[]), CAST(:templates AS text[])) AS m(number, template)),
candidate AS (
    SELECT s.template, min(s.delivery_id) AS delivery_id FROM wechat_spend s JOIN delivery d USING (delivery_id)
    WHERE s.account = :account AND s.follower = :follower AND d.state = {int(State.SENDING)}
        AND d.unsure_since IS NOT NULL AND d.provider_id = ''
    GROUP BY s.template HAVING count(*) = 1
), sole AS (SELECT template, min(number) AS number FROM m GROUP BY template HAVING count(*) = 1)
UPDATE delivery d SET provider_id = sole.number FROM candidate JOIN sole USING (template)
WHERE d.delivery_id = candidate.delivery_id RETURNING d.provider_id, d.delivery_id
"""  # noqa: S608  (a constant of ours)


async def find_lost(uow: UnitOfWork, follower: Follower, lost: Mapping[str, str]) -> dict[str, str]:
    """Deliveries by the provider's numbers; `lost`: the template of each number that is not known."""
    rows = await uow.rows(
        LOST, numbers=list(lost), templates=list(lost.values()), account=follower.account, follower=follower.hash
    )
    return {row.provider_id: row.delivery_id for row in rows}


async def token(uow: UnitOfWork, account: str) -> Any | None:
    """The token of an account (sealed), its generation, and for how many seconds it is fresh; None before the first."""
    rows = await uow.rows(
        "SELECT token, generation, CAST(extract(epoch FROM fresh_until - now()) AS double precision) AS fresh_s"
        " FROM provider_token WHERE account = :account AND token <> ''",
        account=account,
    )
    return rows[0] if rows else None


async def lease_token(uow: UnitOfWork, account: str, lease_s: float) -> bool:
    """Whether the caller may fetch the token: it is stale, and nobody else is fetching it."""
    rows = await uow.rows(
        "INSERT INTO provider_token AS t (account, token, generation, fetched_at, fresh_until, leased_until)"
        " VALUES (:account, '', 0, now(), now(), now() + make_interval(secs => :lease)) ON CONFLICT (account) DO UPDATE"
        " SET leased_until = excluded.leased_until WHERE t.leased_until <= now() AND t.fresh_until <= now() RETURNING account",
        account=account,
        lease=lease_s,
    )
    return bool(rows)


async def release_token(uow: UnitOfWork, account: str, after_s: float) -> None:
    """Lets somebody else try, some seconds from now."""
    await uow.execute(
        "UPDATE provider_token SET leased_until = now() + make_interval(secs => :after) WHERE account = :account",
        account=account,
        after=after_s,
    )


async def save_token(uow: UnitOfWork, account: str, sealed: bytes, fresh_s: float) -> int:
    """Keeps a token and returns its generation."""
    rows = await uow.rows(
        "UPDATE provider_token SET token = :token, generation = generation + 1, fetched_at = now(), leased_until = now(),"
        " fresh_until = now() + make_interval(secs => :fresh) WHERE account = :account RETURNING generation",
        account=account,
        token=sealed,
        fresh=fresh_s,
    )
    return int(rows[0].generation)


async def drop_token(uow: UnitOfWork, account: str, generation: int, least_life_s: float) -> None:
    """A token of this generation is stale, some seconds after it was fetched at the earliest."""
    await uow.execute(
        "UPDATE provider_token SET fresh_until = LEAST(fresh_until, GREATEST(now(), fetched_at"
        " + make_interval(secs => :least))) WHERE account = :account AND generation = :generation",
        account=account,
        generation=generation,
        least=least_life_s,
    )


class AskedContact(NamedTuple):
    """A contact in WeCom that is to be asked about; `contact`: its keyed hash, `sealed`: its number there."""

    endpoint: str
    contact: bytes
    sealed: bytes
    attempts: int


async def ask_contact(uow: UnitOfWork, endpoint: str, contact: bytes, sealed: bytes) -> None:
    """Notes that a contact is to be asked about, at once."""
    await uow.execute(
        "INSERT INTO wecom_contact AS c (endpoint, contact, sealed) VALUES (:endpoint, :contact, :sealed)"
        " ON CONFLICT (endpoint, contact) DO UPDATE SET sealed = excluded.sealed, due_at = now(), asked_at = now(),"
        " attempts = 0",
        endpoint=endpoint,
        contact=contact,
        sealed=sealed,
    )


async def due_contacts(uow: UnitOfWork, most: int, lease_s: float) -> list[AskedContact]:
    """Contacts that are due and nobody else asks about; what nobody could say for three days is forgotten."""
    await uow.execute("DELETE FROM wecom_contact WHERE asked_at < now() - interval '3 days'")
    rows = await uow.rows(
        "UPDATE wecom_contact c SET due_at = now() + make_interval(secs => :lease), attempts = c.attempts + 1 FROM ("
        "SELECT endpoint, contact FROM wecom_contact WHERE due_at <= now() ORDER BY due_at LIMIT :most FOR UPDATE SKIP LOCKED"
        ") AS due WHERE c.endpoint = due.endpoint AND c.contact = due.contact"
        " RETURNING c.endpoint, c.contact, c.sealed, c.attempts",
        lease=lease_s,
        most=most,
    )
    return [AskedContact(row.endpoint, bytes(row.contact), bytes(row.sealed), row.attempts) for row in rows]


async def put_off_contact(uow: UnitOfWork, asked: AskedContact, wait_s: float) -> None:
    """Asks again, later."""
    await uow.execute(
        "UPDATE wecom_contact SET due_at = now() + make_interval(secs => :wait)"
        " WHERE endpoint = :endpoint AND contact = :contact",
        wait=wait_s,
        endpoint=asked.endpoint,
        contact=asked.contact,
    )


async def forget_contact(uow: UnitOfWork, asked: AskedContact) -> None:
    """Nothing more is to be asked."""
    await uow.execute(
        "DELETE FROM wecom_contact WHERE endpoint = :endpoint AND contact = :contact",
        endpoint=asked.endpoint,
        contact=asked.contact,
    )
