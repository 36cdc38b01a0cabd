"""Suggestions behind their door: from words and a goal to three audiences that say why."""

from __future__ import annotations

from typing import Any

import grpc
from troika.orchestrator.v1 import orchestrator_service_pb2 as pb

from bench.orchestrator_decide import run_theme
from tests.integration.orchestrator.conftest import House
from tests.integration.orchestrator.laboratory import refused
from tests.integration.orchestrator.world import MODEL

GOAL = pb.Goal(event="Offer Answered", property="answer", value="yes", window_days=30)


async def suggested(house: House, **changes: Any) -> pb.SuggestAudienceResponse:
    stated: dict[str, Any] = {"goal": GOAL, "eligible": "offer_answer IS NULL", "model": MODEL}
    answer: pb.SuggestAudienceResponse = await house.call.SuggestAudience(pb.SuggestAudienceRequest(**(stated | changes)))
    return answer


async def test_a_goal_says_who_converted_as_well_as_predicates_do(house: House) -> None:
    by_goal = await suggested(house)
    assert ("offer_answer = 'yes'", "offer_answer IS NOT NULL") == (by_goal.responders, by_goal.asked)
    by_hand = await suggested(house, responders="offer_answer = 'yes'", asked="offer_answer IS NOT NULL")
    assert by_goal == by_hand
    [(converters,)] = house.people.select("count(*)", "offer_answer = 'yes'")
    assert converters == by_goal.converters


async def test_three_appetites_keep_more_and_more_of_the_expected_responses(house: House) -> None:
    found = await suggested(house, unit_cost_fen={"app": 1, "wechat": 2, "dealer": 500})
    kept = [each.kept_share for each in found.alternatives]
    assert sorted(kept) == kept
    assert 1 <= len(found.alternatives) <= 3
    for each in found.alternatives:
        people = {row[0] for row in house.people.select("id", each.audience)}
        assert len(people) == each.size
        app, wechat, dealer = (
            {row[0] for row in house.people.select("id", p)} & people
            for p in ("has_app", "has_wechat", "dealer_code IS NOT NULL")
        )
        assert {"app": len(app), "wechat": len(wechat), "dealer": len(dealer)} == dict(each.reach)
        assert len(app) + 2 * len(wechat - app) + 500 * len(dealer - wechat - app) == each.cost_fen
        assert each.expected_responses > found.eligible_expected_response * each.size
        assert all("converters" in term.why and 0 < term.held_share <= 1 for term in each.terms)


async def test_words_bring_in_tags_that_they_name_and_the_answer_says_which(house: House) -> None:
    without = {term.predicate for each in (await suggested(house)).alternatives for term in each.terms}
    found = await suggested(house, words="An offer for people who work in services 已退休客户")
    named = {term.predicate: term for each in found.alternatives for term in each.terms if term.nearness}
    assert named.keys() - without or named.keys() & without
    for term in named.values():
        assert term.named_by
        assert "named by" in term.why


async def test_tags_that_follow_from_the_outcome_stay_out_even_when_words_name_them(house: House) -> None:
    found = await suggested(house, words="answer yes offer answer class")
    predicates = {term.predicate for each in found.alternatives for term in each.terms}
    assert not any("answer" in predicate for predicate in predicates)


async def test_running_themes_that_reach_the_same_people_are_named(house: House) -> None:
    async with house.transaction() as uow:
        await run_theme(uow, [], 0.0, 0, audience="job = 'student'")
        await run_theme(uow, [], 0.0, 0, audience="job = 'nobody'")
    found = await suggested(house)
    for each in found.alternatives:
        [(both,)] = house.people.select("count(*)", f"({each.audience}) AND job = 'student'")
        assert [("Bench", both)] == [(o.title, o.persons) for o in each.overlaps]


async def test_without_responders_and_without_a_goal_somebody_must_say_more(house: House) -> None:
    request = pb.SuggestAudienceRequest(eligible="TRUE", model=MODEL)
    assert (grpc.StatusCode.INVALID_ARGUMENT, "NO_CONVERTERS", "responders") == await refused(
        house.call.SuggestAudience(request)
    )
    unseen = pb.SuggestAudienceRequest(eligible="TRUE", model=MODEL, goal=pb.Goal(event="Never", window_days=1))
    expected = (grpc.StatusCode.FAILED_PRECONDITION, "GOAL_WITHOUT_TAG", "goal")
    assert expected == await refused(house.call.SuggestAudience(unseen))


async def test_a_goal_that_nobody_reached_leaves_the_words(house: House) -> None:
    never = pb.Goal(event="Offer Answered", property="answer", value="perhaps", window_days=30)
    found = await suggested(house, goal=never, words="app users")
    assert 0 == found.converters
    assert {"has_app"} == {term.predicate for each in found.alternatives for term in each.terms}
