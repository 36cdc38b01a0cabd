"""The gRPC door of leads: converts and decides nothing."""

# ruff: noqa: N802  (methods bear the names of the contract)

from __future__ import annotations

from datetime import datetime
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from troika.orchestrator.v1 import lead_service_pb2 as pb
from troika.orchestrator.v1.lead_service_pb2_grpc import LeadServiceServicer

from chassis import paging
from chassis.errors import InvalidArgument
from chassis.moments import moment, to_us
from chassis.rpc import caller_of
from services.orchestrator.leads import handlers, reactivating
from services.orchestrator.leads.chain import Stage
from services.orchestrator.leads.handlers import Counter, Interest, explanation
from services.orchestrator.leads.reactivating import Silent, Wish
from services.orchestrator.leads.reading import (
    TASK_STATES,
    Assignment,
    Happened,
    Lead,
    Task,
    Wanted,
    lead_of,
    name_of,
    task_name,
    task_of,
)
from services.orchestrator.leads.register import Advisor, Dealer
from services.orchestrator.leads.tasks import NewTask
from services.orchestrator.targets.scoring_door import RankingDoor

PAGE, MOST = 50, 500
Context = grpc.aio.ServicerContext[Any, Any]


class LeadRpc(LeadServiceServicer):
    """troika.orchestrator.v1.LeadService."""

    def __init__(self, room: Counter, scoring: RankingDoor) -> None:
        self._room, self._scoring = room, scoring

    async def CreateLead(self, request: pb.CreateLeadRequest, context: Context) -> pb.CreateLeadResponse:
        """See the contract."""
        stated = Interest(request.person_id, request.interest, request.brand, request.area, request.dealer_code, request.note)
        return pb.CreateLeadResponse(
            lead=_lead(await handlers.create(self._room, stated, request.request_id, caller_of(context)))
        )

    async def GetLead(self, request: pb.GetLeadRequest, context: Context) -> pb.GetLeadResponse:
        """See the contract."""
        lead, steps, assignments = await handlers.get(self._room, lead_of(request.name), request.with_notes)
        return pb.GetLeadResponse(
            lead=_lead(lead), steps=[_step(step) for step in steps], assignments=[_assignment(each) for each in assignments]
        )

    async def ListLeads(self, request: pb.ListLeadsRequest, context: Context) -> pb.ListLeadsResponse:
        """See the contract."""
        size = paging.size(request.page_size, PAGE, MOST)
        wanted = Wanted(
            request.dealer_code,
            request.advisor,
            request.person_id,
            request.stage,
            request.unassigned,
            request.escalated,
            request.overdue,
        )
        listing = f"leads {wanted}"
        (before,) = paging.read(listing, request.page_token, (paging.BIGINT_MAX,))
        leads = await handlers.page(self._room, wanted, before, size + 1)
        return pb.ListLeadsResponse(
            leads=[_lead(lead) for lead in leads[:size]],
            next_page_token=paging.token(listing, leads[size - 1].lead_id) if len(leads) > size else "",
        )

    async def AdvanceLead(self, request: pb.AdvanceLeadRequest, context: Context) -> pb.AdvanceLeadResponse:
        """See the contract."""
        lead = await handlers.advance(
            self._room,
            lead_of(request.name),
            Stage(request.stage),
            moment(request.time, "time") if request.HasField("time") else None,
            request.reason,
            request.note,
            request.request_id,
            caller_of(context),
        )
        return pb.AdvanceLeadResponse(lead=_lead(lead))

    async def AssignLeads(self, request: pb.AssignLeadsRequest, context: Context) -> pb.AssignLeadsResponse:
        """See the contract."""
        if bool(request.name) != bool(request.dealer_code):
            raise InvalidArgument("by hand needs the lead and the dealer", reason="INCOMPLETE", field="dealer_code")
        if request.name and request.dry_run:
            raise InvalidArgument("by hand there is nothing to try", reason="NOT_WITH_NAME", field="dry_run")
        if request.advisor and not request.name:
            raise InvalidArgument("an advisor without a lead", reason="INCOMPLETE", field="advisor")
        if request.name:
            done = await handlers.assign_by_hand(
                self._room, lead_of(request.name), request.dealer_code, request.advisor, caller_of(context)
            )
        else:
            done = await handlers.assign(self._room, request.dry_run)
        return pb.AssignLeadsResponse(
            assignments=[_assignment(each) for each in done.assignments],
            withheld={name_of(lead): why for lead, why in done.withheld.items()},
            lapsed=done.lapsed,
        )

    async def ListTasks(self, request: pb.ListTasksRequest, context: Context) -> pb.ListTasksResponse:
        """See the contract."""
        size = paging.size(request.page_size, PAGE, MOST)
        listing = f"tasks {request.dealer_code} {request.advisor} {request.kind} {request.person_id}"
        after = paging.read(listing, request.page_token, (-1, 0))
        if len(after) != 2:
            raise InvalidArgument("not a page token of this list", reason="INVALID_PAGE_TOKEN", field="page_token")
        found = await handlers.list_tasks(
            self._room, request.dealer_code, request.advisor, request.kind, request.person_id, (after[0], after[1]), size + 1
        )
        token = ""
        if len(found) > size:
            last = found[size - 1]
            token = paging.token(listing, to_us(last.due_at), last.task_id)
        return pb.ListTasksResponse(tasks=[_task(task) for task in found[:size]], next_page_token=token)

    async def CreateTask(self, request: pb.CreateTaskRequest, context: Context) -> pb.CreateTaskResponse:
        """See the contract."""
        caller = caller_of(context)
        task = NewTask(
            f"request/{caller}/{request.request_id}",
            request.person_id,
            request.kind,
            moment(request.due_time, "due_time"),
            words=request.words,
            dealer_code=request.dealer_code,
            advisor=request.advisor,
            author=caller,
        )
        return pb.CreateTaskResponse(task=_task(await handlers.create_task(self._room, task)))

    async def CompleteTask(self, request: pb.CompleteTaskRequest, context: Context) -> pb.CompleteTaskResponse:
        """See the contract."""
        next_at = moment(request.next_time, "next_time") if request.HasField("next_time") else None
        task, following, lead = await handlers.complete(
            self._room, task_of(request.name), request.result, next_at, request.note, caller_of(context)
        )
        return pb.CompleteTaskResponse(
            task=_task(task), next=_task(following) if following else None, lead=_lead(lead) if lead else None
        )

    async def ReactivateLeads(self, request: pb.ReactivateLeadsRequest, context: Context) -> pb.ReactivateLeadsResponse:
        """See the contract."""
        wish = Wish(
            Silent(request.among),
            request.silent_days or reactivating.SILENT_DAYS,
            request.predicate,
            request.limit,
            request.from_score,
            int(request.theme.removeprefix("themes/")) if request.theme else None,
            request.dry_run,
        )
        found = await reactivating.reactivate(self._room, self._scoring, wish, caller_of(context))
        return pb.ReactivateLeadsResponse(
            silent=found.silent,
            scored=found.scored,
            reactivations=[
                pb.Reactivation(
                    lead=name_of(each.lead_id), person_id=each.person_id, score=each.score, probability=each.probability
                )
                for each in found.chosen
            ],
        )

    async def RegisterDealer(self, request: pb.RegisterDealerRequest, context: Context) -> pb.RegisterDealerResponse:
        """See the contract."""
        given = request.dealer
        dealer = Dealer(
            given.dealer_code,
            tuple(given.areas),
            tuple(given.brands),
            given.capacity_per_day,
            given.sla_minutes,
            given.closed,
            tuple(Advisor(a.advisor, a.capacity_per_day, tuple(a.brands), a.away) for a in given.advisors),
            given.version,
            calls_per_day=given.calls_per_day if given.HasField("calls_per_day") else None,
        )
        return pb.RegisterDealerResponse(dealer=_dealer(await handlers.register(self._room, dealer, caller_of(context))))

    async def ListDealers(self, request: pb.ListDealersRequest, context: Context) -> pb.ListDealersResponse:
        """See the contract."""
        size = paging.size(request.page_size, PAGE, MOST)
        dealers = await handlers.list_dealers(self._room, request.after_dealer_code, size)
        return pb.ListDealersResponse(dealers=[_dealer(dealer) for dealer in dealers])


