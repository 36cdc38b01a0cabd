"""The doors of journeys and referrals, with tags behind its own contract."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import numpy as np
import pytest
from troika.identity.v1.events_pb2 import ENTITY_KIND_HOUSEHOLD, ENTITY_KIND_PERSON
from troika.orchestrator.v1 import journey_service_pb2 as pb
from troika.orchestrator.v1.journey_service_pb2_grpc import (
    JourneyServiceStub,
    ReferralServiceStub,
    add_JourneyServiceServicer_to_server,
    add_ReferralServiceServicer_to_server,
)
from troika.scoring.v1.scoring_service_pb2_grpc import add_ScoringServiceServicer_to_server
from troika.tags.v1 import audience_service_pb2 as audiences_pb
from troika.tags.v1 import tags_service_pb2 as tags_pb
from troika.tags.v1.audience_service_pb2_grpc import AudienceServiceServicer, add_AudienceServiceServicer_to_server
from troika.tags.v1.tags_service_pb2_grpc import add_TagsServiceServicer_to_server

from chassis import rpc
from chassis.errors import NotFound
from chassis.rpc import reason_of
from chassis.testing import DatabaseFactory
from services.orchestrator.experiments.handlers import Laboratory
from services.orchestrator.experiments.tag_door import ExperimentTags
from services.orchestrator.journeys.building import Journeys
from services.orchestrator.journeys.catalogue import library
from services.orchestrator.journeys.hearing import Ear
from services.orchestrator.peers import Scoring as ScoringPeer
from services.orchestrator.peers import Tags as TagsPeer
from services.orchestrator.rpc_journeys import JourneyRpc, ReferralRpc
from tests.integration.orchestrator.conftest import settings
from tests.integration.orchestrator.journey_world import Clock, happened
from tests.integration.orchestrator.world import HASHES, SECRET, People, Scoring, Tags

SECRETS = HASHES | {"approver": HASHES["operator"]}
PLAIN = """title: Plain
themes: {hello: themes/1}
trigger: {event: Begun}
steps:
- id: asks
  condition: {holds: job = 'student', then: greet, otherwise: end}
- id: greet
  push: {theme: hello}
- id: rest
  wait: 2 days
"""


class Dated(People):
    """People with days; predicates as tags takes them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.table.execute("ALTER TABLE person ADD COLUMN warranty_until TEXT")
        self.table.execute("ALTER TABLE person ADD COLUMN insurance_until TEXT")
        self.table.execute("ALTER TABLE person ADD COLUMN reachable REAL")
        self.table.execute("ALTER TABLE person ADD COLUMN birthday REAL")
        self.table.execute("ALTER TABLE person ADD COLUMN lead_score REAL")
        self.table.execute("UPDATE person SET lead_score = id, warranty_until = '2026-05-01T00:00:00Z' WHERE id <= 3")
        leap = datetime(2000, 2, 29, tzinfo=UTC).timestamp()
        self.table.execute("UPDATE person SET birthday = ? WHERE id IN (4, 5)", (leap,))
        self.table.execute("UPDATE person SET birthday = ? WHERE id = 6", (leap + 86_400,))

    def select(self, columns: str, predicate: str) -> list[tuple[Any, ...]]:
        plain = re.sub(r"ANY\(vehicle, (.*?)\)", r"\1", predicate).replace("TIMESTAMP ", "")
        return super().select(columns, plain)


