"""The gRPC door of models and operations. It converts; it decides nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from troika.scoring.v1 import model_service_pb2 as pb
from troika.scoring.v1.model_service_pb2_grpc import ModelServiceServicer

from chassis import paging
from chassis.db import Database
from chassis.errors import FailedPrecondition, InvalidArgument, NotFound
from chassis.moments import moment, seconds
from services.scoring import evaluating, health, operations, store, trial_store, trials
from services.scoring.artefact import ArtefactRefused
from services.scoring.cutting import Wanted, check_leaks
from services.scoring.domain import TrainingRefused
from services.scoring.models import attributes
from services.scoring.models.specification import Foretells, Specification
from services.scoring.operations import Kind, Operation, State
from services.scoring.registry import Registry
from services.scoring.sensitive import refuse_sensitive
from services.scoring.store import StoredModel
from services.scoring.tag_door import TagDoor
from services.scoring.working import Worker

_STATES = {state: pb.OperationState.Value(f"OPERATION_STATE_{state.value}") for state in State}
_KINDS = {kind: pb.OperationKind.Value(f"OPERATION_KIND_{kind.value}") for kind in Kind}
MAX_VERSIONS = 100
MAX_HORIZON_S = 10 * 366 * 86_400
MAX_TRIAL_S = 2 * 366 * 86_400


class ModelRpc(ModelServiceServicer):
    """troika.scoring.v1.ModelService."""

    def __init__(
        self, database: Database, tags: TagDoor, registry: Registry, worker: Worker, models: Mapping[str, Specification]
    ) -> None:
        self._database, self._tags, self._registry = database, tags, registry
        self._worker, self._models = worker, models

    async def TrainModel(self, request: pb.TrainModelRequest, context: Any) -> pb.TrainModelResponse:  # noqa: N802
        """Refuses what can be known to be wrong now; the rest is for the training to find out."""
        specification = self._specification(request.model)
        wanted = _wanted(request)
        _check(specification, wanted)
        await self._refuse_sensitive(wanted)
        if not wanted.as_of_s:
            try:
                check_leaks(wanted, wanted.features, await self._tags.catalogue(fresh=True))
            except TrainingRefused as refusal:
                raise InvalidArgument(refusal.detail, reason=refusal.reason, field="features") from refusal
        await self._count(**wanted.predicates)
        return pb.TrainModelResponse(operation=await self._start(Kind.TRAIN, request.model, wanted.recorded()))

    async def ScoreEverybody(  # noqa: N802
        self, request: pb.ScoreEverybodyRequest, context: Any
    ) -> pb.ScoreEverybodyResponse:
        """With the version in use."""
        await self._stored(request.model, 0)
        return pb.ScoreEverybodyResponse(operation=await self._start(Kind.SCORE, request.model, {}))

    async def EvaluateModel(  # noqa: N802
        self, request: pb.EvaluateModelRequest, context: Any
    ) -> pb.EvaluateModelResponse:
        """Of the version in use; what is not given is as in its training."""
        stored = await self._stored(request.model, 0)
        asked = evaluating.Asked(
            cut_predicate=request.cut_predicate,
            goal_predicate=request.goal_predicate,
            as_of_s=moment(request.as_of, "as_of").timestamp() if request.HasField("as_of") else 0.0,
            horizon_s=seconds(request.horizon, "horizon"),
            recalibrate=request.recalibrate,
        )
        _check_evaluation(stored, asked)
        await self._count(cut_predicate=asked.cut_predicate, goal_predicate=asked.goal_predicate)
        return pb.EvaluateModelResponse(operation=await self._start(Kind.EVALUATE, request.model, asked.recorded()))

    async def StartTrial(self, request: pb.StartTrialRequest, context: Any) -> pb.StartTrialResponse:  # noqa: N802
        """Of a stored version against the one in use."""
        champion = await self._stored(request.model, 0)
        challenger = await self._loadable(request.model, request.version)
        if challenger == champion.version:
            raise InvalidArgument("this version is the one in use", reason="VERSION_IN_USE", field="version")
        if evaluating.foretells(champion.card) is not Foretells.PROBABILITY:
            raise InvalidArgument("trials are for models of probabilities", reason="NOT_FOR_THIS_MODEL", field="model")
        horizon_s = seconds(request.horizon, "horizon")
        if not 0 < horizon_s <= MAX_TRIAL_S:
            raise InvalidArgument("between now and two years", reason="OUT_OF_RANGE", field="horizon")
        await self._count(cut_predicate=request.cut_predicate, goal_predicate=request.goal_predicate)
        asked = trials.Asked(
            champion=champion.version,
            challenger=challenger,
            cut_predicate=request.cut_predicate,
            goal_predicate=request.goal_predicate,
            horizon_s=horizon_s,
            promote=request.promote,
        )
        return pb.StartTrialResponse(operation=await self._start(Kind.TRIAL, request.model, asked.recorded()))

    async def GetModelHealth(  # noqa: N802
        self, request: pb.GetModelHealthRequest, context: Any
    ) -> pb.GetModelHealthResponse:
        """From what was kept when everybody was scored, and from the last evaluation."""
        stored = await self._stored(request.model, 0)
        async with self._database.read() as uow:
            found = await health.read(uow, request.model, stored.version)
        answer = pb.GetModelHealthResponse(
            model_version=found.version,
            drifts=[pb.Drift(of=drift.of, psi=drift.psi) for drift in found.drifts],
            last_evaluation=found.last_evaluation,
            retrain=bool(found.reasons),
            reasons=found.reasons,
        )
        if found.looked_at is not None:
            answer.looked_at.FromDatetime(found.looked_at)
        return answer

    async def GetOperation(self, request: pb.GetOperationRequest, context: Any) -> pb.GetOperationResponse:  # noqa: N802
        """From the record, whichever process is at work."""
        async with self._database.read() as uow:
            operation = await operations.read(uow, request.operation_id)
        if operation is None:
            raise NotFound("no such operation", reason="UNKNOWN_OPERATION", field="operation_id")
        return pb.GetOperationResponse(operation=_operation(operation))

    async def ListOperations(  # noqa: N802
        self, request: pb.ListOperationsRequest, context: Any
    ) -> pb.ListOperationsResponse:
        """From the records."""
        listing = f"operations {request.model}"
        (before,) = paging.read(listing, request.page_token, (paging.BIGINT_MAX,))
        size = paging.size(request.page_size, 100, 1000)
        async with self._database.read() as uow:
            found = await operations.newest(uow, request.model, before, size + 1)
        more = paging.token(listing, found[size - 1].operation_id) if len(found) > size else ""
        return pb.ListOperationsResponse(operations=[_operation(each) for each in found[:size]], next_page_token=more)

    async def CancelOperation(  # noqa: N802
        self, request: pb.CancelOperationRequest, context: Any
    ) -> pb.CancelOperationResponse:
        """Its worker notices at its next step."""
        async with self._database.transaction() as uow:
            await operations.cancel(uow, request.operation_id)
            await trial_store.forget(uow, request.operation_id)
            operation = await operations.read(uow, request.operation_id)
        if operation is None:
            raise NotFound("no such operation", reason="UNKNOWN_OPERATION", field="operation_id")
        return pb.CancelOperationResponse(operation=_operation(operation))

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:  # noqa: N802
        """The stored card."""
        return pb.GetModelResponse(model=_model(await self._stored(request.model, request.version)))

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:  # noqa: N802
        """From the records: a model without versions has not been trained yet."""
        entries = []
        async with self._database.read() as uow:
            for name, specification in sorted(self._models.items()):
                stored = await store.versions(uow, name, MAX_VERSIONS)
                entries.append(
                    pb.ModelEntry(
                        model=name,
                        purpose=specification.purpose,
                        limits=specification.limits,
                        versions=[_model(each) for each in stored],
                    )
                )
        return pb.ListModelsResponse(models=entries)

    async def PromoteVersion(  # noqa: N802
        self, request: pb.PromoteVersionRequest, context: Any
    ) -> pb.PromoteVersionResponse:
        """In use at once; everybody is scored with it from now on."""
        version = await self._loadable(request.model, request.version)
        async with self._database.transaction() as uow:
            operation = await store.promote(uow, request.model, version)
        if operation is None:
            raise NotFound("no such version", reason="UNKNOWN_VERSION", field="version")
        self._worker.wake.set()
        return pb.PromoteVersionResponse(operation=_operation(operation))

    async def _start(self, kind: Kind, model: str, request: Mapping[str, Any]) -> pb.Operation:
        """Starts work, or finds the same at work; refuses while other work of its kind is."""
        async with self._database.transaction() as uow:
            operation = await operations.start(uow, kind, model, request)
        if operation.request != _plain(request):
            raise FailedPrecondition(f"operation {operation.operation_id} of this model is at work", reason="OPERATION_RUNNING")
        self._worker.wake.set()
        return _operation(operation)

    async def _count(self, **predicates: str) -> None:
        """Refuses a predicate that tags does not understand, naming its field; empty ones are not asked for."""
        for field, predicate in predicates.items():
            if predicate:
                await self._tags.count(predicate, field)

    async def _loadable(self, model: str, version: int) -> int:
        """A version that could serve; refuses a false seal and a type that is not known before anything depends on it."""
        await self._stored(model, version)
        async with self._database.read() as uow:
            try:
                return (await self._registry.version(uow, model, version)).served.version
            except ArtefactRefused as refusal:
                raise FailedPrecondition(refusal.message, reason="MODEL_REFUSED", field="version") from refusal

    async def _stored(self, model: str, version: int) -> StoredModel:
        self._specification(model)
        async with self._database.read() as uow:
            stored = await store.read_model(uow, model, version)
        if stored is not None:
            return stored
        if version:
            raise NotFound("no such version", reason="UNKNOWN_VERSION", field="version")
        raise FailedPrecondition("this model has not been trained yet", reason="MODEL_NOT_TRAINED", field="model")

    async def _refuse_sensitive(self, wanted: Wanted) -> None:
        """Nothing sensitive is ever foretold of anybody or learnt from, by whatever name and through whatever tags."""
        catalogue = await self._tags.catalogue(fresh=True)
        if wanted.label_tag:
            tag = catalogue.get(wanted.label_tag)
            if tag is None:
                raise InvalidArgument(f"unknown tag {wanted.label_tag}", reason="UNKNOWN_TAG", field="label_tag")
            refuse_sensitive("label_tag", f'"{tag.name}"', catalogue)
            try:
                attributes.refuse_sensitive(tag.name, tag.sensitivity, tag.title)
            except TrainingRefused as refusal:
                raise InvalidArgument(refusal.detail, reason="SENSITIVE_TAG", field="label_tag") from refusal
        refuse_sensitive("goal_predicate", wanted.goal_predicate, catalogue)
        refuse_sensitive("features", " ".join(f'"{name}"' for name in wanted.features), catalogue)

    def _specification(self, model: str) -> Specification:
        specification = self._models.get(model)
        if specification is None:
            raise NotFound("no such model", reason="UNKNOWN_MODEL", field="model")
        return specification


def _wanted(request: pb.TrainModelRequest) -> Wanted:
    return Wanted(
        cut_predicate=request.cut_predicate,
        goal_predicate=request.goal_predicate,
        label_tag=request.label_tag,
        treated_predicate=request.treated_predicate,
        features=tuple(request.features),
        as_of_s=tuple(moment(each, f"as_of[{place}]").timestamp() for place, each in enumerate(request.as_of)),
        horizon_s=seconds(request.horizon, "horizon"),
        trusted_features=tuple(request.trusted_features),
        keep_only=request.keep_only,
    )


def _check(specification: Specification, wanted: Wanted) -> None:
    """What a request must say for a model of its kind."""
    foretells = specification.foretells
    needs = {
        "goal_predicate": (foretells is not Foretells.CLASS, bool(wanted.goal_predicate)),
        "label_tag": (foretells is Foretells.CLASS, bool(wanted.label_tag)),
        "treated_predicate": (foretells is Foretells.EFFECT, bool(wanted.treated_predicate)),
    }
    for field, (needed, given) in needs.items():
        if needed and not given:
            raise InvalidArgument(f"this model needs a {field}", reason="REQUIRED", field=field)
        if given and not needed:
            raise InvalidArgument(f"this model takes no {field}", reason="NOT_FOR_THIS_MODEL", field=field)
    if not wanted.as_of_s:
        if not wanted.features:
            raise InvalidArgument(
                "tags of the present may know the outcome: name those to learn from, or give moments of the past in as_of",
                reason="FEATURES_NOT_NAMED",
                field="features",
            )
        if wanted.horizon_s:
            raise InvalidArgument("a horizon needs moments of the past in as_of", reason="REQUIRED", field="as_of")
    else:
        _check_known(wanted.as_of_s, wanted.horizon_s)


def _check_known(cuts_s: Sequence[float], horizon_s: float) -> None:
    """What is asked of moments of the past must be known by now."""
    if horizon_s <= 0:
        raise InvalidArgument("say how long after as_of the outcome is looked at", reason="REQUIRED", field="horizon")
    if horizon_s > MAX_HORIZON_S:
        raise InvalidArgument("ten years at most", reason="OUT_OF_RANGE", field="horizon")
    known = datetime.now(UTC) - timedelta(seconds=horizon_s)
    if max(cuts_s) > known.timestamp():
        raise InvalidArgument(
            f"a cut of after {known:%Y-%m-%d} has outcomes that are to come", reason="FUTURE_LABELS", field="as_of"
        )


def _check_evaluation(stored: StoredModel, asked: evaluating.Asked) -> None:
    """What an evaluation must say for this version."""
    foretells, trained = evaluating.foretells(stored.card), Wanted.of(stored.card["wanted"])
    if asked.recalibrate and foretells is not Foretells.PROBABILITY:
        raise InvalidArgument("only probabilities can be set right", reason="NOT_FOR_THIS_MODEL", field="recalibrate")
    if asked.goal_predicate and foretells is Foretells.CLASS:
        raise InvalidArgument("this model takes no goal_predicate", reason="NOT_FOR_THIS_MODEL", field="goal_predicate")
    if not asked.as_of_s:
        if asked.horizon_s:
            raise InvalidArgument("a horizon needs a moment of the past in as_of", reason="REQUIRED", field="as_of")
        return
    _check_known([asked.as_of_s], asked.horizon_s or trained.horizon_s)


def _plain(request: Mapping[str, Any]) -> dict[str, Any]:
    """A request as it comes back from the database."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in request.items()}


