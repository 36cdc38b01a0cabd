"""The gRPC door of experiments: converts and decides nothing."""

from __future__ import annotations

import math
import re
from typing import Any

import grpc
from troika.orchestrator.v1 import experiment_service_pb2 as pb
from troika.orchestrator.v1.experiment_service_pb2_grpc import ExperimentServiceServicer

from chassis import paging
from chassis.errors import InvalidArgument
from chassis.moments import stamp
from services.orchestrator.experiments import handlers, power
from services.orchestrator.experiments.analysing import BROKEN_SPLIT, Guard, MetricResult, Results
from services.orchestrator.experiments.definitions import Definition, Experiment, Kind, Metric, Role, Variant, id_of
from services.orchestrator.experiments.estimating import Bounds, Effect
from services.orchestrator.experiments.handlers import Laboratory

Context = grpc.aio.ServicerContext[Any, Any]
PAGE, MOST = 50, 500
NAME = re.compile("experiments/[1-9][0-9]{0,17}")
ALPHA, POWER, PLANNED_PERSONS = 0.05, 0.8, 10_000


class ExperimentRpc(ExperimentServiceServicer):
    """troika.orchestrator.v1.ExperimentService."""

    def __init__(self, room: Laboratory) -> None:
        self._room = room

    async def CreateExperiment(  # noqa: N802
        self, request: pb.CreateExperimentRequest, context: Context
    ) -> pb.CreateExperimentResponse:
        """See the contract."""
        made = await handlers.create(self._room, _definition(request.experiment), request.request_id)
        return pb.CreateExperimentResponse(experiment=_experiment(made))

    async def UpdateExperiment(  # noqa: N802
        self, request: pb.UpdateExperimentRequest, context: Context
    ) -> pb.UpdateExperimentResponse:
        """See the contract."""
        given = request.experiment
        # The contract cannot ask for it: the same message makes experiments, which have no name yet.
        if not NAME.fullmatch(given.name):
            raise InvalidArgument("no name of an experiment", field="experiment.name")
        changed = await handlers.update(self._room, id_of(given.name), given.version, _definition(given))
        return pb.UpdateExperimentResponse(experiment=_experiment(changed))

    async def GetExperiment(self, request: pb.GetExperimentRequest, context: Context) -> pb.GetExperimentResponse:  # noqa: N802
        """See the contract."""
        return pb.GetExperimentResponse(experiment=_experiment(await handlers.get(self._room, id_of(request.name))))

    async def ListExperiments(  # noqa: N802
        self, request: pb.ListExperimentsRequest, context: Context
    ) -> pb.ListExperimentsResponse:
        """See the contract."""
        size = paging.size(request.page_size, PAGE, MOST)
        (before,) = paging.read("experiments", request.page_token, (paging.BIGINT_MAX,))
        found = await handlers.page(self._room, before, size + 1)
        more = len(found) > size
        return pb.ListExperimentsResponse(
            experiments=[_experiment(each) for each in found[:size]],
            next_page_token=paging.token("experiments", found[size - 1].experiment_id) if more else "",
        )

    async def StartExperiment(  # noqa: N802
        self, request: pb.StartExperimentRequest, context: Context
    ) -> pb.StartExperimentResponse:
        """See the contract."""
        return pb.StartExperimentResponse(experiment=_experiment(await handlers.start(self._room, id_of(request.name))))

    async def StopExperiment(self, request: pb.StopExperimentRequest, context: Context) -> pb.StopExperimentResponse:  # noqa: N802
        """See the contract."""
        stopped = await handlers.stop(self._room, id_of(request.name), request.reason)
        return pb.StopExperimentResponse(experiment=_experiment(stopped))

    async def AssignVariants(self, request: pb.AssignVariantsRequest, context: Context) -> pb.AssignVariantsResponse:  # noqa: N802
        """See the contract."""
        variants = await handlers.assign_variants(self._room, id_of(request.name), list(request.person_ids))
        return pb.AssignVariantsResponse(variants=variants)

    async def GetExperimentResults(  # noqa: N802
        self, request: pb.GetExperimentResultsRequest, context: Context
    ) -> pb.GetExperimentResultsResponse:
        """See the contract."""
        experiment, found = await handlers.results(self._room, id_of(request.name))
        return _results(experiment, found)

    async def PreviewPower(self, request: pb.PreviewPowerRequest, context: Context) -> pb.PreviewPowerResponse:  # noqa: N802
        """See the contract."""
        needed = power.preview(
            *power.variances(request.baseline, request.deviation, request.minimal_effect),
            minimal_effect=request.minimal_effect,
            weights=list(request.weights),
            alpha=request.alpha or ALPHA,
            power=request.power or POWER,
            persons_per_day=request.persons_per_day,
        )
        fixed, sequential = (pb.Need(persons=n.persons, days=n.days) for n in (needed.fixed, needed.sequential))
        return pb.PreviewPowerResponse(fixed_horizon=fixed, sequential=sequential)