class MoreTags(Tags):
    """Also among given persons, and who lives with whom."""

    async def StreamAudience(self, request: Any, context: Any) -> AsyncIterator[tags_pb.StreamAudienceResponse]:  # noqa: N802
        among = np.frombuffer(request.among, "<u4").tolist() if request.among else None
        ids = [row[0] for row in self._people.select("id", request.predicate) if among is None or row[0] in among]
        yield tags_pb.StreamAudienceResponse(packed_ids=np.array(ids, "<u4").tobytes())

    async def ListTags(self, request: Any, context: Any) -> tags_pb.ListTagsResponse:  # noqa: N802
        answer = await super().ListTags(request, context)
        kind, number = tags_pb.TAG_TYPE_CATEGORY, tags_pb.TAG_TYPE_NUMBER
        answer.tags.add(name="journey_stage", entity_kind=ENTITY_KIND_PERSON, type=kind, score_model="journeys")
        answer.tags.add(name="lead_score", entity_kind=ENTITY_KIND_PERSON, type=number, score_model="purchase_intent")
        return answer

    async def GetProfile(self, request: Any, context: Any) -> tags_pb.GetProfileResponse:  # noqa: N802
        household = tags_pb.RelatedEntity(entity_kind=ENTITY_KIND_HOUSEHOLD, entity_id=request.entity_id // 10, relation="m")
        return tags_pb.GetProfileResponse(related=[household])


class Audiences(AudienceServiceServicer):
    async def GetAudience(self, request: Any, context: Any) -> audiences_pb.GetAudienceResponse:  # noqa: N802
        if request.name == "nobody":
            raise NotFound("no such audience", reason="AUDIENCE_NOT_FOUND", field="name")
        kind = 2 if request.name == "cars" else 1
        audience = audiences_pb.Audience(name=request.name, audience_id=1, entity_kind=kind)
        return audiences_pb.GetAudienceResponse(audience=audience, count=42)


@dataclass
class Doors:
    journeys: Journeys
    clock: Clock
    author: Any
    approver: Any
    referrals: Any

    async def made(self, document: str = PLAIN) -> pb.Journey:
        answer = await self.author.CreateJourney(pb.CreateJourneyRequest(document=document))
        return answer.journey

    async def running(self, document: str = PLAIN) -> pb.Journey:
        journey = await self.made(document)
        await self.author.SubmitJourney(pb.SubmitJourneyRequest(name=journey.name, version=1))
        await self.approver.ApproveJourney(pb.ApproveJourneyRequest(name=journey.name, version=1))
        answer = await self.author.StartJourney(pb.StartJourneyRequest(name=journey.name))
        return answer.journey

    async def event(self, name: str, *persons: int, **properties: Any) -> None:
        house = self.journeys.house
        async with house.database.transaction() as uow:
            ear = await Ear.of(uow, house)
            events = [happened(name, person, self.clock.now, **properties) for person in persons]
            await ear.events(uow, [*events, *await self.journeys.referrals.credit(uow, events, self.clock.now)])

    async def tick(self) -> None:
        [worker] = self.journeys.workers(1)
        await worker.look()
        while await worker.work_once():
            pass

    async def rows(self, statement: str) -> Any:
        async with self.journeys.house.database.read() as uow:
            return await uow.rows(statement)


@pytest.fixture
async def doors(databases: DatabaseFactory) -> AsyncIterator[Doors]:
    people = Dated()
    allowed = {f"troika.tags.v1.{name}": frozenset({"orchestrator"}) for name in ("TagsService", "AudienceService")}
    peers = rpc.Server(SECRETS, allowed | {"troika.scoring.v1.ScoringService": frozenset({"orchestrator"})}, False)
    add_TagsServiceServicer_to_server(MoreTags(people), peers.aio)
    add_AudienceServiceServicer_to_server(Audiences(), peers.aio)
    add_ScoringServiceServicer_to_server(Scoring(people), peers.aio)
    target = f"127.0.0.1:{await peers.start('127.0.0.1:0')}"
    chosen, clock = settings(referral_cap=2, time_zone="UTC"), Clock()
    async with databases.database("orchestrator") as database, rpc.connect(target, "orchestrator", SECRET) as channel:
        async with database.transaction() as uow:
            await uow.execute(
                "INSERT INTO theme (request_id, version, owner, state, salt, launch_failure)"
                " SELECT 'r' || n, 1, 'o', 1, 'salt', '' FROM generate_series(1, 3) n"
            )
        laboratory = Laboratory(database, ExperimentTags(channel, 10), chosen)
        journeys = Journeys(database, channel, laboratory, TagsPeer(channel), ScoringPeer(channel), chosen, clock)
        server = rpc.Server(SECRETS, chosen.allowed_callers(), with_reflection=False)
        add_JourneyServiceServicer_to_server(JourneyRpc(journeys.room), server.aio)
        add_ReferralServiceServicer_to_server(ReferralRpc(journeys.referrals), server.aio)
        here = f"127.0.0.1:{await server.start('127.0.0.1:0')}"
        async with rpc.connect(here, "operator", SECRET) as author, rpc.connect(here, "approver", SECRET) as approver:
            stub = JourneyServiceStub(author)
            yield Doors(journeys, clock, stub, JourneyServiceStub(approver), ReferralServiceStub(author))
        await server.stop(0)
    await peers.stop(0)


async def refused(call: Any) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    reason, field = reason_of(error.value)
    return error.value.code(), reason, field


async def test_a_journey_is_written_approved_by_another_run_and_explained(doors: Doors) -> None:
    journey = await doors.running()
    assert (4, 1, "operator", "operator", "approver") == (
        journey.state, journey.running_version, journey.author, journey.submitted_by, journey.approved_by,
    )  # fmt: skip
    people = doors.journeys.room.tags
    students = int(await people.count("job = 'student'", "x"))
    await doors.event("Begun", *range(1, 1001))
    await doors.tick()
    counted = await doors.author.GetJourneyStatistics(pb.GetJourneyStatisticsRequest(name=journey.name))
    assert (1000, students, {"completed": 1000 - students}) == (counted.entered, counted.under_way, dict(counted.exits))
    by_step = {each.step: (each.standing, dict(each.left)) for each in counted.steps}
    assert (0, {"yes": students, "no": 1000 - students}) == by_step["asks"]
    assert (students, {}) == by_step["rest"]
    [(student,)] = await doors.rows("SELECT person_id FROM enrolment WHERE ended_at IS NULL LIMIT 1")
    theirs = await doors.author.ListEnrolments(pb.ListEnrolmentsRequest(person_id=student))
    [enrolment] = theirs.enrolments
    assert ("rest", journey.name, "") == (enrolment.step, enrolment.journey, enrolment.end_reason)
    explained = await doors.author.ExplainEnrolment(pb.ExplainEnrolmentRequest(enrolment_id=enrolment.enrolment_id))
    assert [("asks", "yes", ""), ("greet", "proposed", "themes/1")] == [(p.step, p.outcome, p.theme) for p in explained.path]
    [(occasion,)] = await doors.rows(f"SELECT occasion FROM decision WHERE person_id = {student}")
    assert occasion == explained.path[1].occasion


async def test_nobody_approves_what_she_wrote_or_what_nobody_asked_for(doors: Doors) -> None:
    journey = await doors.made()
    approve = pb.ApproveJourneyRequest(name=journey.name, version=1)
    code, reason, _ = await refused(doors.approver.ApproveJourney(approve))
    assert (grpc.StatusCode.FAILED_PRECONDITION, "VERSION_NOT_SUBMITTED") == (code, reason)
    await doors.author.SubmitJourney(pb.SubmitJourneyRequest(name=journey.name, version=1))
    code, reason, _ = await refused(doors.author.ApproveJourney(approve))
    assert (grpc.StatusCode.PERMISSION_DENIED, "SAME_PERSON") == (code, reason)
    start = pb.StartJourneyRequest(name=journey.name)
    assert "WRONG_JOURNEY_STATE" == (await refused(doors.author.StartJourney(start)))[1]
    changed = await doors.approver.UpdateJourney(pb.UpdateJourneyRequest(name=journey.name, version=1, document=PLAIN))
    assert (1, 2, "") == (changed.journey.state, changed.journey.version, changed.journey.submitted_by)
    assert "JOURNEY_CHANGED" == (await refused(doors.approver.ApproveJourney(approve)))[1]
    # Who submits now has edited nothing of it; both others have, whoever was last.
    await doors.author.SubmitJourney(pb.SubmitJourneyRequest(name=journey.name, version=2))
    for either in (doors.author, doors.approver):
        second = either.ApproveJourney(pb.ApproveJourneyRequest(name=journey.name, version=2))
        assert "SAME_PERSON" == (await refused(second))[1]


UNKNOWN = (
    ("job = 'student'", "jobb = 'student'", "steps[0].condition.holds", "UNKNOWN_TAG"),
    ("themes/1", "themes/99", "themes.hello", "MISSING_THEME"),
    ("{event: Begun}", "{audience: {name: nobody}}", "trigger.audience.name", "AUDIENCE_NOT_FOUND"),
    ("{event: Begun}", "{audience: {name: cars}}", "trigger.audience.name", "AUDIENCE_UNFIT"),
    ("{event: Begun}", "{score: {model: none, crosses: 600}}", "trigger.score.model", "MODEL_NOT_FOUND"),
    ("{event: Begun}", "{date: {tag: no_such_day}}", "trigger.date.tag", "UNKNOWN_TAG"),
    ("wait: 2 days", "update_tag: {tag: job, value: x}", "steps[2].update_tag", "TAG_NOT_OF_JOURNEYS"),
    ("wait: 2 days", "update_tag: {tag: journey_stage, value: 3}", "steps[2].update_tag", "TAG_NOT_OF_JOURNEYS"),
    ("wait: 2 days", "create_task: {kind: dance}", "steps[2].create_task.kind", "UNKNOWN_TASK_KIND"),
    ("wait: 2 days", "ab: {experiment: experiments/9, variants: {a: end}}", "steps[2].ab.experiment", "MISSING_EXPERIMENT"),
    (
        "wait: 2 days",
        "push: {theme: hello, offer: gift}\noffers: {gift: offers/1}",
        "steps[2].push.offer",
        "OFFER_NOT_OF_THEME",
    ),
)


async def test_what_other_rooms_do_not_know_is_named(doors: Doors) -> None:
    async with doors.journeys.house.database.transaction() as uow:
        await uow.execute("INSERT INTO offer (version, reserved, taken) VALUES (1, 0, 0)")
    for old, new, path, reason in UNKNOWN:
        document = PLAIN.replace(old, new)
        answer = await doors.author.ValidateJourney(pb.ValidateJourneyRequest(document=document))
        assert [(path, reason)] == [(fault.path, fault.reason) for fault in answer.faults], new
        code, why, field = await refused(doors.author.CreateJourney(pb.CreateJourneyRequest(document=document)))
        assert (grpc.StatusCode.INVALID_ARGUMENT, reason, f"document.{path}") == (code, why, field)


async def test_ready_made_journeys_need_only_their_themes(doors: Doors) -> None:
    shipped = {each.name: each.document for each in (await doors.author.ListLibrary(pb.ListLibraryRequest())).journeys}
    assert set(library()) == set(shipped)
    for name, document in shipped.items():
        answer = await doors.author.ValidateJourney(pb.ValidateJourneyRequest(document=document))
        assert {"MISSING_THEME"} == {fault.reason for fault in answer.faults}, name
        # Bound to themes, the other rooms know all that it speaks of.
        bound = await doors.author.ValidateJourney(pb.ValidateJourneyRequest(document=bind(document)))
        assert [] == list(bound.faults), name


def bind(document: str) -> str:
    """With theme 1 behind every short name."""
    head, rest = document.split("trigger:", 1)
    return re.sub(r"^  (\w+):$", r"  \1: themes/1", head, flags=re.MULTILINE) + "trigger:" + rest


async def test_dates_let_in_whose_day_it_is_once(doors: Doors) -> None:
    trigger = "{date: {tag: warranty_until, of: vehicle, offset_days: -60, at: 09:00}}"
    document = PLAIN.replace("{event: Begun}", trigger) + "entry: {per: date}\n"
    doors.clock.now = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
    await doors.running(document)
    await doors.tick()
    assert [] == await doors.rows("SELECT person_id FROM enrolment")
    doors.clock.now = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
    counted = await doors.author.CountEntrants(pb.CountEntrantsRequest(document=document))
    assert 3 == counted.count
    await doors.tick()
    await doors.tick()
    rows = await doors.rows("SELECT person_id, object FROM enrolment ORDER BY 1")
    assert [(1, "2026-03-02"), (2, "2026-03-02"), (3, "2026-03-02")] == [tuple(row) for row in rows]
    # A clock that goes back, and days that nothing ran, let nobody in twice.
    doors.clock.now -= timedelta(days=1)
    await doors.tick()
    doors.clock.now += timedelta(days=5)
    await doors.tick()
    assert 3 == len(await doors.rows("SELECT 1 FROM enrolment"))


async def test_birthdays_come_every_year_also_for_those_of_the_29th_of_february(doors: Doors) -> None:
    document = PLAIN.replace("{event: Begun}", "{date: {tag: birthday, yearly: true}}") + "entry: {per: date}\n"
    found = []
    for day in (datetime(2027, 2, 28), datetime(2027, 3, 1), datetime(2028, 2, 29), datetime(2028, 3, 1)):
        doors.clock.now = day.replace(hour=10, tzinfo=UTC)
        found.append((await doors.author.CountEntrants(pb.CountEntrantsRequest(document=document))).count)
    assert [0, 3, 2, 1] == found


async def test_who_stands_above_the_line_at_the_start_has_not_crossed_it(doors: Doors) -> None:
    document = PLAIN.replace("{event: Begun}", "{score: {model: purchase_intent, crosses: 2}}")
    await doors.running(document)
    counted = await doors.author.CountEntrants(pb.CountEntrantsRequest(document=document))
    assert 2 == counted.count
    async with doors.journeys.house.database.transaction() as uow:
        ear = await Ear.of(uow, doors.journeys.house)
        await ear.scores(uow, "purchase_intent", [(1, 5.0, 9), (2, 5.0, 9), (3, 5.0, 9), (4, 5.0, 9)])
    rows = await doors.rows("SELECT person_id FROM enrolment ORDER BY 1")
    assert [1, 4] == [row.person_id for row in rows]


async def test_a_dry_run_says_what_would_happen_and_does_nothing(doors: Doors) -> None:
    [(student, _)] = [(row[0], 0) for row in Dated().select("id", "job = 'student'")[:1]]
    document = PLAIN + "- id: waits\n  wait_until: {event: Bought, timeout: 1 week, then: end, otherwise: again}\n"
    document += "- id: again\n  push: {theme: hello}\ngoal: {event: Ordered}\n"
    asked: dict[str, Any] = {"document": document, "person_id": student}
    alone = await doors.author.SimulateJourney(pb.SimulateJourneyRequest(**asked))
    outcomes = [(p.step, p.outcome, round(p.time.seconds - doors.clock.now.timestamp()) // 86_400) for p in alone.path]
    expected = [("asks", "yes", 0), ("greet", "proposed", 0), ("rest", "waited", 2), ("waits", "timeout", 9)]
    assert [*expected, ("again", "proposed", 9)] == outcomes
    bought = pb.AssumedEvent(event="Bought", after_s=3 * 86_400)
    assert "event" == (await doors.author.SimulateJourney(pb.SimulateJourneyRequest(**asked, events=[bought]))).path[-1].outcome
    ordered = pb.AssumedEvent(event="Ordered", after_s=86_400)
    assert "goal" == (await doors.author.SimulateJourney(pb.SimulateJourneyRequest(**asked, events=[ordered]))).end_reason
    assert [] == await doors.rows("SELECT 1 FROM enrolment") == await doors.rows("SELECT 1 FROM decision")
    code, reason, _ = await refused(doors.author.CountEntrants(pb.CountEntrantsRequest(document=document)))
    assert (grpc.StatusCode.FAILED_PRECONDITION, "NOT_COUNTABLE") == (code, reason)


async def test_a_referral_is_credited_on_both_sides_when_the_referred_orders(doors: Doors) -> None:
    bind = {"referral": ("welcome", "reminder", "credit"), "referral-thanks": ("credit",)}
    for name, aliases in bind.items():
        text = library()[name]
        for alias in aliases:
            text = text.replace(f"  {alias}:\n", f"  {alias}: themes/{1 if name == 'referral' else 2}\n")
        await doors.running(text)
    code = (await doors.referrals.MakeCode(pb.MakeCodeRequest(person_id=10, device="phone"))).code
    assert code == (await doors.referrals.MakeCode(pb.MakeCodeRequest(person_id=10))).code
    redeem = pb.RedeemCodeRequest(person_id=21, code=code.lower(), device="tablet")
    redeemed = (await doors.referrals.RedeemCode(redeem)).referral
    assert (10, 21, False) == (redeemed.referrer_id, redeemed.referred_id, redeemed.credited)
    assert redeemed == (await doors.referrals.RedeemCode(redeem)).referral
    assert [(1, 21)] == [tuple(r) for r in await doors.rows("SELECT theme_id, person_id FROM decision ORDER BY occasion")]
    doors.clock.later(days=3)
    await doors.event("Order Placed", 21, 22)
    await doors.event("Order Placed", 21)
    [listed] = (await doors.referrals.ListReferrals(pb.ListReferralsRequest(person_id=10))).referrals
    assert (True, 50_000, 50_000) == (listed.credited, listed.referrer_fen, listed.referred_fen)
    proposals = {tuple(r) for r in await doors.rows("SELECT theme_id, person_id FROM decision")}
    assert {(1, 21), (2, 10)} == proposals
    assert 3 == len(await doors.rows("SELECT 1 FROM decision"))


async def test_fraud_is_refused_by_name(doors: Doors) -> None:
    code = (await doors.referrals.MakeCode(pb.MakeCodeRequest(person_id=10, device="phone"))).code

    async def redeem(person: int, device: str = "", named: str = code) -> str:
        request = pb.RedeemCodeRequest(person_id=person, code=named, device=device)
        return (await refused(doors.referrals.RedeemCode(request)))[1]

    assert "SELF_REFERRAL" == await redeem(10)
    # Households are tens of persons here.
    assert "SAME_HOUSEHOLD" == await redeem(11)
    assert "SAME_DEVICE" == await redeem(21, "phone")
    assert "CODE_NOT_FOUND" == await redeem(21, named="AAAAAAAA")
    for person in (21, 31):
        await doors.referrals.RedeemCode(pb.RedeemCodeRequest(person_id=person, code=code, device="shop"))
    assert "DEVICE_LIMIT" == await redeem(41, "shop")
    assert "REFERRER_LIMIT" == await redeem(41)
    other = (await doors.referrals.MakeCode(pb.MakeCodeRequest(person_id=50))).code
    assert "ALREADY_REFERRED" == await redeem(21, named=other)
