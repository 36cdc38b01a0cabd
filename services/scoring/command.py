"""Verbs of the command line about models: they ask a running service over gRPC, in the name of the operator.

Long work goes on in the service when the command is stopped; `operations` finds it again.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from troika.scoring.v1 import model_service_pb2 as pb
from troika.scoring.v1.model_service_pb2_grpc import ModelServiceStub

from chassis import terminal
from chassis.run import PlainVerb

if TYPE_CHECKING:
    # The stub over a channel of asyncio has a type of its own only for those who check types.
    from troika.scoring.v1.model_service_pb2_grpc import ModelServiceAsyncStub

TIMEOUT_S: Final = 30.0
ASK_EVERY_S: Final = 0.5
BAR: Final = 30
_UNITS: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}

Ask = Callable[["ModelServiceAsyncStub", argparse.Namespace], Coroutine[Any, Any, int]]


async def _train(models: ModelServiceAsyncStub, flags: argparse.Namespace) -> int:
    request = pb.TrainModelRequest(
        model=flags.model,
        cut_predicate=flags.cut,
        goal_predicate=flags.goal,
        label_tag=flags.label,
        treated_predicate=flags.treated,
        features=_names(flags.features),
        trusted_features=_names(flags.trusted),
        keep_only=flags.keep_only,
    )
    for moment in _names(flags.as_of):
        request.as_of.add().FromDatetime(_moment(moment))
    if flags.horizon:
        request.horizon.FromTimedelta(flags.horizon)
    return await _follow(models, flags, (await models.TrainModel(request, timeout=TIMEOUT_S)).operation)


async def _score(models: ModelServiceAsyncStub, flags: argparse.Namespace) -> int:
    answer = await models.ScoreEverybody(pb.ScoreEverybodyRequest(model=flags.model), timeout=TIMEOUT_S)
    return await _follow(models, flags, answer.operation)


async def _evaluate(models: ModelServiceAsyncStub, flags: argparse.Namespace) -> int:
    request = pb.EvaluateModelRequest(
        model=flags.model, cut_predicate=flags.cut, goal_predicate=flags.goal, recalibrate=flags.recalibrate
    )
    if flags.as_of:
        request.as_of.FromDatetime(flags.as_of)
    if flags.horizon:
        request.horizon.FromTimedelta(flags.horizon)
    return await _follow(models, flags, (await models.EvaluateModel(request, timeout=TIMEOUT_S)).operation)


async def _trial(models: ModelServiceAsyncStub, flags: argparse.Namespace) -> int:
    request = pb.StartTrialRequest(
        model=flags.model,
        version=flags.version,
        cut_predicate=flags.cut,
        goal_predicate=flags.goal,
        promote=flags.promote,
    )
    request.horizon.FromTimedelta(flags.horizon)
    operation = (await models.StartTrial(request, timeout=TIMEOUT_S)).operation
    # It ends in days: nobody waits for it at a prompt unless she says so.
    flags.no_wait = not flags.wait
    return await _follow(models, flags, operation)


async def _promote(models: ModelServiceAsyncStub, flags: argparse.Namespace) -> int:
    request = pb.PromoteVersionRequest(model=flags.model, version=flags.version)
    return await _follow(models, flags, (await models.PromoteVersion(request, timeout=TIMEOUT_S)).operation)


async def _operations(models: ModelServiceAsyncStub, flags: argparse.Namespace) -> int:
    if flags.cancel:
        request = pb.CancelOperationRequest(operation_id=flags.cancel)
        return _tell(flags, (await models.CancelOperation(request, timeout=TIMEOUT_S)).operation, _of_operation)
    if flags.follow:
        asked = pb.GetOperationRequest(operation_id=flags.follow)
        return await _follow(models, flags, (await models.GetOperation(asked, timeout=TIMEOUT_S)).operation)
    listing = pb.ListOperationsRequest(model=flags.model, page_size=flags.limit)
    return _tell(
        flags,
        await models.ListOperations(listing, timeout=TIMEOUT_S),
        lambda answer: "\n".join(map(_of_operation, answer.operations)) or "none",
    )


async def _models(models: ModelServiceAsyncStub, flags: argparse.Namespace) -> int:
    return _tell(flags, await models.ListModels(pb.ListModelsRequest(), timeout=TIMEOUT_S), _of_models)


async def _health(models: ModelServiceAsyncStub, flags: argparse.Namespace) -> int:
    return _tell(flags, await models.GetModelHealth(pb.GetModelHealthRequest(model=flags.model), timeout=TIMEOUT_S), _of_health)


async def _follow(models: ModelServiceAsyncStub, flags: argparse.Namespace, operation: pb.Operation) -> int:
    """Waits for the end with progress on stderr; 1 when it did not succeed."""
    told = -1
    while operation.state == pb.OPERATION_STATE_RUNNING and not flags.no_wait:
        told = _progress(operation, told)
        await asyncio.sleep(ASK_EVERY_S)
        # A service that is being restarted goes on with it.
        with suppress(_Gone):
            operation = await _asked(models, operation.operation_id)
    if told >= 0 and sys.stderr.isatty():
        sys.stderr.write("\n")
    _tell(flags, operation, _of_operation)
    return 1 if operation.state in (pb.OPERATION_STATE_FAILED, pb.OPERATION_STATE_CANCELLED) else 0


class _Gone(Exception):
    """The service does not answer at the moment."""


async def _asked(models: ModelServiceAsyncStub, operation_id: int) -> pb.Operation:
    try:
        asked = pb.GetOperationRequest(operation_id=operation_id)
        return (await models.GetOperation(asked, timeout=TIMEOUT_S)).operation
    except grpc.aio.AioRpcError as error:
        if error.code() in terminal.SILENT:
            raise _Gone from error
        raise


def _progress(operation: pb.Operation, told: int) -> int:
    """Draws a bar on a terminal, else says each ten percent once; returns what was said."""
    percent = int(100 * operation.progress)
    done = f"{percent:3d} %" + (f", {operation.persons_scored:,} persons scored" if operation.persons_scored else "")
    if sys.stderr.isatty():
        filled = BAR * percent // 100
        sys.stderr.write(f"\r[{'#' * filled}{'.' * (BAR - filled)}] {done}")
    elif told < 0 or percent // 10 > told // 10:
        sys.stderr.write(f"operation {operation.operation_id}: {done}\n")
    else:
        return told
    sys.stderr.flush()
    return percent


def _tell(flags: argparse.Namespace, answer: Message, in_words: Callable[[Any], str]) -> int:
    if flags.json:
        text = MessageToJson(answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    else:
        text = in_words(answer)
    sys.stdout.write(text + "\n")
    return 0


def _of_operation(operation: pb.Operation) -> str:
    kind = pb.OperationKind.Name(operation.kind).removeprefix("OPERATION_KIND_").lower()
    state = pb.OperationState.Name(operation.state).removeprefix("OPERATION_STATE_").lower()
    version = f" version {operation.model_version}" if operation.model_version else ""
    end = f" {operation.verdict}" if operation.verdict else ""
    why = f": {operation.reason} {operation.detail}".rstrip() if operation.reason else ""
    line = f"{operation.operation_id} {kind} {operation.model}{version} {state} {100 * operation.progress:.0f} %{end}{why}"
    return line + "".join(f"\n    {name} {value:.4g}" for name, value in sorted(operation.metrics.items()))


def _of_models(answer: pb.ListModelsResponse) -> str:
    lines = []
    for entry in answer.models:
        lines.append(f"{entry.model}: {entry.purpose}")
        for version in entry.versions:
            auc = f", AUC {version.metrics['auc']:.3f}" if "auc" in version.metrics else ""
            made = f"recalibrated from {version.recalibrated_from}" if version.recalibrated_from else "trained"
            day = version.create_time.ToDatetime()
            in_use = " (in use)" if version.in_use else ""
            lines.append(
                f"    {version.version}{in_use} {made} {day:%Y-%m-%d %H:%M}, {version.training_persons:,} persons{auc}"
            )
    return "\n".join(lines)


def _of_health(health: pb.GetModelHealthResponse) -> str:
    lines = [f"version {health.model_version}: {'train again' if health.retrain else 'no reason to train again'}"]
    lines += [f"    {reason}" for reason in health.reasons]
    lines += [f"    PSI {drift.psi:.3f} {drift.of}" for drift in health.drifts]
    lines += [f"    {name} {value:.4g}" for name, value in sorted(health.last_evaluation.items())]
    return "\n".join(lines)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _moment(text: str) -> datetime:
    """A day or a moment in ISO 8601; UTC unless it says otherwise."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _moments(text: str) -> str:
    for each in _names(text):
        _moment(each)
    return text


