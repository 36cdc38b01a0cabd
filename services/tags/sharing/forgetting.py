"""Erasure of what sharing keeps: of a person's part in uses only hashes stay, which lead to nobody."""

from __future__ import annotations

from collections.abc import Sequence

from chassis.db import UnitOfWork


async def forget(uow: UnitOfWork, anchors: Sequence[int]) -> None:
    """Forgets anchors. With its nonce destroyed a leaf cannot be told from random bytes; the tree stays whole.

    Who is just recording a use must have been waited for.
    """
    await uow.execute(
        "UPDATE data_use_inclusion SET leaf = sha256(decode('00', 'hex') || nonce || int8send(anchor_id) || int8send(line)),"
        " nonce = NULL, anchor_id = 0, line = 0 WHERE anchor_id = ANY(CAST(:anchors AS bigint[])) AND anchor_id > 0",
        anchors=list(anchors),
    )
    await uow.execute("DELETE FROM points_spent WHERE anchor_id = ANY(CAST(:anchors AS bigint[]))", anchors=list(anchors))
    # What remains of commands keeps them from being carried out twice.
    await uow.execute(
        "UPDATE spending SET person_id = 0, anchor_id = 0, reason = ''"
        " WHERE anchor_id = ANY(CAST(:anchors AS bigint[])) AND anchor_id > 0",
        anchors=list(anchors),
    )
