"""Versions come into use and go out of it; what is measured of them; none of it touches a score unless it was promoted."""

from __future__ import annotations

import argparse
import asyncio
import math
from datetime import UTC, datetime, timedelta

import grpc
import numpy as np
import orjson
import pytest
from troika.scoring.v1 import model_service_pb2 as pb
from troika.scoring.v1.scoring_service_pb2 import ScorePersonsRequest

from services.scoring import consents, operations, retraining, store
from services.scoring.artefact import Calibration
from services.scoring.command import VERBS
from services.scoring.consents import Said
from services.scoring.learning.cut import Trained
from services.scoring.learning.recalibration import with_line
from services.scoring.watching import Watch
from tests.integration.scoring.conftest import MODEL, World, eventually, refusal, store_version
from tests.integration.scoring.tags_port import CUT, GOAL, TOKEN

# Odds a third of what they should be.
TOO_LOW = Calibration(1.0, -math.log(3))


async def everybody(world: World) -> dict[int, float]:
    """All scores there are."""
    _, persons, scores = await store.all_scores(world.database, MODEL)
    return dict(zip(persons.tolist(), scores.tolist(), strict=True))


async def promote(world: World, version: int) -> pb.Operation:
    asked = pb.PromoteVersionRequest(model=MODEL, version=version)
    return await world.ended((await world.models.PromoteVersion(asked)).operation.operation_id)


async def adopt(world: World, fitted: Trained, line: Calibration) -> int:
    version = await store_version(world.database, with_line(fitted.artefact, line))
    assert pb.OPERATION_STATE_SUCCEEDED == (await promote(world, version)).state
    return version


async def evaluate(world: World, **asked: bool) -> pb.Operation:
    request = pb.EvaluateModelRequest(model=MODEL, **asked)  # type: ignore[arg-type]  # by name
    return await world.ended((await world.models.EvaluateModel(request)).operation.operation_id)


async def health(world: World) -> pb.GetModelHealthResponse:
    return await world.models.GetModelHealth(pb.GetModelHealthRequest(model=MODEL))


async def test_a_rollback_brings_back_everybodys_scores(world: World, fitted: Trained) -> None:
    await world.adopt(fitted)
    first = await everybody(world)
    assert len(world.tags.persons) == len(first)
    assert 2 == await adopt(world, fitted, TOO_LOW)
    second = await everybody(world)
    assert all(second[person] < first[person] for person in first)
    assert pb.OPERATION_STATE_SUCCEEDED == (await promote(world, 1)).state
    assert first == pytest.approx(await everybody(world))
    answer = await world.stub.ScorePersons(ScorePersonsRequest(model=MODEL, person_ids=[min(first)]))
    assert 1 == answer.model_version


