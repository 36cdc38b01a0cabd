"""The command `troika ledger verify`: reads the whole data-use ledger and names every entry that is not as it was written."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import AsyncIterator
from typing import NamedTuple

import orjson

from chassis.db import Database, UnitOfWork
from chassis.errors import FailedPrecondition
from services.tags.domain.ledger import Chain, Flaw, Tree
from services.tags.settings import Settings
from services.tags.sharing import ledger_store
from services.tags.sharing.ledger_store import Head, Recorded


class Verdict(NamedTuple):
    """What was read, and what is wrong with it."""

    entries: int
    inclusions: int
    head: Head
    flaws: list[Flaw]


async def verify(uow: UnitOfWork, receipts: tuple[Head, ...] = ()) -> Verdict:
    """Reads everything in one snapshot, in constant memory. `receipts`: entries as others remember them."""
    chain, flaws, count, inclusions = Chain(), [], 0, 0
    remembered = {receipt.number: receipt.hash for receipt in receipts}
    async for entry in ledger_store.entries(uow):
        flaws += chain.follow(*entry)
        tree = await _tree(ledger_store.leaves(uow, entry.use.number))
        if not _holds(tree, entry):
            flaws.append(Flaw(entry.use.number, "does not have the persons that it was recorded with"))
        if (expected := remembered.pop(entry.use.number, entry.hash)) != entry.hash:
            flaws.append(Flaw(entry.use.number, f"is not the one of the receipt {expected.hex()}"))
        count, inclusions = count + 1, inclusions + (tree.size if tree else 0)
    flaws += [Flaw(number, "is missing, there is a receipt of it") for number in sorted(remembered)]
    flaws += [Flaw(number, "is missing, persons are recorded under it") for number in await ledger_store.orphans(uow)]
    return Verdict(count, inclusions, Head(chain.number, chain.hash), flaws)


async def _tree(leaves: AsyncIterator[tuple[int, bytes]]) -> Tree | None:
    """The tree of an entry as it is stored; None when a leaf is missing in between."""
    tree = Tree()
    async for position, leaf in leaves:
        if position != tree.size:
            return None
        tree.add(leaf)
    return tree


def _holds(tree: Tree | None, entry: Recorded) -> bool:
    return tree is not None and (tree.size, tree.root()) == (entry.use.inclusions, entry.use.root)


def arguments(parser: argparse.ArgumentParser) -> None:
    """What can be done with the ledger."""
    words = parser.add_subparsers(dest="what", required=True)
    verifying = words.add_parser("verify", help="check every entry; says which is broken")
    verifying.add_argument(
        "--receipt",
        type=_receipt,
        action="append",
        default=[],
        metavar="NUMBER:HASH",
        help="an entry as a receipt, an earlier check or the log has it: shows that the ledger was not cut or rewritten",
    )
    verifying.add_argument("--json", action="store_true", help="one JSON object instead of words")


def _receipt(text: str) -> Head:
    number, _, digits = text.partition(":")
    if not number.isdigit() or not re.fullmatch("[0-9a-f]{64}", digits):
        raise argparse.ArgumentTypeError("must be NUMBER:HASH with 64 hexadecimal digits")
    return Head(int(number), bytes.fromhex(digits))


async def run(settings: Settings, flags: argparse.Namespace) -> None:
    """The verb; raises FailedPrecondition when the ledger is broken."""
    database = Database(settings.postgres_dsn, "tags", 1)
    try:
        async with database.read() as uow:
            verdict = await verify(uow, tuple(flags.receipt))
    finally:
        await database.close()
    head = f"{verdict.head.number}:{verdict.head.hash.hex()}"
    if flags.json:
        found = {
            "entries": verdict.entries,
            "inclusions": verdict.inclusions,
            "head": head,
            "flaws": [flaw._asdict() for flaw in verdict.flaws],
        }
        sys.stdout.write(orjson.dumps(found).decode() + "\n")
    else:
        lines = [f"entry {flaw.number} {flaw.what}" for flaw in verdict.flaws]
        lines.append(f"{verdict.entries:,} entries with {verdict.inclusions:,} inclusions, head {head}")
        sys.stdout.write("\n".join(lines) + "\n")
    if verdict.flaws:
        raise FailedPrecondition(f"entry {verdict.flaws[0].number} {verdict.flaws[0].what}", reason="LEDGER_BROKEN")
