"""The contract as callers see it: themes, suggestions, pages, explanations, and errors that name the field."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from troika.orchestrator.v1 import offer_service_pb2 as offer_pb
from troika.orchestrator.v1 import orchestrator_service_pb2 as pb

from chassis.rpc import reason_of
from tests.integration.orchestrator.conftest import House, theme
from tests.integration.orchestrator.world import MODEL

LATER = Timestamp(seconds=4_000_000_000)
RESPONSE: dict[str, Any] = {"target_rate": 0.1, "least_pushes": 1, "response_hours": 1}
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def band(from_score: float, *channels: str) -> pb.ScoreBand:
    return pb.ScoreBand(from_score=from_score, channels=channels)


async def refusal(call: Any) -> tuple[grpc.StatusCode, str, str]:
    """(code, reason, field) of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), *reason_of(caught.value)


async def test_a_theme_is_stored_as_stated(house: House) -> None:
    stated = await house.stated(
        words="Cars rest in winter",
        values={"model": offer_pb.VariableValue(word="X5"), "price": offer_pb.VariableValue(number=99.5)},
        schedule=pb.Schedule(ends_at=Timestamp(seconds=4_000_000_000)),
        exclusion=pb.Exclusion(group="service", cool_down_days=7),
        waves=pb.Waves(shares=[0.25, 1], target_rate=0.1, least_pushes=50, response_hours=24),
        priority=700,
    )
    stated.budget.max_cost_fen, stated.budget.pacing = 10_000, pb.PACING_EVEN
    made = (await house.call.CreateTheme(pb.CreateThemeRequest(theme=stated))).theme
    assert made == (await house.call.GetTheme(pb.GetThemeRequest(name=made.name))).theme
    assert pb.THEME_STATE_DRAFT == made.state
    assert ("operator", "operator", 1) == (made.owner, made.author, made.version)
    for told in ("name", "state", "create_time", "update_time", "owner", "author", "version", "review"):
        made.ClearField(told)
    assert stated == made


async def test_the_same_request_makes_one_theme(house: House) -> None:
    request = pb.CreateThemeRequest(theme=await house.stated(), request_id="mine")
    first, again = await house.call.CreateTheme(request), await house.call.CreateTheme(request)
    assert first == again
    other = await house.call.CreateTheme(pb.CreateThemeRequest(theme=await house.stated()))
    assert first.theme.name != other.theme.name
    assert 2 == len((await house.call.ListThemes(pb.ListThemesRequest())).themes)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"audience": "no_such_tag = 1"}, "theme.audience"),
        ({"audience": "   "}, "theme.audience"),
        ({"title": ""}, "theme.title"),
        ({"title": "a\0b"}, "theme.title"),
        ({"holdout_share": 0.6}, "theme.holdout_share"),
        ({"holdout_share": float("nan")}, "theme.holdout_share"),
        ({"model": "Robert'); DROP TABLE"}, "theme.model"),
        ({"model": ""}, "theme.model"),
        ({"bands": []}, "theme.bands"),
        ({"bands": [band(0)]}, "theme.bands"),
        ({"bands": [band(1, "app")]}, "theme.bands[0].from_score"),
        ({"bands": [band(0, "app"), band(1001, "app")]}, "theme.bands[1].from_score"),
        ({"bands": [band(0, "app"), band(500), band(500, "app")]}, "theme.bands[2].from_score"),
        ({"bands": [band(0, "telegram")]}, "theme.bands[0].channels[0]"),
        ({"bands": [band(0, "app"), band(5, "app", "wechat")], "purpose": "marketing"}, "theme.bands[1].channels[1]"),
        ({"offers": ["offers/4711"]}, "theme.offers[0]"),
        ({"offers": ["offers/1"], "purpose": "marketing"}, "theme.offers[0]"),
        ({"offers": ["X5"]}, "theme.offers[0]"),
        ({"language": "English"}, "theme.language"),
        ({"values": {"model": offer_pb.VariableValue()}}, "theme.values[model].value"),
        ({"schedule": pb.Schedule(starts_at=LATER, ends_at=LATER)}, "theme.schedule.ends_at"),
        ({"budget": pb.Budget(max_contacts=1, pacing=pb.PACING_EVEN)}, "theme.schedule.ends_at"),
        ({"priority": 1001}, "theme.priority"),
        ({"exclusion": pb.Exclusion()}, "theme.exclusion.group"),
        ({"waves": pb.Waves(**RESPONSE)}, "theme.waves"),
        ({"waves": pb.Waves(shares=[0.5, 0.2], **RESPONSE)}, "theme.waves.shares"),
        ({"waves": pb.Waves(from_scores=[5, 9], **RESPONSE)}, "theme.waves.from_scores"),
        ({"waves": pb.Waves(seeds="job = 'x'", from_scores=[9], **RESPONSE)}, "theme.waves.seeds"),
        ({"waves": pb.Waves(seeds="no_such_tag = 1", shares=[1], **RESPONSE)}, "theme.waves.seeds"),
        ({"budget": pb.Budget(max_contacts=0)}, "theme.budget.max_contacts"),
        ({"budget": None}, "theme.budget"),
        ({"goal": pb.Goal(event="", window_days=1)}, "theme.goal.event"),
        ({"goal": pb.Goal(event="e")}, "theme.goal.window_days"),
        ({"purpose": "spam", "offers": ["offers/1"]}, "theme.purpose"),
    ],
)
async def test_a_theme_that_cannot_be_is_refused_by_field(house: House, changes: dict[str, Any], field: str) -> None:
    code, _, found = await refusal(house.call.CreateTheme(pb.CreateThemeRequest(theme=await house.stated(**changes))))
    assert (INVALID, field) == (code, found)