def _span(text: str) -> timedelta:
    found = re.fullmatch(r"(\d+)([dhms])", text)
    if found is None:
        raise argparse.ArgumentTypeError("write it as 90d, 12h, 30m or 45s")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


def _run(ask: Ask) -> Callable[[argparse.Namespace], int]:
    """The verb: connects, asks, and says in one line what was refused."""

    def run(flags: argparse.Namespace) -> int:
        try:
            return terminal.ask(flags, "scoring", lambda channel: ask(ModelServiceStub(channel), flags))
        except KeyboardInterrupt:
            sys.stderr.write("\nwhat was started goes on in the service; `operations` shows it\n")
            return 130

    return run


def _verb(name: str, about: str, ask: Ask, *declare: Callable[[argparse.ArgumentParser], Any]) -> PlainVerb:
    def arguments(parser: argparse.ArgumentParser) -> None:
        for each in declare:
            each(parser)
        terminal.door_arguments(parser, "scoring", 7003)

    return PlainVerb(name, about, _run(ask), arguments)


def _model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="for example purchase_intent")


def _version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", type=int)


def _no_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-wait", action="store_true", help="only start it")


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="for example purchase_intent")
    parser.add_argument("--cut", required=True, help="predicate over tags: who is in the training cut")
    parser.add_argument("--goal", default="", help="predicate over tags: who of them did it")
    parser.add_argument("--label", default="", help="models of classes: the tag that is to be foretold")
    parser.add_argument("--treated", default="", help="models of effects: predicate over tags: who was pushed")
    parser.add_argument("--features", default="", help="tags to learn from, comma-separated; none: all, only with --as-of")
    parser.add_argument("--trusted", default="", help="tags that look like leaks and that you vouch for, comma-separated")
    parser.add_argument("--as-of", type=_moments, default="", help="moments of the past, ISO 8601, comma-separated")
    parser.add_argument("--horizon", type=_span, help="how long after each the outcome is looked at, for example 90d")
    parser.add_argument("--keep-only", action="store_true", help="do not put it in use")


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cut", default="", help="whom to look at; default: as in the training")
    parser.add_argument("--goal", default="", help="who of them did it; default: as in the training")
    parser.add_argument("--as-of", type=_moment, help="moment of the cut, ISO 8601; default: the present")
    parser.add_argument("--horizon", type=_span, help="default: as in the training")
    parser.add_argument("--recalibrate", action="store_true", help="set the probabilities right and put that in use")


