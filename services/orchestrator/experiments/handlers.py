"""One function per command and question about experiments."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from chassis.db import Database, UnitOfWork
from chassis.errors import FailedPrecondition, NotFound
from services.orchestrator.experiments import analysing
from services.orchestrator.experiments.analysing import Plan, Results
from services.orchestrator.experiments.assigning import OUTSIDE, assign, in_global_holdout
from services.orchestrator.experiments.definitions import (
    Definition,
    Experiment,
    ExperimentId,
    Kind,
    Metric,
    State,
    check,
    name_of,
)
from services.orchestrator.experiments.estimating import Sample
from services.orchestrator.experiments.store import ExperimentStore
from services.orchestrator.experiments.tag_door import ExperimentTags
from services.orchestrator.settings import Settings
from services.orchestrator.store.erasures import ErasureStore
from services.orchestrator.store.holding import hold_off_erasures


@dataclass(frozen=True)
class Laboratory:
    """What the handlers work with."""

    database: Database
    tags: ExperimentTags
    settings: Settings


async def create(room: Laboratory, stated: Definition, request_id: str) -> Experiment:
    """Makes a draft that takes its buckets at once; the same request gives the same experiment."""
    check(stated)
    if request_id and (made := await _made(room, request_id)):
        return made
    await room.tags.check(stated)
    async with room.database.transaction() as uow:
        store = ExperimentStore(uow)
        await _take_buckets(store, stated)
        made = await store.add(stated, request_id)
    if made is None and (made := await _made(room, request_id)) is None:
        raise NotFound("the experiment of this request is gone", reason="EXPERIMENT_NOT_FOUND", field="request_id")
    return made


async def _made(room: Laboratory, request_id: str) -> Experiment | None:
    async with room.database.read() as uow:
        return await ExperimentStore(uow).by_request(request_id)


async def update(room: Laboratory, experiment_id: ExperimentId, version: int, stated: Definition) -> Experiment:
    """Changes a draft that nobody changed meanwhile."""
    check(stated)
    await room.tags.check(stated)
    async with room.database.transaction() as uow:
        store = ExperimentStore(uow)
        known = _found(await store.lock(experiment_id), experiment_id)
        if known.state is not State.DRAFT:
            raise FailedPrecondition(
                f"{known.name} was started and stands still", reason="EXPERIMENT_FROZEN", field="experiment.name"
            )
        if known.version != version:
            raise FailedPrecondition(
                f"{known.name} has been changed since: it is at version {known.version}",
                reason="EXPERIMENT_CHANGED",
                field="experiment.version",
            )
        await _take_buckets(store, stated, experiment_id)
        await store.change(experiment_id, stated)
        return _found(await store.get(experiment_id), experiment_id)


async def _take_buckets(store: ExperimentStore, stated: Definition, but: int = 0) -> None:
    await store.lock_layer(stated.layer)
    if (other := await store.overlapping(stated, but)) is not None:
        raise FailedPrecondition(
            f"{name_of(other)} takes some of these buckets of layer {stated.layer}",
            reason="BUCKETS_TAKEN",
            field="experiment.bucket_from",
        )


async def get(room: Laboratory, experiment_id: ExperimentId) -> Experiment:
    """One experiment; raises NotFound."""
    async with room.database.read() as uow:
        return _found(await ExperimentStore(uow).get(experiment_id), experiment_id)


async def page(room: Laboratory, before: int, size: int) -> list[Experiment]:
    """Up to `size` experiments with ids below `before`, newest first."""
    async with room.database.read() as uow:
        return await ExperimentStore(uow).page(before, size)


async def start(room: Laboratory, experiment_id: ExperimentId) -> Experiment:
    """Starts a draft that tags still understands; a running one stays as it is."""
    known = await get(room, experiment_id)
    if known.state is State.DRAFT:
        await room.tags.check(known.definition)
    async with room.database.transaction() as uow:
        store = ExperimentStore(uow)
        locked = _found(await store.lock(experiment_id), experiment_id)
        if locked.state is State.STOPPED:
            raise FailedPrecondition(f"{locked.name} is over", reason="EXPERIMENT_OVER", field="name")
        if locked.version != known.version:
            raise FailedPrecondition(f"{locked.name} is being changed", reason="EXPERIMENT_CHANGED", field="name")
        if locked.state is State.DRAFT:
            await store.set_state(experiment_id, State.RUNNING)
        return _found(await store.get(experiment_id), experiment_id)


async def stop(room: Laboratory, experiment_id: ExperimentId, reason: str) -> Experiment:
    """Ends an experiment and frees its buckets; one that is over stays as it is."""
    async with room.database.transaction() as uow:
        store = ExperimentStore(uow)
        if _found(await store.lock(experiment_id), experiment_id).state is not State.STOPPED:
            await store.set_state(experiment_id, State.STOPPED, reason)
        return _found(await store.get(experiment_id), experiment_id)


async def assign_variants(room: Laboratory, experiment_id: ExperimentId, persons: Sequence[int]) -> list[str]:
    """The variant of each person, "" for who is in none; logs first exposures.

    A person is who she is now: whoever went into her was exposed for her, too, and the first of them decides.
    """
    experiment = await get(room, experiment_id)
    if experiment.state is State.DRAFT:
        raise FailedPrecondition(f"{experiment.name} has not started", reason="EXPERIMENT_NOT_STARTED", field="name")
    if experiment.state is State.STOPPED:
        return [""] * len(persons)
    settings = room.settings
    async with room.database.read() as uow:
        store = ExperimentStore(uow)
        present = await store.present(persons)
        asked = np.array(sorted(set(present.values())), np.int64)
        variant = dict(await store.exposed(experiment_id, asked.tolist()))
        drawn = assign(asked, experiment)
        # Eligibility is by tags, so that whoever has switched personalisation off takes no part, not any more either.
        out = await store.without_personalisation(asked.tolist(), datetime.now(UTC))
    held = in_global_holdout(asked, settings.global_holdout_salt, settings.global_holdout_share)
    out |= set(asked[held].tolist())
    fresh = asked[(drawn != OUTSIDE) & ~np.isin(asked, [*variant, *out])]
    fresh = fresh[await room.tags.eligible(experiment.definition.eligibility, fresh)]
    if len(fresh):
        covariates, segments = await room.tags.at_exposure(experiment.definition, fresh)
        chosen = dict(zip(asked.tolist(), drawn.tolist(), strict=True))
        variants = [chosen[person] for person in fresh.tolist()]
        async with room.database.transaction() as uow:
            variant |= await _expose(uow, experiment_id, fresh, variants, covariates, segments)
    names = [each.name for each in experiment.definition.variants]
    treated = {person: names[number] for person, number in variant.items() if person not in out}
    return [treated.get(present[person], "") for person in persons]


async def _expose(
    uow: UnitOfWork,
    experiment_id: ExperimentId,
    persons: NDArray[np.int64],
    variants: Sequence[int],
    covariates: Sequence[float | None],
    segments: Sequence[Sequence[str]],
) -> dict[int, int]:
    """Logs exposures of the living while the experiment runs; returns the variants that count."""
    store, erasures = ExperimentStore(uow), ErasureStore(uow)
    await hold_off_erasures(uow)
    erased = await erasures.erased(persons.tolist())
    if _found(await store.lock(experiment_id, share=True), experiment_id).state is not State.RUNNING:
        return {}
    kept = [number for number, person in enumerate(persons.tolist()) if person not in erased]
    living = [int(persons[number]) for number in kept]
    await store.expose(
        experiment_id,
        living,
        [variants[number] for number in kept],
        [covariates[number] for number in kept],
        [segments[number] for number in kept],
    )
    # Asked again: another caller may have been faster, under a number that has become somebody else's meanwhile.
    return dict(await store.exposed(experiment_id, living))


async def results(room: Laboratory, experiment_id: ExperimentId) -> tuple[Experiment, Results]:
    """What came of it so far, of persons whose windows are over."""
    now = datetime.now(UTC)
    async with room.database.read() as uow:
        store = ExperimentStore(uow)
        experiment = _found(await store.get(experiment_id), experiment_id)
        stated = experiment.definition
        exposed = await store.exposures(experiment_id, len(stated.variants))
        rows = [await store.outcomes(experiment, metric, now) for metric in range(len(stated.metrics))]
    # A thread: a million persons take seconds that the doors must not wait for.
    return experiment, await asyncio.to_thread(_analyse, stated, exposed, rows)


def _analyse(stated: Definition, exposed: Sequence[int], rows: Sequence[Sequence[Any]]) -> Results:
    plan = Plan(stated.variants, stated.alpha, stated.planned_persons, always=True)
    samples = [sample_of(stated, metric, each) for metric, each in zip(stated.metrics, rows, strict=True)]
    measured = [analysing.measure(metric, sample, plan) for metric, sample in zip(stated.metrics, samples, strict=True)]
    primary = stated.primary
    tags = {tag: _coded([_segments(row)[number] for row in rows[primary]]) for number, tag in enumerate(stated.segment_tags)}
    segments = analysing.by_segment(stated.metrics[primary], samples[primary], tags, plan)
    return analysing.conclude(exposed, measured, segments, plan)


def sample_of(stated: Definition, metric: Metric, rows: Sequence[Any]) -> Sample:
    """Rows of `ExperimentStore.outcomes` as columns."""
    is_share = metric.kind is Kind.SHARE
    table = np.array([(row[0], row[3], row[4], row[5], row[6], row[7]) for row in rows], np.float64).reshape(-1, 6)
    tag = np.array([np.nan if row[1] is None else row[1] for row in rows], np.float64)
    past = np.minimum(table[:, 4], 1) if is_share else table[:, 3]
    return Sample(
        table[:, 0].astype(np.int64),
        table[:, 5].astype(np.int64),
        np.minimum(table[:, 2], 1) if is_share else table[:, 1],
        table[:, 2],
        past if stated.covariate_past else tag,
    )


def _segments(row: Any) -> list[str]:
    words: list[str] = orjson.loads(row[2]) if isinstance(row[2], (str, bytes)) else row[2]
    return words


def _coded(words: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
    """(codes, words); who has no value is -1."""
    names = sorted(set(words) - {""})
    place = {name: number for number, name in enumerate(names)} | {"": -1}
    return np.array([place[word] for word in words], np.int64), names


def _found(experiment: Experiment | None, experiment_id: ExperimentId) -> Experiment:
    if experiment is None:
        raise NotFound(f"there is no {name_of(experiment_id)}", reason="EXPERIMENT_NOT_FOUND", field="name")
    return experiment
