"""Clashes: what contradicts is refused, and nothing beside it."""

from __future__ import annotations

from services.identity.domain.clashes import Crowd, settle
from services.identity.domain.kinds import Reason

STRENGTH, APP, CALLS = 60, 4, 3


def test_a_link_that_contradicts_by_itself_costs_the_others_of_its_level_nothing() -> None:
    """Two persons were parted; a record of one has both mobiles, each of which a more trusted record holds."""
    mine, theirs, call, my_mobile, their_mobile = range(1, 6)
    crowd = Crowd()
    for node, side in ((theirs, 7), (mine, -7), (call, -7)):
        crowd.stands(node, side)
    crowd.link(mine, my_mobile, STRENGTH, 0, APP)
    crowd.link(theirs, their_mobile, STRENGTH, 0, APP)
    crowd.link(call, my_mobile, STRENGTH, 1, CALLS)
    crowd.link(call, their_mobile, STRENGTH, 1, CALLS)
    root, refused = settle(crowd)
    assert {(call, their_mobile): Reason.UNMERGED} == refused
    assert root.get(mine, mine) == root.get(call, call) == root.get(my_mobile, my_mobile)
    assert root.get(theirs, theirs) != root.get(mine, mine)
