"""`troika leads …`: leads, tasks and dealers from a terminal."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from troika.orchestrator.v1 import lead_service_pb2 as pb
from troika.orchestrator.v1.lead_service_pb2_grpc import LeadServiceStub

from chassis.run import PlainVerb
from chassis.terminal import moment, shown, table
from services.orchestrator import terminal
from services.orchestrator.leads.chain import LOST_REASONS, STAGES
from services.orchestrator.leads.tasks import RESULTS
from services.orchestrator.terminal import TIMEOUT_S

_SILENT = {"dormant": 1, "off_site": 2, "lost": 3}


async def _list(stub: Any, flags: argparse.Namespace) -> Message:
    stage = pb.LeadStage.ValueType(STAGES[flags.stage].value if flags.stage else 0)
    request = pb.ListLeadsRequest(
        page_size=flags.limit,
        dealer_code=flags.dealer,
        advisor=flags.advisor,
        person_id=flags.person,
        stage=stage,
        unassigned=flags.unassigned,
        escalated=flags.escalated,
        overdue=flags.overdue,
    )
    answer: Message = await stub.ListLeads(request, timeout=TIMEOUT_S)
    return answer


async def _show(stub: Any, flags: argparse.Namespace) -> Message:
    answer: Message = await stub.GetLead(pb.GetLeadRequest(name=flags.lead, with_notes=flags.notes), timeout=TIMEOUT_S)
    return answer


async def _create(stub: Any, flags: argparse.Namespace) -> Message:
    request = pb.CreateLeadRequest(
        person_id=flags.person,
        interest=flags.interest,
        brand=flags.brand,
        area=flags.area,
        dealer_code=flags.dealer,
        request_id=flags.request_id,
    )
    answer: Message = await stub.CreateLead(request, timeout=TIMEOUT_S)
    return answer


async def _advance(stub: Any, flags: argparse.Namespace) -> Message:
    request = pb.AdvanceLeadRequest(
        name=flags.lead,
        stage=pb.LeadStage.ValueType(STAGES[flags.stage].value),
        reason=flags.reason,
        request_id=flags.request_id,
    )
    if flags.time:
        request.time.FromDatetime(flags.time)
    answer: Message = await stub.AdvanceLead(request, timeout=TIMEOUT_S)
    return answer


async def _assign(stub: Any, flags: argparse.Namespace) -> Message:
    request = pb.AssignLeadsRequest(name=flags.lead, dealer_code=flags.dealer, advisor=flags.advisor, dry_run=flags.dry_run)
    answer: Message = await stub.AssignLeads(request, timeout=TIMEOUT_S)
    return answer


async def _tasks(stub: Any, flags: argparse.Namespace) -> Message:
    request = pb.ListTasksRequest(
        page_size=flags.limit, dealer_code=flags.dealer, advisor=flags.advisor, kind=flags.kind, person_id=flags.person
    )
    answer: Message = await stub.ListTasks(request, timeout=TIMEOUT_S)
    return answer


async def _complete(stub: Any, flags: argparse.Namespace) -> Message:
    request = pb.CompleteTaskRequest(name=flags.task, result=flags.result)
    if flags.next:
        request.next_time.FromDatetime(flags.next)
    answer: Message = await stub.CompleteTask(request, timeout=TIMEOUT_S)
    return answer


async def _reactivate(stub: Any, flags: argparse.Namespace) -> Message:
    request = pb.ReactivateLeadsRequest(
        among=pb.SilentLeads.ValueType(_SILENT[flags.among]),
        silent_days=flags.days,
        predicate=flags.predicate,
        limit=flags.limit,
        from_score=flags.from_score,
        theme=flags.theme,
        dry_run=flags.dry_run,
    )
    answer: Message = await stub.ReactivateLeads(request, timeout=TIMEOUT_S)
    return answer


async def _dealers(stub: Any, flags: argparse.Namespace) -> Message:
    answer: Message = await stub.ListDealers(pb.ListDealersRequest(page_size=flags.limit), timeout=TIMEOUT_S)
    return answer


async def _register(stub: Any, flags: argparse.Namespace) -> Message:
    dealer = json_format.Parse(flags.file.read_text(), pb.Dealer())
    answer: Message = await stub.RegisterDealer(pb.RegisterDealerRequest(dealer=dealer), timeout=TIMEOUT_S)
    return answer


def stage_word(stage: int) -> str:
    """A stage as settings name it."""
    return pb.LeadStage.Name(pb.LeadStage.ValueType(stage)).removeprefix("LEAD_STAGE_").lower()


def _history(answer: pb.GetLeadResponse) -> str:
    steps = table(
        ("when", "what", "where from", "by", "counts", "why", "note"),
        [
            (shown(s.time), stage_word(s.stage), s.source, s.author, "yes" if s.counts else "", s.reason, s.note)
            for s in answer.steps
        ],
    )
    return "\n\n".join([_leads([answer.lead]), steps, _assignments(answer.assignments)])


def _distribution(answer: pb.AssignLeadsResponse) -> str:
    held = [f"{lead} stays without anybody: {why}" for lead, why in sorted(answer.withheld.items())]
    return "\n".join([_assignments(answer.assignments), *held, f"{answer.lapsed} had been let lapse"])


def _completion(answer: pb.CompleteTaskResponse) -> str:
    following = (
        f"next: {answer.next.kind} at {shown(answer.next.due_time)}" if answer.HasField("next") else "nothing comes next"
    )
    lead = [_leads([answer.lead])] if answer.HasField("lead") else []
    return "\n".join([_tasks_table([answer.task]), following, *lead])


def _reactivations(answer: pb.ReactivateLeadsResponse) -> str:
    found = [(r.lead, r.person_id, f"{r.score:.0f}", f"{r.probability:.1%}") for r in answer.reactivations]
    return f"{answer.silent} silent, {answer.scored} with a score\n" + table(("lead", "person", "score", "chance"), found)


def _leads(leads: Iterable[pb.Lead]) -> str:
    return table(
        ("lead", "person", "stage", "since", "interest", "dealer", "advisor", "speak by", "remarks"),
        [
            (
                lead.name,
                lead.person_id,
                stage_word(lead.stage),
                shown(lead.stage_time),
                lead.interest,
                lead.dealer_code,
                lead.advisor,
                shown(lead.sla_due_time),
                ", ".join(filter(None, (lead.lost_reason, lead.withheld, *lead.merged_names))),
            )
            for lead in leads
        ],
    )


def _assignments(given: Any) -> str:
    return table(
        ("lead", "dealer", "advisor", "since", "until", "ended by", "why"),
        [
            (a.lead, a.dealer_code, a.advisor, shown(a.assign_time), shown(a.end_time), a.end_reason, a.explanation)
            for a in given
        ],
    )


def _tasks_table(tasks: Iterable[pb.LeadTask]) -> str:
    return table(
        ("task", "by", "kind", "person", "lead", "dealer", "advisor", "state", "result", "what to do"),
        [
            (
                t.name, shown(t.due_time), t.kind, t.person_id, t.lead, t.dealer_code, t.advisor, t.state, t.result, t.words,
            )
            for t in tasks
        ],
    )  # fmt: skip


def _dealers_table(dealers: Iterable[pb.Dealer]) -> str:
    return table(
        ("dealer", "version", "areas", "brands", "leads a day", "minutes", "advisors", ""),
        [
            (
                d.dealer_code,
                d.version,
                ", ".join(d.areas) or "all",
                ", ".join(d.brands) or "all",
                d.capacity_per_day,
                d.sla_minutes or "usual",
                ", ".join(a.advisor + (" (away)" if a.away else "") for a in d.advisors) or "none",
                "closed" if d.closed else "",
            )
            for d in dealers
        ],
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    actions = parser.add_subparsers(dest="action", required=True)

    def action(name: str, about: str, ask: terminal.Ask, tell: terminal.Tell) -> argparse.ArgumentParser:
        return terminal.action(actions, name, about, ask, tell, LeadServiceStub)

    def one(answer: Any) -> str:
        return _leads([answer.lead])

    listing = action("list", "leads, newest first", _list, lambda answer: _leads(answer.leads))
    _whose(listing)
    listing.add_argument("--stage", choices=list(STAGES), default="")
    listing.add_argument("--unassigned", action="store_true", help="that nobody looks after")
    listing.add_argument("--escalated", action="store_true", help="that all have let lapse")
    listing.add_argument("--overdue", action="store_true", help="that nobody spoke to in time")
    show = action("show", "a lead with all that happened", _show, _history)
    _lead(show)
    show.add_argument("--notes", action="store_true", help="with what was noted")
    create = action("create", "somebody is interested", _create, one)
    create.add_argument("person", type=int)
    for name in ("interest", "brand", "area", "dealer", "request-id"):
        create.add_argument(f"--{name}", default="")
    advance = action("advance", "a further step, or a loss", _advance, one)
    _lead(advance)
    advance.add_argument("stage", choices=list(STAGES))
    advance.add_argument("--reason", choices=sorted(LOST_REASONS), default="", help="of a loss")
    advance.add_argument("--time", type=moment, help="ISO 8601, UTC; default: now")
    advance.add_argument("--request-id", default="")
    assign = action("assign", "give out what waits, or one lead by hand", _assign, _distribution)
    assign.add_argument("--lead", default="", type=_lead_name)
    assign.add_argument("--dealer", default="")
    assign.add_argument("--advisor", default="")
    assign.add_argument("--dry-run", action="store_true", help="change nothing")
    tasks = action("tasks", "what is to be done, the most urgent first", _tasks, lambda answer: _tasks_table(answer.tasks))
    _whose(tasks)
    tasks.add_argument("--kind", default="")
    complete = action("complete", "what came of a task", _complete, _completion)
    complete.add_argument("task", type=lambda text: f"tasks/{text.removeprefix('tasks/')}")
    complete.add_argument("result", choices=list(RESULTS))
    complete.add_argument("--next", type=moment, help="when to speak again, ISO 8601, UTC")
    wake = action("reactivate", "speak again to the silent, the likeliest first", _reactivate, _reactivations)
    wake.add_argument("among", choices=list(_SILENT))
    wake.add_argument("--days", type=int, default=0, help="silent for so long; default 30")
    wake.add_argument("--predicate", default="", help="over tags: only whom it holds for")
    wake.add_argument("--limit", type=int, default=100)
    wake.add_argument("--from-score", type=float, default=0)
    wake.add_argument("--theme", default="", help="propose them to it; default: tasks for who looks after them")
    wake.add_argument("--dry-run", action="store_true", help="change nothing")
    action("dealers", "the register", _dealers, lambda answer: _dealers_table(answer.dealers)).add_argument(
        "--limit", type=int, default=50
    )
    register = action(
        "register", "a dealer with all advisors, from a file of JSON", _register, lambda answer: _dealers_table([answer.dealer])
    )
    register.add_argument("file", type=Path, help='{"dealer_code": "D001", "capacity_per_day": 40, "advisors": […]}')


def _whose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dealer", default="")
    parser.add_argument("--advisor", default="")
    parser.add_argument("--person", type=int, default=0)
    parser.add_argument("--limit", type=int, default=50)


def _lead(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lead", type=_lead_name, help="leads/12")


def _lead_name(text: str) -> str:
    return f"leads/{text.removeprefix('leads/')}" if text else ""


VERBS = (PlainVerb("leads", "leads, tasks and dealers", terminal.run, arguments),)