def _trial_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cut", required=True, help="predicate over tags: on whom")
    parser.add_argument("--goal", required=True, help="predicate over tags: who of them did it in the end")
    parser.add_argument("--horizon", type=_span, required=True, help="when it is judged, for example 30d from now")
    parser.add_argument("--promote", action="store_true", help="put the challenger in use if it is proven better")
    parser.add_argument("--wait", action="store_true", help="wait for the verdict")


def _operations_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="", help="of one model")
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--follow", type=int, metavar="N", help="wait for the end of this one")
    parser.add_argument("--cancel", type=int, metavar="N", help="end this one")
    parser.set_defaults(no_wait=False)


VERBS: Sequence[PlainVerb] = (
    _verb("train", "train a version of a model", _train, _train_arguments, _no_wait),
    _verb("score", "score everybody with the version in use", _score, _model, _no_wait),
    _verb("evaluate", "measure the version in use on outcomes", _evaluate, _model, _evaluate_arguments, _no_wait),
    _verb("trial", "let a version prove itself beside the one in use", _trial, _model, _version, _trial_arguments),
    _verb("promote", "put a version in use, a new one or an old one again", _promote, _model, _version, _no_wait),
    _verb("operations", "list long work, follow or cancel it", _operations, _operations_arguments),
    _verb("models", "list models and their versions", _models),
    _verb("health", "tell whether a model still fits the people it scores", _health, _model),
)
