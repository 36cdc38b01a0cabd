"""A person's uses and points, over the anchors that are hers now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from chassis.db import UnitOfWork
from chassis.errors import FailedPrecondition, NotFound
from services.tags.domain import points as domain
from services.tags.domain.ledger import Use
from services.tags.domain.points import Balance, Credit
from services.tags.sharing import ledger_store


class PersonUse(NamedTuple):
    """A use that a person was in, and her points for it."""

    use: Use
    balance: Balance


@dataclass(frozen=True)
class Account:
    """Some uses of a person, the newest first, and all her points."""

    uses: list[PersonUse]
    balance: Balance


class Spent(NamedTuple):
    """What was left when points were spent, and whether that had been done before."""

    balance: int
    repeated: bool


async def account(uow: UnitOfWork, person_id: int, before: int, size: int) -> Account:
    """What a person's data was used for; uses below the number `before`. Raises NotFound for persons that are not."""
    await _require(uow, person_id)
    credits_ = await _credits(uow, person_id)
    by_use: dict[int, list[Credit]] = {}
    for credit in credits_:
        by_use.setdefault(credit.number, []).append(credit)
    shown = sorted((number for number in by_use if number < before), reverse=True)[:size]
    uses = await ledger_store.numbered(uow, shown)
    return Account([PersonUse(uses[n].use, domain.balance(by_use[n])) for n in shown], domain.balance(credits_))


async def spend(uow: UnitOfWork, *, person_id: int, points: int, reason: str, op_id: str, caller: str) -> Spent:
    """Spends points, once for each op_id.

    Raises NotFound for persons that are not, FailedPrecondition when she has too few or the op_id stands for another command.
    """
    # Every change of who has which anchor takes this lock, too; and two commands with one op_id wait for each other.
    await uow.rows("SELECT pg_advisory_xact_lock(hashtext('troika spend ' || :op_id))", op_id=op_id)
    await uow.rows(
        "SELECT 1 FROM entity WHERE entity_kind = 1 AND entity_id = :person FOR NO KEY UPDATE",
        person=person_id,
    )
    done = await uow.rows("SELECT person_id, points, balance FROM spending WHERE op_id = :op_id", op_id=op_id)
    if done:
        if (done[0].person_id, done[0].points) != (person_id, points):
            raise FailedPrecondition("this op_id stands for another command", reason="OP_ID_TAKEN", field="op_id")
        return Spent(done[0].balance, True)
    await _require(uow, person_id)
    credits_ = await _credits(uow, person_id)
    changed = domain.spend(credits_, points)
    left = domain.balance(credits_).left
    if changed is None:
        raise FailedPrecondition(f"she has {left} points", reason="TOO_FEW_POINTS", field="points")
    await uow.execute(
        "INSERT INTO points_spent AS p (anchor_id, number, points) SELECT * FROM unnest(CAST(:anchors AS bigint[]),"
        " CAST(:numbers AS bigint[]), CAST(:points AS bigint[]))"
        " ON CONFLICT (anchor_id, number) DO UPDATE SET points = EXCLUDED.points",
        anchors=[credit.anchor_id for credit in changed],
        numbers=[credit.number for credit in changed],
        points=[credit.spent for credit in changed],
    )
    await uow.execute(
        "INSERT INTO spending (op_id, person_id, anchor_id, points, reason, balance, caller)"
        " VALUES (:op_id, :person, :anchor, :points, :reason, :balance, :caller)",
        op_id=op_id,
        person=person_id,
        anchor=changed[0].anchor_id,
        points=points,
        reason=reason,
        balance=left - points,
        caller=caller,
    )
    return Spent(left - points, False)


async def _credits(uow: UnitOfWork, person_id: int) -> list[Credit]:
    rows = await uow.fetch(ledger_store.OF_PERSON, person_id)
    return [Credit(row["number"], row["line"], row["anchor_id"], row["points"], row["spent"]) for row in rows]


async def _require(uow: UnitOfWork, person_id: int) -> None:
    rows = await uow.rows("SELECT 1 FROM entity WHERE entity_kind = 1 AND entity_id = :person AND present", person=person_id)
    if not rows:
        raise NotFound("no such person", reason="PERSON_NOT_FOUND", field="person_id")