def _lead(lead: Lead) -> pb.Lead:
    return pb.Lead(
        name=name_of(lead.lead_id),
        merged_names=[name_of(each) for each in lead.merged],
        person_id=lead.human_id,
        interest=lead.interest,
        brand=lead.brand,
        area=lead.area,
        source=lead.source,
        stage=pb.LeadStage.ValueType(lead.stage.value),
        stage_time=_stamp(lead.since),
        furthest_stage=pb.LeadStage.ValueType(lead.furthest.value),
        open_time=_stamp(lead.opened_at),
        last_step_time=_stamp(lead.last_at),
        lost_reason=lead.lost_reason,
        dealer_code=lead.dealer_code,
        advisor=lead.advisor,
        assign_time=_stamp(lead.assigned_at),
        sla_due_time=_stamp(lead.sla_due_at),
        escalate_time=_stamp(lead.escalated_at),
        withheld=lead.withheld,
    )


def _step(step: Happened) -> pb.LeadStep:
    return pb.LeadStep(
        stage=pb.LeadStage.ValueType(step.stage.value),
        time=_stamp(step.at),
        interest=step.interest,
        source=step.source,
        dealer_code=step.dealer_code,
        advisor=step.advisor,
        reason=step.reason,
        author=step.author,
        counts=step.counts,
        note=step.note,
    )


def _assignment(given: Assignment) -> pb.LeadAssignment:
    return pb.LeadAssignment(
        lead=name_of(given.lead_id),
        dealer_code=given.dealer_code,
        advisor=given.advisor,
        assign_time=_stamp(given.assigned_at),
        end_time=_stamp(given.ended_at),
        end_reason=given.end_reason,
        score=given.score,
        parts=given.parts,
        explanation=explanation(given.parts),
    )


def _task(task: Task) -> pb.LeadTask:
    return pb.LeadTask(
        name=task_name(task.task_id),
        person_id=task.person_id,
        lead=name_of(task.lead_id) if task.lead_id else "",
        theme=f"themes/{task.theme_id}" if task.theme_id else "",
        kind=task.kind,
        words=task.words,
        dealer_code=task.dealer_code,
        advisor=task.advisor,
        state=TASK_STATES[task.state],
        attempt=task.attempt,
        due_time=_stamp(task.due_at),
        result=task.result,
        complete_time=_stamp(task.completed_at),
    )


def _dealer(dealer: Dealer) -> pb.Dealer:
    return pb.Dealer(
        dealer_code=dealer.dealer_code,
        version=dealer.version,
        areas=dealer.areas,
        brands=dealer.brands,
        capacity_per_day=dealer.capacity_per_day,
        sla_minutes=dealer.sla_minutes,
        closed=dealer.closed,
        advisors=[
            pb.Advisor(advisor=a.advisor, capacity_per_day=a.capacity_per_day, brands=a.brands, away=a.away)
            for a in dealer.advisors
        ],
        author=dealer.author,
        calls_per_day=dealer.calls_per_day,
    )


def _stamp(at: datetime | None) -> Timestamp | None:
    if at is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp
