"""What words mean, which terms are looked at and why, and who reached a goal before."""

from __future__ import annotations

import re

import pytest
from troika.tags.v1 import tags_service_pb2 as tags_pb2

from chassis.errors import FailedPrecondition
from services.orchestrator.domain.suggesting import Term
from services.orchestrator.suggesting.alternatives import candidates
from services.orchestrator.suggesting.goals import SoughtGoal, predicates_of
from services.orchestrator.suggesting.words import Finder, Match, groups, tokens, widened

TEXTS = {
    "job = 'student'": "job 职业 Occupation, as the newest record says. student",
    "job = 'retired'": "job 职业 Occupation, as the newest record says. retired",
    "test_drive_page_views >= 2": "test_drive_page_views 试驾页浏览次数 How many pages about test drives were looked at",
    "service_due": "service_due 保养到期 Whether the next service is due",
    "warranty_end < 30": "warranty_end 质保到期 When the warranty ends",
    "previous_outcome = 'success'": "previous_outcome 上次营销结果 What came of the campaign before success",
    "has_wechat": "has_wechat 关注公众号 Whether the person follows the WeChat account",
}


def best(asked: str) -> str:
    found = Finder(TEXTS).find(asked)
    return max(found, key=lambda name: found[name].similarity) if found else ""


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("A test drive this summer for those who look for their next car", "test_drive_page_views >= 2"),
        ("夏季试驾活动", "test_drive_page_views >= 2"),
        ("保养提醒", "service_due"),
        ("maintenance reminder for cars", "service_due"),
        ("质保快到期的客户续保", "warranty_end < 30"),
        ("给年轻人的优惠", "job = 'student'"),
        ("退休客户", "job = 'retired'"),
        ("those who said yes to the previous campaign", "previous_outcome = 'success'"),
        ("微信", ""),
        ("", ""),
        ("the person who has one", ""),
    ],
)
def test_words_of_either_language_find_the_tag_that_they_mean(asked: str, expected: str) -> None:
    assert expected == best(asked)


def test_a_match_shows_its_words_and_is_a_cosine() -> None:
    found = Finder(TEXTS).find("试驾 test drives and maintenance")
    assert {"试驾", "test"} <= set(found["test_drive_page_views >= 2"].words)
    assert all(0 < match.similarity <= 1 for match in found.values())
    assert found == Finder(TEXTS).find("试驾 test drives and maintenance")
    same = Finder({"a": "leather seats", "b": "heated mirrors"}).find("leather seats")
    assert 1 == pytest.approx(same["a"].similarity)
    assert "b" not in same


def test_synonyms_widen_and_no_word_stands_in_two_groups_of_the_list() -> None:
    assert {"repair", "保养"} <= set(widened("maintenance"))
    assert ["leather"] == widened("leather")
    words = [word for group in groups() for word in group]
    assert [] == sorted({word for word in words if words.count(word) > 1})
    assert all(re.fullmatch(r"[a-z][a-z-]*|[\u3400-\u9fff]+", word) for word in words)
    assert ["last", "seen"] != tokens("last_seen_at")


def test_proven_terms_come_with_figures_and_named_ones_with_words_and_leaks_not_at_all() -> None:
    terms = [
        Term("job", "job = 'student'", 80, 2.5, 9.0),
        Term("job", "job = 'retired'", 40, 1.1, 1.0),
        Term("city", "city = 'X'", 40, 1.1, 1.0),
        Term("offer_answer", "offer_answer = 'yes'", 100, 9.0, 30.0),
        Term("speaks_against", "speaks_against", 3, 0.4, -5.0),
    ]
    named = {
        "job = 'retired'": Match(0.6, ("退休",)),
        "speaks_against": Match(0.9, ("against",)),
        "offer_answer = 'yes'": Match(0.9, ("answer",)),
    }
    found = candidates(terms, named, frozenset({"offer_answer"}), any_converters=True)
    assert ["job = 'student'", "job = 'retired'"] == [each.term.predicate for each in found]
    assert "2.50 times as frequent among 100 converters, 80 have it" == found[0].why(100)
    assert "named by 退休 (nearness 0.60)" == found[1].why(100)
    # Where nobody ever converted, words are all there is.
    nobody = candidates(terms, named, frozenset({"offer_answer"}), any_converters=False)
    assert "speaks_against" in {each.term.predicate for each in nobody}


def tag(name: str, kind: int, expression: str) -> tags_pb2.Tag:
    return tags_pb2.Tag(name=name, type=tags_pb2.TagType.ValueType(kind), expression=expression, from_events=True)


CATALOGUE = {
    each.name: each
    for each in (
        tag("offer_answer", tags_pb2.TAG_TYPE_CATEGORY, "LAST(answer) FILTER (WHERE event = 'Offer Answered')"),
        tag("answers_90d", tags_pb2.TAG_TYPE_NUMBER, "COUNT(*) FILTER (WHERE event = 'Offer Answered' AND days <= 90)"),
        tag("orders", tags_pb2.TAG_TYPE_NUMBER, "COUNT(*) FILTER (WHERE event = 'Order Placed')"),
        tag("wishes", tags_pb2.TAG_TYPE_NUMBER, "COUNT(*) FILTER (WHERE event IN ('Order Placed', 'Wish'))"),
        tags_pb2.Tag(name="buyer", type=tags_pb2.TAG_TYPE_BOOLEAN, expression="orders >= 1"),
    )
}


def test_who_reached_a_goal_is_what_the_simplest_tag_over_that_event_says() -> None:
    answered = SoughtGoal("Offer Answered", "answer", "it's")
    assert ("offer_answer = 'it''s'", "offer_answer IS NOT NULL") == predicates_of(answered, CATALOGUE)
    assert ("orders >= 1", "TRUE") == predicates_of(SoughtGoal("Order Placed", "", ""), CATALOGUE)
    for unseen in (SoughtGoal("Order Placed", "price", "1"), SoughtGoal("Wish", "", ""), SoughtGoal("Never", "", "")):
        with pytest.raises(FailedPrecondition, match="no tag tells"):
            predicates_of(unseen, CATALOGUE)