async def test_a_version_that_could_not_serve_is_refused_before_it_is_in_use(world: World, fitted: Trained) -> None:
    await world.adopt(fitted)
    before = await everybody(world)
    other = await store_version(world.database, fitted.artefact)
    async with world.database.transaction() as uow:
        await uow.execute("UPDATE model SET signature = '\\x00' WHERE version = :version", version=other)
    no_model = await store_version(world.database, b"\x80\x04 a pickle, say")
    unknown = await store_version(world.database, fitted.artefact)
    async with world.database.transaction() as uow:
        await uow.execute("UPDATE model SET format = 'pickle-5' WHERE version = :version", version=unknown)
    for version in (other, no_model, unknown):
        trial = pb.StartTrialRequest(model=MODEL, version=version, cut_predicate=CUT, goal_predicate=GOAL)
        trial.horizon.FromSeconds(60)
        promotion = pb.PromoteVersionRequest(model=MODEL, version=version)
        for call in (world.models.PromoteVersion(promotion), world.models.StartTrial(trial)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_REFUSED", "version") == refusal(caught.value)
    assert 1 == (await world.models.GetModel(pb.GetModelRequest(model=MODEL))).model.version
    assert before == await everybody(world)


async def test_an_evaluation_sees_promises_that_are_off_and_a_recalibration_mends_them(world: World, fitted: Trained) -> None:
    await adopt(world, fitted, TOO_LOW)
    before = await everybody(world)
    seen = await evaluate(world)
    assert (pb.OPERATION_STATE_SUCCEEDED, 1, 2000.0) == (seen.state, seen.model_version, seen.metrics["persons"])
    assert np.log(3) == pytest.approx(seen.metrics["calibration_intercept"], abs=0.5)
    assert seen.metrics["auc_low"] < seen.metrics["auc"] < seen.metrics["auc_high"]
    assert before == await everybody(world)
    found = await health(world)
    assert (True, 1) == (found.retrain, len(found.reasons))
    assert "more often than promised" in found.reasons[0]
    assert dict(seen.metrics) == dict(found.last_evaluation)

    mended = await evaluate(world, recalibrate=True)
    assert (pb.OPERATION_STATE_SUCCEEDED, 2, len(before)) == (mended.state, mended.model_version, mended.persons_scored)
    assert mended.metrics["ece"] < seen.metrics["ece"] == pytest.approx(mended.metrics["ece_before"])
    assert seen.metrics["auc"] == pytest.approx(mended.metrics["auc"], abs=0.01)
    model = (await world.models.GetModel(pb.GetModelRequest(model=MODEL))).model
    assert (2, True, 1) == (model.version, model.in_use, model.recalibrated_from)
    after = await everybody(world)
    assert sorted(before, key=lambda person: (before[person], person)) == sorted(after, key=lambda p: (after[p], p))
    assert np.mean(list(after.values())) > np.mean(list(before.values()))
    assert not (await health(world)).retrain

    # Its process dies after the version was stored: who takes over only scores.
    async with world.database.transaction() as uow:
        await uow.execute("DELETE FROM score")
        await uow.execute(
            "UPDATE operation SET state = 'RUNNING', owner = 'dead', lease_until = now(), cursor = 0, persons_scored = 0"
            " WHERE operation_id = :id",
            id=mended.operation_id,
        )
    assert (2, len(after)) == ((taken := await world.ended(mended.operation_id)).model_version, taken.persons_scored)
    assert after == pytest.approx(await everybody(world))
    # The mended version's own evaluation finds nothing to mend.
    again = await evaluate(world)
    assert abs(again.metrics["calibration_intercept"]) < 0.15

    async with world.database.transaction() as uow:
        await uow.execute("UPDATE model SET signature = '\\x00' WHERE version = 1")
    constant = pb.EvaluateModelRequest(model=MODEL, goal_predicate="offer_answer = 'never'", recalibrate=True)
    failed = await world.ended((await world.models.EvaluateModel(constant)).operation.operation_id)
    assert (pb.OPERATION_STATE_FAILED, "CONSTANT_LABEL") == (failed.state, failed.reason)
    assert after == await everybody(world)


async def test_evaluations_that_can_never_be_are_refused_at_the_door(world: World, fitted: Trained) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await evaluate(world)
    assert (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_NOT_TRAINED", "model") == refusal(caught.value)
    await world.adopt(fitted)
    future = pb.EvaluateModelRequest(model=MODEL)
    future.as_of.FromDatetime(datetime.now(UTC))
    no_horizon = pb.EvaluateModelRequest(model=MODEL)
    no_horizon.CopyFrom(future)
    future.horizon.FromSeconds(60)
    no_moment = pb.EvaluateModelRequest(model=MODEL)
    no_moment.horizon.FromSeconds(60)
    for asked, reason, field in [
        (future, "FUTURE_LABELS", "as_of"),
        (no_horizon, "REQUIRED", "horizon"),
        (no_moment, "REQUIRED", "as_of"),
        (pb.EvaluateModelRequest(model=MODEL, goal_predicate="offer_answer =="), "SYNTAX", "goal_predicate"),
    ]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await world.models.EvaluateModel(asked)
        assert (grpc.StatusCode.INVALID_ARGUMENT, reason, field) == refusal(caught.value)
    own = pb.StartTrialRequest(model=MODEL, version=1, cut_predicate=CUT, goal_predicate=GOAL)
    own.horizon.FromSeconds(60)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.models.StartTrial(own)
    assert (grpc.StatusCode.INVALID_ARGUMENT, "VERSION_IN_USE", "version") == refusal(caught.value)


async def test_drift_is_told_after_the_second_time_and_a_takeover_leaves_no_half_picture(world: World, fitted: Trained) -> None:
    await world.adopt(fitted)
    calm = await health(world)
    assert ([], False, 1) == (list(calm.drifts), calm.retrain, calm.model_version)
    for person in world.tags.persons.values():
        person |= {"age": 70.0, "job": "retired", "euribor3m": 0.1}
    # As if a process had died in the middle.
    async with world.database.transaction() as uow:
        dead = await operations.start(uow, operations.Kind.SCORE, MODEL, {})
        await uow.execute(
            "UPDATE operation SET version = 1, cursor = :cursor WHERE operation_id = :id",
            cursor=min(world.tags.persons) + 1000,
            id=dead.operation_id,
        )
    assert pb.OPERATION_STATE_SUCCEEDED == (await world.ended(dead.operation_id)).state
    assert calm == await health(world)

    whole = (await world.models.ScoreEverybody(pb.ScoreEverybodyRequest(model=MODEL))).operation
    await world.ended(whole.operation_id)
    found = await health(world)
    drifts = {drift.of: drift.psi for drift in found.drifts}
    assert {"age", "job", "euribor3m"} == {tag for tag, psi in drifts.items() if psi > 0.25} - {"score"}
    assert drifts["marital"] == pytest.approx(0)
    assert sorted(drifts.values(), reverse=True) == [drift.psi for drift in found.drifts]
    assert found.retrain
    assert any("3 features have moved" in reason for reason in found.reasons)
    assert found.looked_at.ToDatetime() > calm.looked_at.ToDatetime()


async def test_a_model_in_use_is_looked_after_without_being_asked(world: World, fitted: Trained) -> None:
    await world.adopt(fitted)
    watch = Watch(world.database, world.worker, 3600)

    async def begun(kind: operations.Kind) -> int:
        listed = await world.models.ListOperations(pb.ListOperationsRequest(model=MODEL))
        return sum(each.kind == pb.OperationKind.Value(f"OPERATION_KIND_{kind}") for each in listed.operations)

    async def age(hours: int) -> None:
        async with world.database.transaction() as uow:
            await uow.execute(
                "UPDATE operation SET created_at = created_at - CAST(:by AS interval),"
                " ended_at = ended_at - CAST(:by AS interval)",
                by=timedelta(hours=hours),
            )

    await watch.look()
    assert (1, 0) == (await begun(operations.Kind.SCORE), await begun(operations.Kind.EVALUATE))
    await age(2)
    await asyncio.gather(watch.look(), Watch(world.database, world.worker, 3600).look())
    assert (2, 0) == (await begun(operations.Kind.SCORE), await begun(operations.Kind.EVALUATE))
    # A version that was trained on the past is measured on what has become known since.
    past = {"cut_predicate": CUT, "goal_predicate": GOAL, "as_of_s": [1.0], "horizon_s": 60.0}
    async with world.database.transaction() as uow:
        await uow.execute(
            "UPDATE model SET card = jsonb_set(card, '{wanted}', CAST(:wanted AS jsonb))",
            wanted=orjson.dumps(past).decode(),
        )
    await watch.look()
    assert (2, 1) == (await begun(operations.Kind.SCORE), await begun(operations.Kind.EVALUATE))
    # And trained again only where there is a reason, or somebody insists, on moments as far back as then.
    now = datetime.now(UTC)
    assert {MODEL: "still fits"} == await retraining.ask(world.database, None, False, now)
    assert {} == await retraining.ask(world.database, ["another"], True, now)
    assert ["operation"] == [said.split()[0] for said in (await retraining.ask(world.database, [MODEL], True, now)).values()]
    async with world.database.read() as uow:
        [row] = await uow.rows("SELECT request FROM operation WHERE kind = 'TRAIN'")
    assert [pytest.approx(now.timestamp() - 60.0)] == row.request["as_of_s"]


async def test_a_trial_foretells_first_judges_later_and_touches_no_score_unless_the_challenger_won(
    world: World, fitted: Trained
) -> None:
    answers = {person: tags.pop("offer_answer", None) for person, tags in world.tags.persons.items()}
    # Those of whom the campaign knows the answer.
    persons = sorted(person for person, answer in answers.items() if answer is not None)
    for person in persons:
        world.tags.persons[person]["asked"] = "yes"
    world.tags.audiences = {"asked = 'yes'": lambda tags: "asked" in tags, "bought = 'yes'": lambda tags: "bought" in tags}
    assert 1 == await adopt(world, fitted, TOO_LOW)
    challenger = await world.store(fitted)
    before = await everybody(world)
    early, opposed, late = persons[:3]
    world.tags.persons[early]["bought"] = "yes"
    newcomer = dict(world.tags.persons.pop(late))
    async with world.database.transaction() as uow:
        await consents.keep(uow, [Said(1, opposed, False, 5, consents.NO_END)], [])

    request = pb.StartTrialRequest(
        model=MODEL, version=challenger, cut_predicate="asked = 'yes'", goal_predicate="bought = 'yes'", promote=True
    )
    request.horizon.FromSeconds(3600)
    trial = (await world.models.StartTrial(request)).operation

    async def foretold() -> list[int]:
        async with world.database.read() as uow:
            return [row.person_id for row in await uow.rows("SELECT person_id FROM trial_score ORDER BY person_id")]

    async def is_foretold(expected: list[int]) -> bool:
        # It looks for newcomers every minute or so; here at once.
        async with world.database.transaction() as uow:
            await uow.execute("UPDATE operation SET lease_until = now() WHERE kind = 'TRIAL' AND owner = ''")
        return expected == await foretold()

    # Neither who has done it already nor who forbids it.
    await eventually(lambda: is_foretold(persons[3:]))
    world.tags.persons[late] = newcomer
    await eventually(lambda: is_foretold(sorted([late, *persons[3:]])))
    assert before == {p: s for p, s in (await everybody(world)).items() if p in before}

    for person, answer in answers.items():
        if answer == "yes":
            world.tags.persons[person]["bought"] = "yes"
    async with world.database.transaction() as uow:
        await uow.execute(
            "UPDATE operation SET created_at = created_at - interval '2 hours', lease_until = now() WHERE kind = 'TRIAL'"
        )
    judged = await world.ended(trial.operation_id)
    assert (pb.OPERATION_STATE_SUCCEEDED, "CHALLENGER_BETTER", 1.0) == (
        judged.state,
        judged.verdict,
        judged.metrics["promoted"],
    )
    assert len(persons) - 2 == judged.metrics["persons"]
    assert judged.metrics["p"] < 0.05
    assert judged.metrics["log_loss_gain_low"] > 0
    assert judged.metrics["auc_champion"] == pytest.approx(judged.metrics["auc_challenger"])
    assert [] == await foretold()
    assert challenger == (await world.models.GetModel(pb.GetModelRequest(model=MODEL))).model.version

    async def rose() -> bool:
        after = await everybody(world)
        return all(after[person] > before[person] for person in before if person != opposed)

    await eventually(rose)

    # The other way round the champion stays.
    asked = pb.StartTrialRequest(
        model=MODEL, version=1, cut_predicate="asked = 'yes'", goal_predicate="bought = 'yes'", promote=True
    )
    asked.horizon.FromSeconds(1)
    for tags in world.tags.persons.values():
        tags.pop("bought", None)
    second = (await world.models.StartTrial(asked)).operation
    few = await world.ended(second.operation_id)
    assert (pb.OPERATION_STATE_SUCCEEDED, "TOO_FEW_OUTCOMES") == (few.state, few.verdict)
    assert challenger == (await world.models.GetModel(pb.GetModelRequest(model=MODEL))).model.version


async def test_the_command_line_does_what_the_doors_do(
    world: World, fitted: Trained, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TROIKA_TOKEN", f"operator.{TOKEN}")

    async def run(*words: str) -> tuple[int, str, str]:
        parser = argparse.ArgumentParser()
        verbs = parser.add_subparsers(dest="verb")
        for each in VERBS:
            each.arguments(verbs.add_parser(each.name))
        flags = parser.parse_args([*words, "--target", world.target])
        [verb] = [each for each in VERBS if each.name == words[0]]
        code = await asyncio.to_thread(verb.run, flags)
        out, err = capfd.readouterr()
        return code, out, err

    version = await store_version(world.database, fitted.artefact)
    code, out, err = await run("promote", MODEL, str(version))
    assert (0, True, True) == (code, "score purchase_intent version 1 succeeded 100 %" in out, "operation 1:" in err)
    code, out, _ = await run("models", "--json")
    [entry] = [each for each in orjson.loads(out)["models"] if each["model"] == MODEL]
    assert (0, 1, True) == (code, entry["versions"][0]["version"], entry["versions"][0]["in_use"])
    code, out, _ = await run("evaluate", MODEL)
    assert (0, True) == (code, "calibration_intercept" in out)
    code, out, _ = await run("health", MODEL)
    assert (0, True) == (code, out.startswith("version 1: "))
    code, out, _ = await run("trial", MODEL, "1", "--cut", CUT, "--goal", GOAL, "--horizon", "30d")
    assert (1, "") == (code, out)
    code, _, err = await run("train", "--model", MODEL, "--cut", "offer_answer IS", "--goal", GOAL, "--features", "age")
    assert (1, True) == (code, err.startswith("SYNTAX (cut_predicate): "))
    code, out, _ = await run("operations", "--limit", "5")
    assert (0, 2) == (code, sum(" purchase_intent version 1 succeeded" in line for line in out.splitlines()))
