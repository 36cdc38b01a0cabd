"""What keeps an erased person out: their old identifiers, known by token only, are turned away when they come again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.identity.domain.identifiers import Known
from services.identity.domain.kinds import Kind

# The name under which a value is turned away whoever brings it: it was the erased person's alone.
ANY_NAME = 0
# Each of them means a person by itself. Devices and cookies pass from hand to hand: they are left out, the rest may enter.
STRONG = frozenset({Kind.CRM_ID, Kind.OPENID, Kind.UNIONID, Kind.MOBILE, Kind.EMAIL, Kind.ID_CARD})

# Token → hashes of the names it is suppressed for; ANY_NAME among them: for everybody.
Suppressed = Mapping[bytes, frozenset[int]]


def is_suppressed(token: bytes, name: int, suppressed: Suppressed) -> bool:
    """Whether a value under this name (a hash, 0: nameless) was erased. A nameless claim on a shared value is not theirs."""
    names = suppressed.get(token)
    return names is not None and (ANY_NAME in names or name in names)


def screen(persons: Sequence[Known], name: int, suppressed: Suppressed) -> tuple[Known, ...] | None:
    """What of an observation's person identifiers (the anchor first) may enter; None when it is refused as ERASED."""
    erased = [known for known in persons if is_suppressed(known.token, name, suppressed)]
    if not erased:
        return tuple(persons)
    if erased[0] is persons[0] or any(known.kind in STRONG for known in erased):
        return None
    gone = {known.token for known in erased}
    return tuple(known for known in persons if known.token not in gone)


def suppressions(
    own: Sequence[int], used_by_others: Mapping[int, frozenset[int]], names: frozenset[int]
) -> frozenset[tuple[int, int]]:
    """Pairs (identifier, name) to suppress when a person is erased.

    `own`: identifiers that were the person's alone; `used_by_others`: the others that identify it, with the names that
    somebody else is known by on them; `names`: what the person was called. A name that two people bear on one value is not
    suppressed there, for it would turn the other away.
    """
    pairs = {(identifier, ANY_NAME) for identifier in own}
    for identifier, taken in used_by_others.items():
        pairs |= {(identifier, name) for name in names - taken if name != ANY_NAME}
    return frozenset(pairs)
