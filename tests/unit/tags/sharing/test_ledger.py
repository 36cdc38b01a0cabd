"""The chain notices every change, the tree proves who was in a use and nothing else."""

from __future__ import annotations

from dataclasses import fields, replace
from hashlib import sha256
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.tags.domain.ledger import GENESIS, Chain, Flaw, Tree, Use, leaf, paths, root_from, root_of

uses = st.builds(
    Use,
    number=st.just(0),
    share_id=st.integers(1, 9),
    recipient=st.sampled_from(["agency", "insurer"]),
    purpose=st.text(max_size=8),
    form=st.integers(1, 2),
    tags=st.lists(st.sampled_from(["a", "b", "c"]), unique=True).map(tuple),
    predicate=st.text(max_size=8),
    min_group_size=st.integers(2, 9),
    key_id=st.just("k1"),
    persons=st.integers(0, 99),
    suppressed=st.integers(0, 99),
    without_consent=st.integers(0, 99),
    points=st.integers(0, 9),
    inclusions=st.integers(0, 99),
    root=st.binary(min_size=32, max_size=32),
    used_at_us=st.integers(0, 2**50),
    previous=st.just(b""),
)
ledgers = st.lists(uses, min_size=1, max_size=8)
Entry = tuple[Use, bytes]


def chained(contents: list[Use]) -> list[Entry]:
    made: list[Entry] = []
    for number, use in enumerate(contents, start=1):
        entry = replace(use, number=number, previous=made[-1][1] if made else GENESIS)
        made.append((entry, entry.hash()))
    return made


def flaws(entries: list[Entry]) -> list[Flaw]:
    chain = Chain()
    return [flaw for use, recorded in entries for flaw in chain.follow(use, recorded)]


@given(ledgers)
def test_a_ledger_as_it_was_written_is_whole(contents: list[Use]) -> None:
    assert [] == flaws(chained(contents))


def other(value: Any) -> Any:
    """The same kind of value, and another one."""
    match value:
        case bytes():
            return sha256(value).digest()
        case int():
            return value + 1
        case str():
            return value + "x"
        case _:
            return (*value, "d")


@given(ledgers, st.data())
def test_any_changed_field_is_noticed_at_its_entry(contents: list[Use], data: st.DataObject) -> None:
    entries = chained(contents)
    at = data.draw(st.integers(0, len(entries) - 1))
    name = data.draw(st.sampled_from([field.name for field in fields(Use)]))
    use, recorded = entries[at]
    entries[at] = (replace(use, **{name: other(getattr(use, name))}), recorded)
    assert at + 1 in {flaw.number for flaw in flaws(entries)}


@given(ledgers, st.data())
def test_a_rewritten_entry_is_noticed_where_the_next_one_refers_to_it(contents: list[Use], data: st.DataObject) -> None:
    entries = chained(contents)
    at = data.draw(st.integers(0, len(entries) - 1))
    forged = replace(entries[at][0], persons=entries[at][0].persons + 1)
    entries[at] = (forged, forged.hash())
    # The last one has nobody behind it: who holds a receipt or a head notices.
    expected = [at + 2] if at + 1 < len(entries) else []
    assert expected == [flaw.number for flaw in flaws(entries)]


@given(ledgers, st.data())
def test_a_missing_entry_is_named(contents: list[Use], data: st.DataObject) -> None:
    entries = chained(contents)
    at = data.draw(st.integers(0, len(entries) - 1))
    del entries[at]
    assert ([Flaw(at + 1, "is missing")] if at < len(entries) else []) == flaws(entries)


@given(st.lists(uses, min_size=2, max_size=8), st.data())
def test_entries_cannot_change_places(contents: list[Use], data: st.DataObject) -> None:
    entries = chained(contents)
    at = data.draw(st.integers(0, len(entries) - 2))
    entries[at], entries[at + 1] = entries[at + 1], entries[at]
    assert flaws(entries)


@given(ledgers, uses)
def test_what_is_put_in_between_is_noticed(contents: list[Use], extra: Use) -> None:
    entries = chained(contents)
    forged = replace(extra, number=1, previous=GENESIS)
    assert flaws([(forged, forged.hash()), *entries])


leaves = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=40)


def recursive_root(given_leaves: list[bytes]) -> bytes:
    """The definition of RFC 9162, section 2.1.1."""
    if len(given_leaves) == 1:
        return given_leaves[0]
    split = 1
    while split * 2 < len(given_leaves):
        split *= 2
    return sha256(b"\1" + recursive_root(given_leaves[:split]) + recursive_root(given_leaves[split:])).digest()


@given(leaves)
def test_the_tree_is_the_one_of_the_standard(given_leaves: list[bytes]) -> None:
    assert recursive_root(given_leaves) == root_of(given_leaves)


def test_a_use_of_nobody_has_the_root_of_nothing() -> None:
    assert sha256(b"").digest() == Tree().root()


@given(leaves, st.data())
def test_a_proof_leads_every_leaf_to_the_root_and_nothing_else(given_leaves: list[bytes], data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(given_leaves) - 1))
    [path] = paths(given_leaves, [position])
    size, root = len(given_leaves), root_of(given_leaves)
    assert root == root_from(given_leaves[position], position, size, path)
    assert root != root_from(sha256(given_leaves[position]).digest(), position, size, path)
    assert root != root_from(given_leaves[position], position, size, [*path, bytes(32)])
    if path:
        assert root != root_from(given_leaves[position], position, size, path[:-1])


@given(st.binary(min_size=16, max_size=16), st.integers(1, 2**40), st.integers(1, 2**40))
def test_a_leaf_names_one_anchor_in_one_row(nonce: bytes, anchor: int, row: int) -> None:
    same = leaf(nonce, anchor, row)
    assert same == leaf(nonce, anchor, row)
    assert same not in {
        leaf(nonce, anchor + 1, row),
        leaf(nonce, anchor, row + 1),
        leaf(bytes(16), anchor, row + (nonce == bytes(16))),
    }
