"""Points are a view over anchors: merges, splits and spending in any order never make a balance negative."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.tags.domain.points import Balance, Credit, balance, spend

ANCHORS = (1, 2, 3, 4)
# Who is who: the person of each anchor.
partitions = st.tuples(*(st.integers(1, 3) for _ in ANCHORS)).map(lambda owners: dict(zip(ANCHORS, owners, strict=True)))


class World:
    """Anchors, who they are, uses that each person was in, and what was spent."""

    def __init__(self) -> None:
        self.owners = dict(zip(ANCHORS, ANCHORS, strict=True))
        self.credits: dict[tuple[int, int], Credit] = {}
        self.uses = 0

    def use(self, points: int) -> None:
        self.uses += 1
        for anchor in ANCHORS:
            self.credits[self.uses, anchor] = Credit(self.uses, self.owners[anchor], anchor, points, 0)

    def of(self, person: int) -> list[Credit]:
        return [credit for credit in self.credits.values() if self.owners[credit.anchor_id] == person]

    def spend(self, person: int, points: int) -> bool:
        changed = spend(self.of(person), points)
        for credit in changed or ():
            self.credits[credit.number, credit.anchor_id] = credit
        return changed is not None

    def balances(self) -> dict[int, Balance]:
        return {person: balance(self.of(person)) for person in set(self.owners.values())}


steps = st.lists(
    st.one_of(
        st.tuples(st.just("use"), st.integers(0, 5)),
        st.tuples(st.just("move"), partitions),
        st.tuples(st.just("spend"), st.tuples(st.integers(1, 4), st.integers(1, 12))),
    ),
    max_size=30,
)


def live(world: World, life: list[tuple[str, object]]) -> None:
    for what, detail in life:
        match what, detail:
            case "use", int(points):
                world.use(points)
            case "move", dict(owners):
                world.owners = owners
            case "spend", (int(person), int(points)):
                before = balance(world.of(person))
                spent = world.spend(person, points)
                assert (points <= before.left) is spent
                after = balance(world.of(person))
                assert (before.earned, before.spent + points * spent) == after


@given(steps)
def test_spending_takes_exactly_what_was_asked_for_and_nobody_ever_owes(life: list[tuple[str, object]]) -> None:
    world = World()
    live(world, life)
    assert all(0 <= each.spent <= each.earned for each in world.balances().values())
    # Whoever they are next, nobody will.
    for owners in (dict.fromkeys(ANCHORS, 1), dict(zip(ANCHORS, ANCHORS, strict=True)), {1: 1, 2: 1, 3: 2, 4: 2}):
        world.owners = owners
        assert all(0 <= each.spent <= each.earned for each in world.balances().values())


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=12), partitions)
def test_an_unmerge_equals_never_merged(uses: list[tuple[int, bool]], merged: dict[int, int]) -> None:
    """Uses while some were one person, all taken apart at the end, against the same uses with nobody ever merged."""
    one, other = World(), World()
    apart = dict(one.owners)
    for points, together in uses:
        one.owners = merged if together else apart
        one.use(points)
        other.use(points)
    one.owners = apart
    assert other.balances() == one.balances()


def test_a_merge_adds_up_and_a_use_of_the_merged_counts_once() -> None:
    world = World()
    world.use(5)
    world.owners = {1: 1, 2: 1, 3: 3, 4: 4}
    assert Balance(10, 0) == world.balances()[1]
    world.use(5)
    assert Balance(15, 0) == world.balances()[1]


def test_what_was_spent_together_is_spent_on_both_sides_of_what_was_shared_and_nowhere_else() -> None:
    world = World()
    world.owners = {1: 1, 2: 1, 3: 3, 4: 4}
    world.use(5)
    world.owners = dict(zip(ANCHORS, ANCHORS, strict=True))
    world.use(5)
    world.owners = {1: 1, 2: 1, 3: 3, 4: 4}
    assert Balance(15, 0) == world.balances()[1]
    # The oldest first: all of the shared one, two of the side of anchor 1.
    assert world.spend(1, 7)
    world.owners = dict(zip(ANCHORS, ANCHORS, strict=True))
    assert {1: Balance(10, 7), 2: Balance(10, 5)} == {p: b for p, b in world.balances().items() if p < 3}


def test_apart_each_side_spends_its_own() -> None:
    world = World()
    world.owners = {1: 1, 2: 1, 3: 3, 4: 4}
    world.use(5)
    world.owners = dict(zip(ANCHORS, ANCHORS, strict=True))
    assert world.spend(1, 5)
    assert not world.spend(1, 1)
    assert Balance(5, 0) == world.balances()[2]
