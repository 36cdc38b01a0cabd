"""One function per command and question about leads. Scoring is asked outside of transactions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from chassis.db import Database, UnitOfWork
from chassis.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from services.orchestrator.leads.assigning import Distributor
from services.orchestrator.leads.chain import STAGES, Stage
from services.orchestrator.leads.consents import closed_to_dealers
from services.orchestrator.leads.distributing import DEFAULT_WEIGHTS
from services.orchestrator.leads.reading import Assignment, Happened, Lead, LeadId, LeadReader, Task, TaskId, Wanted, name_of
from services.orchestrator.leads.register import Dealer, RegisterStore
from services.orchestrator.leads.store import LeadStore, NewStep, step_key
from services.orchestrator.leads.tasks import CALL_LATER, FOLLOW_UP, NewTask, after, create_tasks
from services.orchestrator.settings import Settings
from services.orchestrator.store.erasures import ErasureStore

MANUAL = "by hand"


@dataclass(frozen=True)
class Counter:
    """What the handlers work with."""

    database: Database
    settings: Settings
    distributor: Distributor


@dataclass(frozen=True)
class Interest:
    """What a caller says of a new lead."""

    person_id: int
    interest: str
    brand: str
    area: str
    dealer_code: str
    note: str


async def create(room: Counter, stated: Interest, request_id: str, caller: str) -> Lead:
    """A new lead, or a further step of the one that is there; the same request is the same step."""
    now = datetime.now(UTC)
    key = step_key("request", caller, request_id) if request_id else step_key("created", caller, stated, now.isoformat())
    step = NewStep(
        key,
        0,
        stated.person_id,
        0,
        Stage.LEAD,
        now,
        interest=stated.interest,
        brand=stated.brand,
        area=stated.area,
        source=caller,
        dealer_code=stated.dealer_code,
        author=caller,
        note=stated.note,
    )
    async with room.database.transaction() as uow:
        leads = LeadStore(uow)
        await leads.lock()
        if await ErasureStore(uow).erased([stated.person_id]):
            raise FailedPrecondition("that person was erased", reason="PERSON_ERASED", field="person_id")
        await leads.add([step])
        return _found(await LeadReader(uow).of_step(key), "request_id")


async def get(room: Counter, lead_id: LeadId, with_notes: bool) -> tuple[Lead, list[Happened], list[Assignment]]:
    """A lead with its history and who was given it; raises NotFound."""
    async with room.database.read() as uow:
        reader = LeadReader(uow)
        lead = _found(await reader.get(lead_id), "name")
        steps = await reader.history(lead.lead_id, with_notes)
        return lead, steps, await reader.assignments([lead.lead_id, *lead.merged])


async def page(room: Counter, wanted: Wanted, before: int, size: int) -> list[Lead]:
    """Up to `size` leads with numbers below `before`, newest first."""
    async with room.database.read() as uow:
        return await LeadReader(uow).page(wanted, before, size)


async def advance(
    room: Counter, lead_id: LeadId, stage: Stage, at: datetime | None, reason: str, note: str, request_id: str, caller: str
) -> Lead:
    """A further step of a lead; raises InvalidArgument for a moment to come, and for a reason where nothing was lost."""
    now = datetime.now(UTC)
    if at is not None and at > now:
        raise InvalidArgument("this has not happened yet", reason="IN_THE_FUTURE", field="time")
    if (stage is Stage.LOST) != bool(reason):
        raise InvalidArgument("a loss has a reason, and only a loss", reason="REASON_OF_LOSS", field="reason")
    async with room.database.transaction() as uow:
        leads, reader = LeadStore(uow), LeadReader(uow)
        await leads.lock()
        lead = _found(await reader.get(lead_id), "name")
        key = step_key("advance", caller, request_id or now.isoformat(), lead_id, stage.value)
        await leads.add([_step_of(lead, key, stage, at or now, reason, caller, note)])
        # After delivery an order is the next lead's.
        return _found(await reader.of_step(key), "name")


def _step_of(lead: Lead, key: bytes, stage: Stage, at: datetime, reason: str, caller: str, note: str) -> NewStep:
    return NewStep(
        key,
        0,
        lead.human_id,
        0,
        stage,
        at,
        interest=lead.interest,
        source=caller,
        dealer_code=lead.dealer_code,
        advisor=lead.advisor,
        reason=reason,
        author=caller,
        note=note,
    )


@dataclass(frozen=True)
class Assigned:
    """What a distribution did, or would do."""

    assignments: Sequence[Assignment]
    withheld: Mapping[int, str]
    lapsed: int


async def assign(room: Counter, dry_run: bool) -> Assigned:
    """Gives out what waits; raises ResourceExhausted while another process does."""
    done = await room.distributor.preview() if dry_run else await room.distributor.work_once()
    if done is None:
        raise ResourceExhausted("leads are being given out already", reason="DISTRIBUTION_UNDER_WAY", field="dry_run")
    given = [Assignment(g.lead_id, g.desk.dealer_code, g.desk.advisor, None, None, "", g.score, g.parts) for g in done.given]
    return Assigned(given, done.withheld, done.lapsed)


async def assign_by_hand(room: Counter, lead_id: LeadId, dealer_code: str, advisor: str, caller: str) -> Assigned:
    """Gives one lead to somebody, whatever capacity says; never against consent. Raises FailedPrecondition for what is over."""
    async with room.database.transaction() as uow:
        leads, reader = LeadStore(uow), LeadReader(uow)
        await leads.lock()
        lead = _found(await reader.get(lead_id), "name")
        if lead.stage in (Stage.LOST, Stage.DELIVERED):
            raise FailedPrecondition(f"{name_of(lead.lead_id)} is over", reason="LEAD_OVER", field="name")
        await _known(uow, dealer_code, advisor)
        await room.distributor.give_by_hand(uow, lead.lead_id, lead.human_id, dealer_code, advisor, caller)
        made = await reader.assignments([lead.lead_id])
        return Assigned(made[-1:], {}, 0)


async def _known(uow: UnitOfWork, dealer_code: str, advisor: str) -> None:
    dealers = await RegisterStore(uow).page(dealer_code, 1, just=True)
    if not dealers:
        raise InvalidArgument(f"{dealer_code} is not registered", reason="DEALER_NOT_FOUND", field="dealer_code")
    if advisor and advisor not in {each.advisor for each in dealers[0].advisors}:
        raise InvalidArgument(f"{dealer_code} has no advisor {advisor}", reason="ADVISOR_NOT_FOUND", field="advisor")


async def list_tasks(
    room: Counter, dealer_code: str, advisor: str, kind: str, person_id: int, after_key: tuple[int, int], size: int
) -> list[Task]:
    """Open tasks, the most urgent first; of a person all of them."""
    async with room.database.read() as uow:
        return await LeadReader(uow).tasks(dealer_code, advisor, kind, person_id, after_key, size)


async def create_task(room: Counter, task: NewTask) -> Task:
    """A task that somebody asks for; raises FailedPrecondition for who was erased, and of whom no dealer may be told."""
    now, regimes = datetime.now(UTC), room.settings.consent_regimes
    async with room.database.transaction() as uow:
        if task.dealer_code and await closed_to_dealers(uow, [task.person_id], regimes, now):
            raise FailedPrecondition("no dealer may be told of this person", reason="CONSENT_MISSING", field="dealer_code")
        await create_tasks(uow, [task])
        made = await LeadReader(uow).task_of_key(task.key)
        if made is None:
            raise FailedPrecondition("that person was erased", reason="PERSON_ERASED", field="person_id")
        return made


async def complete(
    room: Counter, task_id: TaskId, result: str, next_at: datetime | None, note: str, caller: str
) -> tuple[Task, Task | None, Lead | None]:
    """(the task, what comes next, the lead); the same result again changes nothing, another one is refused."""
    now = datetime.now(UTC)
    if result == CALL_LATER and next_at is None:
        raise InvalidArgument("when?", reason="MISSING_TIME", field="next_time")
    if next_at is not None and next_at <= now:
        raise InvalidArgument("that is over already", reason="IN_THE_PAST", field="next_time")
    async with room.database.transaction() as uow:
        leads, reader = LeadStore(uow), LeadReader(uow)
        await leads.lock()
        task = _found_task(await reader.task(task_id, lock=True))
        if task.result == result:
            return task, await reader.task_of_key(_next_key(task_id)), await _lead_of(reader, task)
        if task.state != 1:
            raise FailedPrecondition(f"this task is {'done' if task.result else 'cancelled'}", reason="TASK_OVER", field="name")
        await uow.execute(
            "UPDATE lead_task SET state = 2, result = :result, note = :note, completed_at = :now WHERE task_id = :id",
            id=task_id,
            result=result,
            note=note,
            now=now,
        )
        outcome, wait = after(result, task.attempt)
        lead = await _lead_of(reader, task)
        if outcome.stage is not None:
            await leads.add([_step(task, lead, outcome.stage, outcome.reason, now, caller, note)])
        if task.lead_id is not None:
            await uow.execute(
                "UPDATE lead SET attempted_at = COALESCE(attempted_at, :now), sla_due_at = NULL WHERE lead_id = :id",
                id=task.lead_id,
                now=now,
            )
        due_at = next_at or (now + wait if wait else None)
        if due_at is not None and outcome.stage is not Stage.LOST:
            vain = task.attempt + 1 if wait else 1
            again = NewTask(
                _next_key(task_id),
                task.person_id,
                FOLLOW_UP,
                due_at,
                words=task.words,
                dealer_code=task.dealer_code,
                advisor=task.advisor,
                lead_id=task.lead_id,
                theme_id=task.theme_id,
                attempt=vain,
                author=caller,
            )
            await create_tasks(uow, [again])
        done = _found_task(await reader.task(task_id))
        return (
            done,
            await reader.task_of_key(_next_key(task_id)),
            await _lead_of(reader, done) or await _lead_by_task(reader, task),
        )


def _step(task: Task, lead: Lead | None, stage: Stage, reason: str, now: datetime, caller: str, note: str) -> NewStep:
    key = step_key("task", task.task_id, stage.value)
    if lead is not None:
        return _step_of(lead, key, stage, now, reason, caller, note)._replace(
            dealer_code=task.dealer_code, advisor=task.advisor
        )
    return NewStep(
        key, 0, task.person_id, 0, stage, now, source=caller, dealer_code=task.dealer_code, advisor=task.advisor,
        reason=reason, author=caller, note=note,
    )  # fmt: skip


def _next_key(task_id: int) -> str:
    return f"after/{task_id}"


async def _lead_of(reader: LeadReader, task: Task) -> Lead | None:
    return await reader.get(task.lead_id) if task.lead_id is not None else await _lead_by_task(reader, task)


async def _lead_by_task(reader: LeadReader, task: Task) -> Lead | None:
    for stage in STAGES.values():
        if lead := await reader.of_step(step_key("task", task.task_id, stage.value)):
            return lead
    return None


async def register(room: Counter, dealer: Dealer, caller: str) -> Dealer:
    """Writes a dealer with all advisors; raises for other versions and for an advisor named twice."""
    numbers = [each.advisor for each in dealer.advisors]
    for number, advisor in enumerate(numbers):
        if advisor in numbers[:number]:
            raise InvalidArgument(f"{advisor} twice", reason="ADVISOR_TWICE", field=f"dealer.advisors[{number}].advisor")
    async with room.database.transaction() as uow:
        await LeadStore(uow).lock()
        return await RegisterStore(uow).keep(dealer, caller)


async def list_dealers(room: Counter, after_code: str, size: int) -> list[Dealer]:
    """Up to `size` dealers with codes above one, ascending."""
    async with room.database.read() as uow:
        return await RegisterStore(uow).page(after_code, size)


def explanation(parts: Mapping[str, float]) -> str:
    """What spoke for somebody, the weightiest first."""
    if "told" in parts:
        return "a theme's push had told this dealer already"
    if MANUAL in parts:
        return "given by hand"
    said = {
        "dealer": "the customer or a theme named this dealer",
        "area": "serves the area",
        "brand": "sells the brand",
        "load": "has room",
        "success": "success so far",
        "sla": "speaks to people in time",
    }
    weighty = sorted((name for name in DEFAULT_WEIGHTS if parts.get(name, 0) > 0), key=lambda name: (-parts[name], name))
    words = ", ".join(f"{said[name]} ({parts[name]:.2f})" for name in weighty)
    return words + ("; was late with it once, all others were full" if parts.get("again") else "")


def _found(lead: Lead | None, field: str) -> Lead:
    if lead is None:
        raise NotFound("there is no such lead", reason="LEAD_NOT_FOUND", field=field)
    return lead


def _found_task(task: Task | None) -> Task:
    if task is None:
        raise NotFound("there is no such task", reason="TASK_NOT_FOUND", field="name")
    return task
