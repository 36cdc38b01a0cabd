"""Which tags may be proposed to be changed, which values are common, and how reasons read."""

from __future__ import annotations

import numpy as np
import pytest
from troika.tags.v1.tags_service_pb2 import TAG_TYPE_BOOLEAN, TAG_TYPE_CATEGORY, TAG_TYPE_NUMBER, TAG_TYPE_TIME

from services.scoring.frame import Encoding, Feature, Frame, Kind, Numbers, Words
from services.scoring.learning.cut import Cut
from services.scoring.models.specification import Foretells
from services.scoring.reasons import changeable
from services.scoring.sensitive import sensitive_in
from services.scoring.tag_door import PersonTag
from services.scoring.usual import common_values, of_cut
from services.scoring.wording import sentence, value_of


def tag(name: str, sensitivity: str = "internal", expression: str = "", aggregate: str = "", **more: object) -> PersonTag:
    made = PersonTag(name, TAG_TYPE_NUMBER, expression, not expression, sensitivity == "sensitive", "")
    return made._replace(sensitivity=sensitivity, aggregate=aggregate, **more)


CATALOGUE = {
    each.name: each
    for each in (
        tag("app_opens", aggregate="COUNT(*)"),
        tag("age", "personal", aggregate="LAST(age)"),
        tag("loan", "sensitive", aggregate="LAST(loan)"),
        tag("economy", "public", aggregate="LAST(rate)"),
        tag("first_channel", aggregate="FIRST(channel)"),
        tag("last_seen_at", aggregate="MAX(occurred_at)", type=TAG_TYPE_TIME),
        tag("active", expression="app_opens > 3"),
        tag("young", expression="age < 30"),
        tag("young_and_active", expression="young AND active"),
        tag("in_trouble", expression="active AND LOAN = 'yes'"),
        tag("score", type=TAG_TYPE_NUMBER)._replace(from_events=False, score_model="m"),
    )
}


def test_nobody_is_told_to_be_younger_or_that_the_economy_should_grow() -> None:
    assert {"app_opens", "active"} == changeable(CATALOGUE, [*CATALOGUE, "unheard_of"])


@pytest.mark.parametrize(
    ("expression", "found"),
    [("in_trouble", ["loan"]), ('"Loan" = 1', ["loan"]), ("young_and_active", []), ("age > 30 OR 'loan' = 'loan'", [])],
)
def test_what_is_sensitive_is_found_through_other_tags(expression: str, found: list[str]) -> None:
    assert found == sensitive_in([expression], CATALOGUE)


def test_common_values_are_those_of_many() -> None:
    words = Words(np.array([0] * 60 + [1] * 39 + [2] + [-1] * 100, np.int32), ("a", "b", "rare"))
    assert ["a", "b"] == common_values(words)
    assert [0.0, 2.0] == common_values(Numbers(np.array([0.0] * 70 + [2.0] * 30 + [np.nan] * 5)))
    assert [5.0, 25.0, 50.0, 75.0, 95.0] == common_values(Numbers(np.arange(1.0, 101.0)))
    assert [] == common_values(Numbers(np.array([np.nan])))


def test_the_usual_is_a_share_an_effect_or_the_shares_of_classes() -> None:
    frame = Frame(np.arange(4), {})
    labels = np.array([1, 0, 0, 0], np.int32)
    assert 0.25 == of_cut(Cut(frame, labels), Foretells.PROBABILITY)["usual"]
    pushed = Cut(frame, labels, treated=np.array([True, True, False, False]))
    assert 0.5 == of_cut(pushed, Foretells.EFFECT)["usual"]
    classes = of_cut(Cut(frame, np.array([2, 0, 2, 1], np.int32), ("a", "b", "c")), Foretells.CLASS)
    assert ({"a": 0.25, "b": 0.25, "c": 0.5}, 0.5) == (classes["class_shares"], classes["usual"])


def test_reasons_read_like_what_people_say() -> None:
    number, word = Encoding(Feature("t", Kind.NUMBER)), Encoding(Feature("t", Kind.CATEGORY), ("no", "yes"))
    opens = tag("app_opens", title="打开应用次数")
    assert "打开应用次数\uff1a12\uff08+84分\uff09" == sentence("app_opens", value_of(number, 12.0, opens), 83.6, opens)
    seen = tag("last_seen_at", type=TAG_TYPE_TIME, title="最近出现时间")
    assert "最近出现时间\uff1a3天前\uff08-5分\uff09" == sentence("last_seen_at", value_of(number, 3.2, seen), -5.0, seen)
    reachable = tag("has_app", type=TAG_TYPE_BOOLEAN, title="有应用")
    assert "有应用\uff1a是\uff08+1分\uff09" == sentence("has_app", value_of(number, 1.0, reachable), 1.0, reachable)
    job = tag("job", type=TAG_TYPE_CATEGORY, description="Whether she has a job.")
    assert "Whether she has a job: yes (+2)" == sentence("job", value_of(word, 1.0, job), 2.0, job)
    assert "no_such tag".replace("_", " ") + ": unknown (-1)" == sentence(
        "no_such tag", value_of(word, np.nan, None), -1.0, None
    )