async def test_what_is_not_there_is_said_to_be_not_there(house: House) -> None:
    missing = "themes/4711"
    for call in (
        house.call.GetTheme(pb.GetThemeRequest(name=missing)),
        house.call.PreviewTheme(pb.PreviewThemeRequest(name=missing)),
        house.call.LaunchTheme(pb.LaunchThemeRequest(name=missing)),
        house.call.GetThemeReport(pb.GetThemeReportRequest(name=missing)),
        house.call.ListDecisions(pb.ListDecisionsRequest(name=missing)),
        house.call.ExplainDecision(pb.ExplainDecisionRequest(name=missing, person_id=1)),
    ):
        assert (grpc.StatusCode.NOT_FOUND, "THEME_NOT_FOUND", "name") == await refusal(call)
    assert (INVALID, "name") == (await refusal(house.call.GetTheme(pb.GetThemeRequest(name="themes/0"))))[::2]


async def test_without_a_model_there_is_no_launch_and_the_theme_stays_as_it_is(house: House) -> None:
    name = await house.ready()
    house.people.has_model = False
    expected = (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_NOT_FOUND", "theme.model")
    assert expected == await refusal(house.call.LaunchTheme(pb.LaunchThemeRequest(name=name)))
    assert expected == await refusal(house.call.PreviewTheme(pb.PreviewThemeRequest(name=name)))
    assert pb.THEME_STATE_APPROVED == (await house.call.GetTheme(pb.GetThemeRequest(name=name))).theme.state


async def test_themes_come_in_pages_newest_first(house: House) -> None:
    names = [await house.make() for _ in range(5)]
    seen: list[str] = []
    token = ""
    while True:
        page = await house.call.ListThemes(pb.ListThemesRequest(page_size=2, page_token=token))
        seen += [t.name for t in page.themes]
        if not (token := page.next_page_token):
            break
    assert names[::-1] == seen


async def test_decisions_come_in_pages_by_person_and_tokens_stay_with_their_listing(house: House) -> None:
    name, other = await house.launch(), await house.make()
    page = await house.call.ListDecisions(pb.ListDecisionsRequest(name=name, page_size=300))
    rest = await house.call.ListDecisions(pb.ListDecisionsRequest(name=name, page_size=300, page_token=page.next_page_token))
    assert "" == rest.next_page_token
    ids = [d.person_id for d in [*page.decisions, *rest.decisions]]
    assert sorted(set(ids)) == ids
    assert 500 == len(ids)
    foreign = house.call.ListDecisions(pb.ListDecisionsRequest(name=other, page_token=page.next_page_token))
    assert (INVALID, "INVALID_PAGE_TOKEN", "page_token") == await refusal(foreign)


async def test_a_decision_can_be_explained(house: House) -> None:
    name = await house.make()
    early = house.call.ExplainDecision(pb.ExplainDecisionRequest(name=name, person_id=1))
    assert (grpc.StatusCode.FAILED_PRECONDITION, "THEME_NOT_LAUNCHED", "name") == await refusal(early)
    name = await house.launch()
    [called, *_] = [d for d in await house.decisions(name) if d.channel == "dealer"]
    answer = await house.call.ExplainDecision(pb.ExplainDecisionRequest(name=name, person_id=called.person_id))
    assert called == answer.decision
    asked = ["consent", "score", "channel", "frequency", "quiet hours", "budget", "holdout"]
    assert asked == [reason.split(":")[0] for reason in answer.reasons]
    outside = house.call.ExplainDecision(pb.ExplainDecisionRequest(name=name, person_id=2))
    assert (grpc.StatusCode.NOT_FOUND, "NO_DECISION", "person_id") == await refusal(outside)


def suggestion(**changes: Any) -> pb.SuggestAudienceRequest:
    stated: dict[str, Any] = {
        "responders": "offer_answer = 'yes'",
        "asked": "offer_answer IS NOT NULL",
        "eligible": "offer_answer IS NULL",
        "model": MODEL,
    }
    return pb.SuggestAudienceRequest(**(stated | changes))


async def test_a_suggested_audience_is_smaller_better_and_built_of_honest_tags(house: House) -> None:
    found = await house.call.SuggestAudience(suggestion())
    assert found == await house.call.SuggestAudience(suggestion())
    assert 500 == found.eligible_size
    assert 0 < found.size < 0.7 * found.eligible_size
    assert found.expected_response > 1.3 * found.eligible_expected_response > 0
    predicates = {term.predicate for term in found.terms}
    assert {"job = 'student'", "previous_outcome = 'success'"} == predicates
    # The answer itself and what is defined over it would give the largest lifts of all.
    assert not any("answer" in predicate for predicate in predicates)
    assert all(term.lift >= 1.2 and term.support >= 20 for term in found.terms)
    assert found.audience.startswith("(offer_answer IS NULL) AND (")
    name = await house.make(audience=found.audience)
    preview = await house.call.PreviewTheme(pb.PreviewThemeRequest(name=name))
    assert found.size == preview.audience


async def test_excluded_tags_are_not_suggested(house: House) -> None:
    found = await house.call.SuggestAudience(suggestion(excluded_tags=["job", "previous_outcome"]))
    assert [] == list(found.terms)
    assert ("offer_answer IS NULL", 500) == (found.audience, found.size)


@pytest.mark.parametrize("field", ["responders", "asked", "eligible"])
async def test_a_predicate_that_tags_refuses_is_named(house: House, field: str) -> None:
    code, reason, found = await refusal(house.call.SuggestAudience(suggestion(**{field: "no_such_tag = 1"})))
    assert (INVALID, "UNKNOWN_TAG", field) == (code, reason, found)


texts = st.text(st.characters(codec="utf-8"), max_size=30)
numbers = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=True)
themes = st.builds(
    lambda title, audience, event, purpose, contacts, calls, share, model, score: theme(
        title=title,
        audience=audience,
        goal=pb.Goal(event=event, window_days=contacts % 2**31),
        purpose=purpose,
        offers=["offers/1"],
        budget=pb.Budget(max_contacts=contacts, max_calls=calls),
        holdout_share=share,
        model=model,
        bands=[pb.ScoreBand(from_score=score, channels=["app"])],
    ),
    texts,
    st.one_of(texts, st.just("job = 'student'")),
    texts,
    st.sampled_from(["marketing", "service", "x"]),
    numbers,
    numbers,
    floats,
    st.one_of(texts, st.just(MODEL)),
    floats,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(themes, texts, texts)
async def test_no_input_ever_gives_an_internal_error(house: House, wild: pb.Theme, token: str, request_id: str) -> None:
    for call in (
        house.call.CreateTheme(pb.CreateThemeRequest(theme=wild, request_id=request_id)),
        house.call.ListThemes(pb.ListThemesRequest(page_token=token)),
        house.call.SuggestAudience(suggestion(eligible=wild.audience, model=wild.model, excluded_tags=[token])),
    ):
        code, field = await outcome(call)
        assert code in (grpc.StatusCode.OK, INVALID, grpc.StatusCode.FAILED_PRECONDITION)
        assert field or code is grpc.StatusCode.OK


async def outcome(call: Any) -> tuple[grpc.StatusCode, str]:
    """(code, field at fault) of a call that may do either."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code(), reason_of(error)[1]
    return grpc.StatusCode.OK, ""
