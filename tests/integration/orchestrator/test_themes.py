"""Themes behind their door: versions, a second person's approval, dry runs, schedules, and edits while they run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from troika.orchestrator.v1 import orchestrator_service_pb2 as pb
from troika.touchpoints.v1 import events_pb2 as touchpoints_pb2

from chassis.testing import DatabaseFactory
from services.orchestrator.launching import Launcher
from services.orchestrator.offers.catalogue import Catalogue
from services.orchestrator.offers.definitions import OfferId, Variant
from services.orchestrator.themes.clock import ThemeClock
from services.orchestrator.themes.store import ThemeStore
from tests.integration.orchestrator.conftest import House, offer, open_house
from tests.integration.orchestrator.test_plans import Explained
from tests.integration.orchestrator.test_rpc import INVALID, refusal
from tests.integration.orchestrator.world import People

PRECONDITION, DENIED = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.PERMISSION_DENIED
DAY = timedelta(days=1)


def at(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


async def get(house: House, name: str, version: int = 0) -> pb.Theme:
    theme: pb.Theme = (await house.call.GetTheme(pb.GetThemeRequest(name=name, version=version))).theme
    return theme


async def edit(house: House, name: str, **changes: Any) -> pb.Theme:
    """The next version, changed in some fields."""
    theme = await get(house, name)
    for field, value in changes.items():
        if hasattr(value, "CopyFrom"):
            getattr(theme, field).CopyFrom(value)
        elif isinstance(value, list):
            del getattr(theme, field)[:]
            getattr(theme, field).extend(value)
        else:
            setattr(theme, field, value)
    updated: pb.Theme = (await house.call.UpdateTheme(pb.UpdateThemeRequest(theme=theme))).theme
    return updated


def submit(house: House, name: str, version: int = 1, **more: bool) -> Any:
    return house.call.SubmitTheme(pb.SubmitThemeRequest(name=name, version=version, **more))


def approve(house: House, name: str, version: int = 1) -> Any:
    return house.second.ApproveTheme(pb.ApproveThemeRequest(name=name, version=version))


async def test_a_theme_is_approved_by_a_second_person(house: House) -> None:
    name = await house.make()
    launch = pb.LaunchThemeRequest(name=name)
    assert (PRECONDITION, "NOT_APPROVED", "name") == await refusal(house.call.LaunchTheme(launch))
    assert (PRECONDITION, "NOT_IN_REVIEW", "version") == await refusal(approve(house, name))
    waiting = (await submit(house, name)).theme
    assert pb.THEME_STATE_IN_REVIEW == waiting.state
    assert (PRECONDITION, "NOT_APPROVED", "name") == await refusal(house.call.LaunchTheme(launch))
    own = house.call.ApproveTheme(pb.ApproveThemeRequest(name=name, version=1))
    assert (DENIED, "SAME_PERSON", "version") == await refusal(own)
    theme = (await approve(house, name)).theme
    assert theme == (await approve(house, name)).theme
    assert (pb.THEME_STATE_APPROVED, 1) == (theme.state, theme.approved_version)
    assert ("operator", "approver", [1]) == (theme.review.submitter, theme.review.reviewer, theme.review.offer_versions)
    assert theme.create_time.ToDatetime() <= theme.review.submit_time.ToDatetime() <= theme.review.review_time.ToDatetime()


async def test_who_is_no_approver_approves_nothing(databases: DatabaseFactory) -> None:
    async with open_house(databases, People(100), theme_approvers=["operator"]) as house:
        name = await house.make()
        await submit(house, name)
        assert (DENIED, "NOT_AN_APPROVER", "version") == await refusal(approve(house, name))
        # The other way round it works: whoever wrote it, the other one approves.
        theme = await house.stated()
        made = (await house.second.CreateTheme(pb.CreateThemeRequest(theme=theme))).theme
        await house.second.SubmitTheme(pb.SubmitThemeRequest(name=made.name, version=1))
        approved = (await house.call.ApproveTheme(pb.ApproveThemeRequest(name=made.name, version=1))).theme
        assert ("approver", "operator") == (approved.owner, approved.review.reviewer)
        # Of two who take turns in editing neither approves the other's last touch; an approved version begins anew.
        for caller, version, expected in ((house.second, 1, []), (house.call, 2, []), (house.second, 3, ["SAME_PERSON"])):
            theme = (await house.call.GetTheme(pb.GetThemeRequest(name=made.name))).theme
            edited = (await caller.UpdateTheme(pb.UpdateThemeRequest(theme=theme))).theme
            await caller.SubmitTheme(pb.SubmitThemeRequest(name=made.name, version=edited.version))
            again = pb.ApproveThemeRequest(name=made.name, version=version + 1)
            assert expected == ([(await refusal(house.call.ApproveTheme(again)))[1]] if expected else [])


async def test_a_rejected_version_says_why_and_the_next_one_starts_anew(house: House) -> None:
    name = await house.make()
    await submit(house, name)
    blank = house.second.RejectTheme(pb.RejectThemeRequest(name=name, version=1, reason="  "))
    assert (INVALID, "reason") == (await refusal(blank))[::2]
    theme = (await house.second.RejectTheme(pb.RejectThemeRequest(name=name, version=1, reason="Too dear"))).theme
    assert (pb.THEME_STATE_DRAFT, pb.VERSION_STATE_REJECTED, "Too dear") == (
        theme.state, theme.review.state, theme.review.reason,
    )  # fmt: skip
    assert (PRECONDITION, "VERSION_REVIEWED", "version") == await refusal(submit(house, name))
    cheaper = await edit(house, name, budget=pb.Budget(max_contacts=10))
    assert (2, pb.VERSION_STATE_DRAFT) == (cheaper.version, cheaper.review.state)
    await submit(house, name, 2)
    await edit(house, name, title="Third")
    assert (PRECONDITION, "VERSION_CHANGED", "version") == await refusal(approve(house, name, 2))
    versions = (await house.call.ListThemeVersions(pb.ListThemeVersionsRequest(name=name))).versions
    assert [
        (3, "Third", pb.VERSION_STATE_DRAFT),
        (2, "Spring service", pb.VERSION_STATE_REPLACED),
        (1, "Spring service", pb.VERSION_STATE_REJECTED),
    ] == [(v.version, v.title, v.review.state) for v in versions]
    assert [300, 10] == [(await get(house, name, v)).budget.max_contacts for v in (1, 2)]
    missing = house.call.GetTheme(pb.GetThemeRequest(name=name, version=4))
    assert (grpc.StatusCode.NOT_FOUND, "THEME_VERSION_NOT_FOUND", "version") == await refusal(missing)


async def test_versions_come_in_pages_and_themes_by_state(house: House) -> None:
    name = await house.make()
    for number in range(2, 6):
        await edit(house, name, title=f"Version {number}")
    seen: list[int] = []
    token = ""
    while True:
        page = await house.call.ListThemeVersions(pb.ListThemeVersionsRequest(name=name, page_size=2, page_token=token))
        seen += [v.version for v in page.versions]
        if not (token := page.next_page_token):
            break
    assert [5, 4, 3, 2, 1] == seen
    ready = await house.ready()
    for state, expected in ((pb.THEME_STATE_APPROVED, [ready]), (pb.THEME_STATE_DRAFT, [name]), (pb.THEME_STATE_PAUSED, [])):
        page = await house.call.ListThemes(pb.ListThemesRequest(states=[state]))
        assert expected == [t.name for t in page.themes]


async def test_of_two_who_edit_the_same_version_the_second_is_told(house: House) -> None:
    name = await house.make()
    read = await get(house, name)
    await edit(house, name, title="Mine")
    read.title = "Yours"
    late = house.call.UpdateTheme(pb.UpdateThemeRequest(theme=read))
    assert (PRECONDITION, "VERSION_CHANGED", "theme.version") == await refusal(late)
    nameless = house.call.UpdateTheme(pb.UpdateThemeRequest(theme=await house.stated()))
    assert (INVALID, "theme.name") == (await refusal(nameless))[::2]


async def test_nobody_and_everybody_are_no_audiences_to_approve_unseen(house: House) -> None:
    nobody, everybody = await house.make(audience="job = 'astronaut'"), await house.make(audience="id > 0")
    assert (PRECONDITION, "EMPTY_AUDIENCE", "theme.audience") == await refusal(submit(house, nobody, confirm_everybody=True))
    assert (PRECONDITION, "EVERYBODY_MATCHED", "confirm_everybody") == await refusal(submit(house, everybody))
    preview = await house.call.PreviewTheme(pb.PreviewThemeRequest(name=everybody))
    assert 1000 == preview.base == preview.audience
    assert [("submit", "EVERYBODY_MATCHED")] == [(each.command, each.reason) for each in preview.obstacles]
    assert pb.THEME_STATE_IN_REVIEW == (await submit(house, everybody, confirm_everybody=True)).theme.state


async def test_a_channel_without_words_and_an_offer_that_expires_are_named(house: House) -> None:
    app_only = await house.offer("service", variants=(Variant("app", "en", "Check-up", "Come by"),))
    wordless = await house.make(offers=[app_only])
    assert (INVALID, "CHANNEL_WITHOUT_WORDS", "theme.bands[0].channels[1]") == await refusal(submit(house, wordless))
    now = datetime.now(UTC)
    brief = await house.offer("service", valid_to=now + 2 * DAY)
    endless = await house.make(offers=[await house.offer("service"), brief])
    assert (PRECONDITION, "OFFER_EXPIRES", "theme.offers[1]") == await refusal(submit(house, endless))
    timely = await edit(house, endless, schedule=pb.Schedule(ends_at=at(now + DAY)))
    await submit(house, endless, timely.version)
    # Until it is approved the offer may be retired.
    await Catalogue(house.database, house.room.tags).retire(OfferId(int(brief.removeprefix("offers/"))))
    assert (PRECONDITION, "OFFER_RETIRED", "theme.offers[1]") == await refusal(approve(house, endless, timely.version))


async def test_what_was_approved_is_sent_whatever_the_catalogue_says_later(house: House) -> None:
    name = await house.make()
    theme = (await submit(house, name)).theme
    offer_id = OfferId(int(theme.offers[0].removeprefix("offers/")))
    variants = tuple(Variant(channel, "en", "Not approved", "Come by") for channel in ("app", "wechat", "dealer"))
    await Catalogue(house.database, house.room.tags).update(offer_id, 1, offer("service", variants=variants), "mallory")
    await approve(house, name)
    await house.call.LaunchTheme(pb.LaunchThemeRequest(name=name))
    assert await Launcher(house.room).work_once()
    assert {"Free check-up"} == {push.title for push in await house.pushes()}


async def test_a_theme_edited_while_it_runs_goes_on_as_it_was_approved(house: House) -> None:
    name = await house.launch(budget=pb.Budget(max_contacts=50, max_calls=5))
    for changes, field in (
        ({"holdout_share": 0.3}, "theme.holdout_share"),
        ({"goal": pb.Goal(event="Order Placed", window_days=30)}, "theme.goal.event"),
    ):
        assert (PRECONDITION, "FIXED_BY_LAUNCH", field) == await refusal(edit(house, name, **changes))
    second = await edit(house, name, budget=pb.Budget(max_contacts=60), title="More of it")
    assert (2, 1, pb.THEME_STATE_RUNNING) == (second.version, second.approved_version, second.state)
    await submit(house, name, 2)
    theme = await get(house, name)
    assert (1, pb.THEME_STATE_RUNNING, pb.VERSION_STATE_IN_REVIEW) == (theme.approved_version, theme.state, theme.review.state)
    await house.second.RejectTheme(pb.RejectThemeRequest(name=name, version=2, reason="Not more"))
    assert (1, pb.THEME_STATE_RUNNING) == ((await get(house, name)).approved_version, (await get(house, name)).state)
    third = await edit(house, name, title="Words only")
    await submit(house, name, third.version)
    theme = (await approve(house, name, third.version)).theme
    assert (3, pb.THEME_STATE_RUNNING) == (theme.approved_version, theme.state)


async def test_what_is_fixed_cannot_slip_in_by_an_edit_before_the_launch(house: House) -> None:
    name = await house.ready()
    await edit(house, name, holdout_share=0.4)
    await submit(house, name, 2)
    await house.call.LaunchTheme(pb.LaunchThemeRequest(name=name))
    assert (PRECONDITION, "FIXED_BY_LAUNCH", "theme.holdout_share") == await refusal(approve(house, name, 2))


async def test_a_paused_theme_hands_nothing_over_until_it_is_resumed(house: House) -> None:
    name = await house.ready()
    assert (PRECONDITION, "NOT_RUNNING", "name") == await refusal(house.call.PauseTheme(pb.PauseThemeRequest(name=name)))
    await house.call.LaunchTheme(pb.LaunchThemeRequest(name=name))
    await house.call.PauseTheme(pb.PauseThemeRequest(name=name))
    assert not await Launcher(house.room).work_once()
    assert [] == await house.pushes()
    theme = (await house.call.ResumeTheme(pb.ResumeThemeRequest(name=name))).theme
    assert (pb.THEME_STATE_RUNNING, True) == (theme.state, theme.launching)
    assert await Launcher(house.room).work_once()
    assert await house.pushes()
    finished = (await house.call.FinishTheme(pb.FinishThemeRequest(name=name))).theme
    assert pb.THEME_STATE_FINISHED == finished.state and finished.HasField("finish_time")
    assert finished == (await house.call.FinishTheme(pb.FinishThemeRequest(name=name))).theme
    for call in (
        house.call.ResumeTheme(pb.ResumeThemeRequest(name=name)),
        house.call.PauseTheme(pb.PauseThemeRequest(name=name)),
        edit(house, name, title="Again"),
    ):
        assert PRECONDITION == (await refusal(call))[0]
    assert (await house.report(name)).decisions["push"]


async def test_a_dry_run_refuses_what_would_be_refused_and_changes_nothing(house: House) -> None:
    stated = await house.stated()
    dry = (await house.call.CreateTheme(pb.CreateThemeRequest(theme=stated, dry_run=True))).theme
    assert ("", pb.THEME_STATE_DRAFT, stated.audience) == (dry.name, dry.state, dry.audience)
    assert [] == list((await house.call.ListThemes(pb.ListThemesRequest())).themes)
    name = await house.make()
    before = await get(house, name)
    assert pb.THEME_STATE_IN_REVIEW == (await submit(house, name, dry_run=True)).theme.state
    assert before == await get(house, name)
    await submit(house, name)
    dry_approval = pb.ApproveThemeRequest(name=name, version=1, dry_run=True)
    assert (DENIED, "SAME_PERSON", "version") == await refusal(house.call.ApproveTheme(dry_approval))
    assert 1 == (await house.second.ApproveTheme(dry_approval)).theme.approved_version
    assert pb.THEME_STATE_IN_REVIEW == (await get(house, name)).state
    await approve(house, name)
    launched = (await house.call.LaunchTheme(pb.LaunchThemeRequest(name=name, dry_run=True))).theme
    assert pb.THEME_STATE_RUNNING == launched.state
    assert not await Launcher(house.room).work_once()
    assert pb.THEME_STATE_APPROVED == (await get(house, name)).state


async def test_a_preview_speaks_of_every_stage_even_of_a_theme_that_nobody_made(house: House) -> None:
    stated = await house.stated()
    unmade = await house.call.PreviewTheme(pb.PreviewThemeRequest(theme=stated))
    assert [] == list((await house.call.ListThemes(pb.ListThemesRequest())).themes)
    assert (500, 1000, 300) == (unmade.audience, unmade.base, unmade.chosen)
    assert {"app", "wechat", "dealer"} == set(unmade.reach_by_channel)
    words = [(each.offer_version, each.channel, each.title, each.body) for each in unmade.words]
    assert [(1, channel, "Free check-up", "Come by") for channel in ("app", "wechat", "dealer")] == words
    assert all(unmade.reach_by_channel[channel] >= n for channel, n in unmade.pushes_by_channel.items())
    now = datetime.now(UTC)
    name = await house.make(schedule=pb.Schedule(starts_at=at(now + DAY)))
    for expected in ([], [], ["TOO_EARLY"]):
        preview = await house.call.PreviewTheme(pb.PreviewThemeRequest(name=name))
        assert expected == [each.reason for each in preview.obstacles]
        if not expected:
            await (submit(house, name) if (await get(house, name)).state == pb.THEME_STATE_DRAFT else approve(house, name))
    both = house.call.PreviewTheme(pb.PreviewThemeRequest(name=name, theme=stated))
    assert (INVALID, "name") == (await refusal(both))[::2]
    # Touchpoints says what it has endpoints for: before it does, nobody knows.
    told = [touchpoints_pb2.ChannelState(channel=channel) for channel in ("app", "dealer", "sms")]
    health = touchpoints_pb2.ChannelsHealth(channels=told, at_us=round(now.timestamp() * 1e6))
    await house.hear("troika.channels.health.v1", health)
    other = await house.make()
    preview = await house.call.PreviewTheme(pb.PreviewThemeRequest(name=other))
    assert {"there is no endpoint for wechat"} == {obstacle.message for obstacle in preview.obstacles}
    expected = (PRECONDITION, "CHANNEL_WITHOUT_ENDPOINT", "theme.bands[0].channels[1]")
    assert expected == await refusal(submit(house, other))


async def test_a_theme_starts_and_ends_when_its_schedule_says_so(house: House) -> None:
    now = datetime.now(UTC)
    name = await house.ready(schedule=pb.Schedule(starts_at=at(now + DAY), ends_at=at(now + 2 * DAY)))
    clock = ThemeClock(house.room)
    await clock.tick()
    assert pb.THEME_STATE_APPROVED == (await get(house, name)).state

    async def shift(end: str, days: int) -> None:
        moment = (now + timedelta(days=days)).isoformat()
        async with house.transaction() as uow:
            await uow.execute(
                "UPDATE theme_version"
                " SET definition = jsonb_set(definition, CAST(:path AS text[]), to_jsonb(CAST(:at AS text)))",
                path=["schedule", end],
                at=moment,
            )

    await shift("starts_at", -1)
    house.people.has_model = False
    await clock.tick()
    theme = await get(house, name)
    assert (pb.THEME_STATE_APPROVED, "MODEL_NOT_FOUND") == (theme.state, theme.launch_failure)
    house.people.has_model = True
    await clock.tick()
    # Somebody has to look at it first.
    assert pb.THEME_STATE_APPROVED == (await get(house, name)).state
    async with house.transaction() as uow:
        await uow.execute("UPDATE theme SET launch_failure = ''")
    await clock.tick()
    assert pb.THEME_STATE_RUNNING == (await get(house, name)).state
    assert await Launcher(house.room).work_once()
    await shift("ends_at", 0)
    await clock.tick()
    assert pb.THEME_STATE_FINISHED == (await get(house, name)).state


async def test_what_every_batch_of_events_asks_is_answered_by_index(house: House) -> None:
    async with house.transaction() as uow:
        await uow.execute(
            "INSERT INTO theme (version, approved_version, owner, state, salt, launch_failure, launched_at)"
            " SELECT 1, 1, 'operator', 6, '', '', now() - n * interval '10 days' FROM generate_series(1, 3000) n"
        )
        await uow.execute(
            "INSERT INTO theme_version (theme_id, version, definition, offer_versions, author, state, submitter, reviewer,"
            " reason) SELECT theme_id, 1, jsonb_build_object('goal', jsonb_build_object('window_days', 30), 'audience',"
            " (SELECT string_agg(md5(i::text || theme_id), '') FROM generate_series(1, 50) i)), '{}', '', 3, '', '', ''"
            " FROM theme"
        )
        for table in ("theme", "theme_version"):
            await uow.execute(f"ANALYZE {table}")
    async with house.transaction() as uow:
        explained = Explained(uow)
        await ThemeStore(explained).counting(datetime.now(UTC))
        assert "ix_theme_launched_at" in explained.plan
        assert "Seq Scan on theme" not in explained.plan