def _operation(operation: Operation) -> pb.Operation:
    answer = pb.Operation(
        operation_id=operation.operation_id,
        kind=_KINDS[operation.kind],
        model=operation.model,
        state=_STATES[operation.state],
        progress=operation.progress,
        reason=operation.reason,
        detail=operation.detail,
        model_version=operation.version,
        persons_scored=operation.persons_scored,
        metrics=operation.metrics,
        verdict=operation.verdict,
    )
    answer.create_time.FromDatetime(operation.created_at)
    if operation.ended_at is not None:
        answer.end_time.FromDatetime(operation.ended_at)
    return answer


def _model(stored: StoredModel) -> pb.Model:
    card = stored.card
    model = pb.Model(
        model=stored.model,
        version=stored.version,
        purpose=card["purpose"],
        limits=card["limits"],
        features=card["features"],
        training_persons=card["training_persons"],
        training_positives=card["training_positives"],
        metrics=card["metrics"],
        artefact_sha256=stored.seal.sha256,
        in_use=stored.in_use,
        cut_predicate=card["wanted"]["cut_predicate"],
        goal_predicate=card["wanted"]["goal_predicate"],
        recalibrated_from=card["recalibrated_from"],
    )
    model.create_time.FromDatetime(stored.created_at)
    return model
