"""When an entity is to be looked at again: never later than something changes by itself, however its events came."""

import copy

from hypothesis import given
from hypothesis import strategies as st

from services.tags.catalogue import yaml_files
from services.tags.domain.catalogue import Kind
from services.tags.domain.facts import Facts, Occurrence, fold
from services.tags.handlers import TagRules
from services.tags.store import EntityRow

RULES = TagRules(
    yaml_files.parse(
        """
person:
  calls:
    type: number
    description: d
    expression: "COUNT(*) FILTER (WHERE event = 'Call' AND occurred_at > NOW() - INTERVAL '5 seconds')"
  visits:
    type: number
    description: d
    expression: "COUNT(*) FILTER (WHERE event = 'Visit' AND occurred_at > NOW() - INTERVAL '9 seconds')"
  seen_at: {type: time, description: d, expression: MAX(occurred_at)}
  asleep: {type: boolean, description: d, expression: "seen_at < NOW() - INTERVAL '20 seconds'"}
"""
    )
)
SECOND = 1_000_000
happenings = st.tuples(st.sampled_from(("Call", "Visit", "Other")), st.integers(0, 30), st.integers(0, 4))


@given(st.lists(happenings, min_size=1, max_size=12))
def test_an_entity_is_due_no_later_than_time_alone_changes_it(given_events: list[tuple[str, int, int]]) -> None:
    facts: Facts = {}
    entity = EntityRow(1, 0, False, {}, {})
    now = 40 * SECOND
    for number, (name, second, later) in enumerate(given_events):
        now += later * SECOND
        occurrence = Occurrence("s", name, second * SECOND + 20 * SECOND, number, now)
        statements = RULES.facts.stated(Kind.PERSON, occurrence, b"")
        fold(facts, occurrence, statements)
        if entity.present:
            RULES.advance(Kind.PERSON, entity, [facts], {each.tag for each in statements}, now, now)
        else:
            RULES.renew(Kind.PERSON, entity, [facts], now, now)
        anew = copy.deepcopy(entity)
        assert RULES.renew(Kind.PERSON, anew, [facts], now, now) is None
        exact, due = anew.due_us, entity.due_us
        assert (exact is None) or (due is not None and now < due <= exact)
