"""Changes of tags laid over what tags shows."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier
from troika.identity.v1.events_pb2 import ENTITY_KIND_PERSON
from troika.tags.v1 import events_pb2 as tags_pb2

from chassis.bus import Message
from services.scoring import events
from services.scoring.artefact import Calibration, ServedModel, metadata
from services.scoring.events import Change
from services.scoring.frame import Encoding, Feature, Frame, Kind, Numbers, Words
from services.scoring.handlers import overlay
from services.scoring.learning.trees import to_onnx

ENCODINGS = (Encoding(Feature("age", Kind.NUMBER)), Encoding(Feature("job", Kind.CATEGORY), ("retired", "student")))
_X = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
MODEL = ServedModel(
    "m", 1, to_onnx([HistGradientBoostingClassifier(max_iter=2).fit(_X, _X[:, 0] > 0)], metadata(ENCODINGS, Calibration(1, 0)))
)


def message(*changes: tuple[int, str, int, float]) -> Message:
    told = tags_pb2.TagsChanged()
    for row, (person, tag, version, value) in enumerate(changes):
        told.entities.entity_kinds.append(ENTITY_KIND_PERSON)
        told.entities.entity_ids.append(person)
        told.entities.versions.append(version)
        told.entities.received_at_us.append(version)
        told.entities.presences.append(tags_pb2.PRESENCE_UNSPECIFIED)
        told.columns.add(entity_kind=ENTITY_KIND_PERSON, tag=tag, rows=[row], numbers=[value])
    return Message("", "", told.SerializeToString(), {}, 0)


@given(st.permutations([(1, "age", v, float(v)) for v in range(1, 6)] + [(2, "age", 9, 9.0), (1, "other", 99, 1.0)]))
def test_the_newest_version_counts_in_whatever_order_changes_come(changes: list[tuple[int, str, int, float]]) -> None:
    found, unreadable = events.feature_changes([message(c) for c in changes], {"age"})
    assert {1: Change({"age": (5, 5.0)}, 5), 2: Change({"age": (9, 9.0)}, 9)} == found
    assert [] == unreadable


def test_what_the_message_says_stands_over_what_tags_shows_and_disagreement_is_noted() -> None:
    frame = Frame(
        np.array([1, 2, 3]),
        {"age": Numbers(np.array([30.0, 40.0, np.nan])), "job": Words(np.array([0, -1, 0], np.int32), ("student",))},
    )
    changes = {
        1: Change({"age": (1, 31.0), "unread": (1, 5.0)}),
        2: Change({"age": (1, 40.0), "job": (1, "never heard of")}),
        3: Change({"job": (1, None)}),
        9: Change({"job": (1, "retired")}),
    }
    persons, matrix, disagreeing = overlay(MODEL, frame, changes, frozenset(), datetime.now(UTC))
    assert [1, 2, 3, 9] == persons.tolist()
    expected = np.array([[31, 1], [40, np.nan], [np.nan, np.nan], [np.nan, 0]], np.float32)
    assert np.array_equal(expected, matrix, equal_nan=True)
    assert [1, 3, 9] == disagreeing
