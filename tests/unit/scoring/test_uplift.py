"""Who is moved by a push: learnt where it is so, refused where nothing is proven, served as trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from services.scoring.artefact import EFFECT, ServedModel
from services.scoring.domain import Floats, TrainingRefused
from services.scoring.frame import Encoding, Feature, Frame, Kind, Matrix, Numbers, Words, matrix_of
from services.scoring.learning import uplift, uplift_learners
from services.scoring.learning.cut import Cut, Trained
from services.scoring.learning.uplift_graph import Function, Graph, Responses, Sum
from services.scoring.learning.uplift_learners import CANDIDATES, Campaign, constant_odds, expected_answer
from services.scoring.learning.uplift_metrics import qini

COUNT = 6000
WORDS = ("app", "dealer", "web")


@pytest.fixture(autouse=True, scope="module")
def _one_bag() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uplift_learners, "BAGS", 1)
        yield


def frame_of(random: np.random.Generator, count: int = COUNT) -> Frame:
    age = random.normal(45, 12, count)
    age[random.random(count) < 0.1] = np.nan
    return Frame(
        np.arange(count),
        {
            "age": Numbers(age),
            "visits": Numbers(random.poisson(2, count).astype(float)),
            "channel": Words(random.integers(-1, 3, count).astype(np.int32), WORDS),
            "has_app": Numbers((random.random(count) < 0.3).astype(float)),
        },
    )


def true_effect(frame: Frame, moved: float) -> Floats:
    channel = frame.columns["channel"]
    assert isinstance(channel, Words)
    return np.where(channel.indexes == 1, moved, 0.0)


def campaign(seed: int, moved: float, everybody: float = 0.0) -> Cut:
    """A push that moves those of channel "dealer" by `moved`, and all by `everybody`; visits tell who says yes anyway."""
    random = np.random.default_rng(seed)
    frame = frame_of(random)
    visits = frame.columns["visits"]
    assert isinstance(visits, Numbers)
    treated = random.random(COUNT) < 0.5
    chance = 0.1 + 0.03 * visits.values + (true_effect(frame, moved) + everybody) * treated
    return Cut(frame, (random.random(COUNT) < chance).astype(np.int32), treated=treated)


@pytest.fixture(scope="module")
def progress() -> list[float]:
    return []


@pytest.fixture(scope="module")
def trained(progress: list[float]) -> Trained:
    return uplift.train(campaign(0, moved=0.25), progress.append)


def test_those_whom_a_push_moves_are_found(trained: Trained, progress: list[float]) -> None:
    model = ServedModel("uplift", 1, trained.artefact)
    assert EFFECT == model.kind
    unseen = campaign(1, moved=0.25)
    effect = model.effect(matrix_of(model.encodings, unseen.frame))
    moved = true_effect(unseen.frame, 1.0) > 0
    assert 0.25 == pytest.approx(effect[moved].mean(), abs=0.07)
    assert 0.0 == pytest.approx(effect[~moved].mean(), abs=0.05)
    assert qini(unseen.labels == 1, unseen.treated, effect) > 0.05  # type: ignore[arg-type]
    assert 1.0 == trained.metrics["ranking_proven"]
    assert trained.metrics["qini_low"] < trained.metrics["qini"] < trained.metrics["qini_high"]
    assert trained.metrics["effect_of_best_third_low"] > trained.metrics["effect_of_worst_third_high"]
    assert trained.metrics["treatment_auc_low"] < 0.5
    assert sorted(progress) == progress and 1.0 == progress[-1]


def test_what_is_told_is_two_probabilities_and_their_difference(trained: Trained) -> None:
    model = ServedModel("uplift", 1, trained.artefact)
    unseen = campaign(1, moved=0.25)
    matrix = matrix_of(model.encodings, unseen.frame)
    pushed, effect = model.probability(matrix), model.effect(matrix)
    assert ((pushed > 0) & (pushed < 1) & (pushed - effect > 0) & (pushed - effect < 1)).all()
    assert (unseen.labels[unseen.treated] == 1).mean() == pytest.approx(pushed[unseen.treated].mean(), abs=0.03)
    assert (unseen.labels[~unseen.treated] == 1).mean() == pytest.approx((pushed - effect)[~unseen.treated].mean(), abs=0.03)


def test_persons_of_whom_little_is_known_have_an_effect_too(trained: Trained) -> None:
    model = ServedModel("uplift", 1, trained.artefact)
    stranger = Frame(
        np.array([1]),
        {
            "age": Numbers(np.array([np.nan])),
            "visits": Numbers(np.array([1e30])),
            "channel": Words(np.array([0], np.int32), ("never seen",)),
            "has_app": Numbers(np.array([np.nan])),
        },
    )
    assert abs(model.effect(matrix_of(model.encodings, stranger))[0]) < 0.5
    assert 0 == len(model.effect(np.empty((0, 4), np.float32)))


def test_no_effect_is_said_to_be_none() -> None:
    with pytest.raises(TrainingRefused) as caught:
        uplift.train(campaign(7, moved=0.0), lambda _: None)
    assert "NO_PROVEN_EFFECT" == caught.value.reason
    assert "points" in caught.value.detail


def test_where_all_are_moved_alike_all_have_nearly_the_average() -> None:
    trained = uplift.train(campaign(3, moved=0.0, everybody=0.1), lambda _: None)
    model = ServedModel("uplift", 1, trained.artefact)
    effect = model.effect(matrix_of(model.encodings, campaign(4, 0.0).frame))
    assert (1.0, 0.0) == (trained.metrics["effect_proven"], trained.metrics["ranking_proven"])
    assert 0.1 == pytest.approx(effect.mean(), abs=0.04)
    assert effect.std() < 0.02


def test_a_push_that_was_aimed_is_no_experiment() -> None:
    cut = campaign(5, moved=0.2)
    age = cut.frame.columns["age"]
    assert isinstance(age, Numbers)
    with pytest.raises(TrainingRefused) as caught:
        uplift.train(replace(cut, treated=np.nan_to_num(age.values) > 45), lambda _: None)
    assert "NOT_RANDOMISED" == caught.value.reason


def test_a_push_of_which_time_tells_is_no_experiment_either() -> None:
    cut = campaign(5, moved=0.2)
    moments = np.arange(COUNT) // 2000 * 86_400_000_000
    treated = np.random.default_rng(0).random(COUNT) < np.where(moments == 0, 0.2, 0.6)
    with pytest.raises(TrainingRefused) as caught:
        uplift.train(replace(cut, treated=treated, moments=moments), lambda _: None)
    assert "NOT_RANDOMISED" == caught.value.reason


@pytest.mark.parametrize(
    ("reason", "treated"),
    [
        ("TREATMENT_MISSING", None),
        ("NOBODY_PUSHED", np.zeros(COUNT, bool)),
        ("EVERYBODY_PUSHED", np.ones(COUNT, bool)),
        ("TOO_FEW_POSITIVES", np.arange(COUNT) < 100),
    ],
)
def test_a_push_without_two_arms_is_refused(reason: str, treated: np.ndarray | None) -> None:
    with pytest.raises(TrainingRefused) as caught:
        uplift.train(replace(campaign(6, 0.2), treated=treated), lambda _: None)
    assert reason == caught.value.reason


@pytest.fixture(scope="module")
def given() -> Campaign:
    cut = campaign(7, moved=0.2)
    encodings = tuple(
        Encoding(
            Feature(tag, Kind.NUMBER if isinstance(c, Numbers) else Kind.CATEGORY), () if isinstance(c, Numbers) else WORDS
        )
        for tag, c in cut.frame.columns.items()
    )
    half = np.full(COUNT, 0.5)
    assert cut.treated is not None
    return Campaign(matrix_of(encodings, cut.frame), encodings, cut.labels == 1, cut.treated, half / 2, half)


def served(function: Responses, columns: int, matrix: Matrix) -> tuple[Floats, Floats]:
    """P(yes | pushed) and the effect, as an artefact tells them."""
    graph = Graph()
    encodings = [Encoding(Feature(f"x{i}", Kind.NUMBER)) for i in range(columns)]
    carried = uplift.metadata(encodings, uplift.Calibration(1.0, 0.0), EFFECT)
    model = ServedModel("uplift", 1, graph.file(function.onto(graph), columns, 2, carried))
    return model.probability(matrix), model.effect(matrix)


@pytest.mark.parametrize("name", CANDIDATES)
def test_what_is_served_is_what_was_trained(name: str, given: Campaign) -> None:
    function = Responses(expected_answer(given), CANDIDATES[name].learner(given), 0.5)
    agrees(function, given)


def agrees(function: Responses, given: Campaign) -> None:
    random = np.random.default_rng(0)
    # Also values that no training row had, and every pattern of unknowns.
    strange = given.matrix[:500] * random.choice(np.float32([1, -1, 1.5, 1e6]), (500, 1))
    strange[random.random(strange.shape) < 0.4] = np.nan
    matrix = np.concatenate([given.matrix, strange])
    both = 1 / (1 + np.exp(-function(matrix)))
    pushed, effect = served(function, matrix.shape[1], matrix)
    assert np.abs(both[:, 0] - pushed).max() < 2e-6
    assert np.abs(both[:, 0] - both[:, 1] - effect).max() < 2e-6


def test_an_effect_of_nobody_in_particular_is_served_too(given: Campaign) -> None:
    agrees(Responses(expected_answer(given), Sum((), (), 0.07), 0.5), given)


def test_probabilities_stay_between_0_and_1_whatever_the_effect(given: Campaign) -> None:
    for constant in (-3.0, -0.9, 0.0, 0.4, 0.9, 3.0):
        both = 1 / (1 + np.exp(-Responses(Sum((), (), 0.3), Sum((), (), constant), 0.5)(given.matrix[:1])[0]))
        assert ((both > 0) & (both < 1)).all()
        assert float(np.clip(constant, -1, 1)) == pytest.approx(both[0] - both[1], abs=1e-5)
        agrees(Responses(Sum((), (), 0.3), Sum((), (), constant), 0.5), given)


def test_persons_with_several_rows_stand_in_one_fold() -> None:
    persons = np.repeat(np.arange(500), 4)
    random = np.random.default_rng(0)
    number = uplift._folds(persons, random.random(2000) < 0.3, random.random(2000) < 0.5)
    assert [1] * 500 == [len(set(number[persons == person])) for person in range(500)]


def test_a_block_is_judged_by_learners_that_saw_only_the_blocks_before(given: Campaign) -> None:
    blocks = np.arange(COUNT) % 5
    said = uplift._onwards(lambda seen: Sum((), (), len(seen.labels)), given, blocks, uplift._Work(lambda _: None, 4))
    assert np.isnan(said[blocks == 0]).all()
    assert [1200, 2400, 3600, 4800] == [said[blocks == block].mean() for block in range(1, 5)]


def test_the_first_block_is_blended_by_belief_and_those_after_by_what_was_seen() -> None:
    assert 1.0 == pytest.approx(uplift._weights(np.array([])).sum())
    # Two blocks: the first learner ranked clearly, the second the wrong way round, the others not at all.
    seen = np.full((2, len(CANDIDATES), 2), 0.1)
    seen[:, 2:, 0] = 0
    seen[:, 0, 0], seen[:, 1, 0] = 0.5, -0.5
    assert [1.0, 0.0, 0.0] == uplift._weights(seen).tolist()


def test_chance_passes_the_test_as_rarely_as_it_says() -> None:
    random, count, rounds = np.random.default_rng(0), 300, 150
    passed = 0
    for _ in range(rounds):
        pseudo, blocks = random.normal(size=count), random.permutation(count) % 5
        estimates = np.full((count, len(CANDIDATES)), np.nan)
        for place in range(len(CANDIDATES)):
            columns = random.normal(size=(count, 2 * place + 1))
            for block in range(1, 5):
                weights = np.linalg.lstsq(columns[blocks < block], pseudo[blocks < block], rcond=None)[0]
                estimates[blocks == block, place] = columns[blocks == block] @ weights
        passed += uplift._evidence(pseudo, estimates, blocks).ranking_proven
    # 2.5 % of 150 are 4, give or take 2.
    assert passed <= 9


def test_a_function_that_is_a_sum_knows_its_parts(given: Campaign) -> None:
    part: Function = constant_odds(given)
    both = Sum((part, part), (0.5, 1.0), 0.1)
    assert 1.5 * part(given.matrix) + 0.1 == pytest.approx(both(given.matrix))
