"""What experiments ask of tags: who is eligible, and what was true of persons when they were exposed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

import grpc
import numpy as np
from numpy.typing import NDArray
from troika.identity.v1.events_pb2 import ENTITY_KIND_PERSON
from troika.tags.v1 import tags_service_pb2 as pb
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceStub

from chassis.errors import InvalidArgument
from services.orchestrator.experiments.definitions import Definition
from services.orchestrator.peers import STREAM_TIMEOUT_S, Tags, blaming

Ints = NDArray[np.int64]
MOST_CACHED = 200
NUMBERS = (pb.TAG_TYPE_NUMBER, pb.TAG_TYPE_BOOLEAN)
WORDS = (pb.TAG_TYPE_CATEGORY, pb.TAG_TYPE_BOOLEAN)


class ExperimentTags:
    """Questions to tags. Who is eligible is read whole and kept for `keep_s`: tags answers a predicate for all persons only."""

    def __init__(self, channel: grpc.aio.Channel, keep_s: float) -> None:
        self._stub, self._tags = TagsServiceStub(channel), Tags(channel)
        self._keep_s = keep_s
        self._eligible: dict[str, tuple[float, Ints]] = {}
        self._reading = asyncio.Lock()

    async def check(self, stated: Definition) -> None:
        """Raises InvalidArgument, naming the field, when tags does not understand the predicate or a tag cannot serve."""
        if stated.eligibility:
            await self._tags.count(stated.eligibility, "experiment.eligibility")
        if not stated.tags:
            return
        catalogue = await self._tags.catalogue()
        if stated.covariate_tag:
            _usable(catalogue, stated.covariate_tag, NUMBERS, "experiment.covariate_tag")
        for number, tag in enumerate(stated.segment_tags):
            _usable(catalogue, tag, WORDS, f"experiment.segment_tags[{number}]")

    async def eligible(self, predicate: str, persons: Ints) -> NDArray[np.bool_]:
        """For whom of some persons the predicate held at most `keep_s` seconds ago; empty holds for everybody."""
        if not predicate or not len(persons):
            return np.ones(len(persons), np.bool_)
        known = self._eligible.get(predicate)
        if known is None or time.monotonic() - known[0] > self._keep_s:
            # One at a time: a crowd of callers must not read the same millions side by side.
            async with self._reading:
                known = self._eligible.get(predicate)
                if known is None or time.monotonic() - known[0] > self._keep_s:
                    known = (time.monotonic(), await self._tags.person_ids(predicate, "experiment.eligibility"))
                    if len(self._eligible) >= MOST_CACHED:
                        self._eligible.pop(min(self._eligible, key=lambda each: self._eligible[each][0]))
                    self._eligible[predicate] = known
        return np.isin(persons, known[1])

    async def at_exposure(self, stated: Definition, persons: Ints) -> tuple[list[float | None], list[list[str]]]:
        """(covariate, values of the segment tags) of each person; None and "" where there is none."""
        covariates: list[float | None] = [None] * len(persons)
        segments = [[""] * len(stated.segment_tags) for _ in persons]
        if not stated.tags or not len(persons):
            return covariates, segments
        place = {person: number for number, person in enumerate(persons.tolist())}
        with blaming("experiment"):
            request = pb.StreamTagValuesRequest(entity_kind=ENTITY_KIND_PERSON, entity_ids=persons.tolist(), tags=stated.tags)
            async for chunk in self._stub.StreamTagValues(request, timeout=STREAM_TIMEOUT_S):
                rows = [place.get(person, -1) for person in chunk.entity_ids]
                columns = list(chunk.columns)
                if stated.covariate_tag:
                    for row, value in zip(rows, columns.pop(0).numbers, strict=True):
                        if row >= 0 and np.isfinite(value):
                            covariates[row] = value
                for tag, column in enumerate(columns):
                    for row, word in zip(rows, _words(column), strict=True):
                        if row >= 0:
                            segments[row][tag] = word
        return covariates, segments


def _usable(catalogue: Mapping[str, pb.Tag], name: str, types: Sequence[int], field: str) -> None:
    tag = catalogue.get(name)
    if tag is None:
        raise InvalidArgument(f"no such tag: {name}", reason="UNKNOWN_TAG", field=field)
    if tag.sensitive:
        raise InvalidArgument(f"{name} is sensitive: nobody is told apart by it", reason="SENSITIVE_TAG", field=field)
    if tag.type not in types:
        raise InvalidArgument(f"{name} has values of a kind that does not serve here", reason="WRONG_TAG_TYPE", field=field)


def _words(column: pb.TagColumn) -> list[str]:
    """A column as words; yes and no for booleans."""
    if column.numbers:
        return ["" if np.isnan(value) else "yes" if value else "no" for value in column.numbers]
    return ["" if index < 0 else column.words[index] for index in column.word_indexes]