def _definition(given: pb.Experiment) -> Definition:
    return Definition(
        given.title,
        given.layer,
        given.bucket_from,
        given.bucket_to,
        given.eligibility,
        tuple(Variant(variant.name, variant.weight) for variant in given.variants),
        tuple(
            Metric(
                m.name,
                Role(m.role),
                Kind(m.kind),
                m.event,
                m.property,
                m.value,
                m.window_hours,
                m.lower_is_better,
                m.tolerated_harm,
            )
            for m in given.metrics
        ),
        given.covariate_tag,
        given.covariate_past,
        tuple(given.segment_tags),
        given.alpha or ALPHA,
        given.planned_persons or PLANNED_PERSONS,
    )


def _experiment(experiment: Experiment) -> pb.Experiment:
    stated = experiment.definition
    return pb.Experiment(
        name=experiment.name,
        title=stated.title,
        layer=stated.layer,
        bucket_from=stated.bucket_from,
        bucket_to=stated.bucket_to,
        eligibility=stated.eligibility,
        variants=[pb.Variant(name=variant.name, weight=variant.weight) for variant in stated.variants],
        metrics=[
            pb.Metric(
                name=m.name,
                role=pb.MetricRole.ValueType(m.role.value),
                kind=pb.MetricKind.ValueType(m.kind.value),
                event=m.event,
                property=m.field,
                value=m.value,
                window_hours=m.window_hours,
                lower_is_better=m.lower_is_better,
                tolerated_harm=m.tolerated_harm,
            )
            for m in stated.metrics
        ],
        covariate_tag=stated.covariate_tag,
        covariate_past=stated.covariate_past,
        segment_tags=stated.segment_tags,
        alpha=stated.alpha,
        planned_persons=stated.planned_persons,
        state=pb.ExperimentState.ValueType(experiment.state.value),
        version=experiment.version,
        create_time=stamp(experiment.created_at),
        start_time=stamp(experiment.started_at),
        stop_time=stamp(experiment.stopped_at),
        stop_reason=experiment.stop_reason,
    )


def _results(experiment: Experiment, found: Results) -> pb.GetExperimentResultsResponse:
    return pb.GetExperimentResultsResponse(
        experiment=_experiment(experiment),
        sample_ratio=pb.SampleRatio(
            persons=found.exposed, chi_square=found.chi_square, p=found.ratio_p, broken=found.ratio_p < BROKEN_SPLIT
        ),
        metrics=[_metric(result) for result in found.metrics],
        segments=[
            pb.SegmentResult(
                tag=each.tag,
                value=each.value,
                comparison=_comparison(each.variant, each.effect, Guard.NONE),
                persons=each.persons,
                q=each.q,
            )
            for each in found.segments
        ],
        verdict=pb.ExperimentVerdict.ValueType(found.verdict.value),
        winner=found.winner,
        words=found.words,
    )


def _metric(result: MetricResult) -> pb.MetricResult:
    return pb.MetricResult(
        metric=result.metric.name,
        variants=[
            pb.VariantMean(
                variant=each.variant,
                persons=each.arm.persons,
                total=each.arm.total,
                mean=each.arm.adjusted_mean,
                low=each.low,
                high=each.high,
            )
            for each in result.measured
        ],
        comparisons=[_comparison(each.variant, each.effect, each.guard) for each in result.compared],
    )


def _comparison(variant: str, effect: Effect, guard: Guard) -> pb.Comparison:
    return pb.Comparison(
        variant=variant,
        effect=effect.value,
        relative=effect.relative if math.isfinite(effect.relative) else 0.0,
        enough=effect.enough,
        always_valid=_bounds(effect.always),
        fixed_horizon=_bounds(effect.fixed),
        variance_reduction=effect.reduction,
        guardrail=pb.GuardrailVerdict.ValueType(guard.value),
    )


def _bounds(bounds: Bounds) -> pb.Bounds:
    return pb.Bounds(low=bounds.low, high=bounds.high, p=bounds.p)
