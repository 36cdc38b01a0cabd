"""The two rooms the orchestrator asks: tags (who is this true of) and scoring (how likely will they answer)."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray
from troika.identity.v1.events_pb2 import ENTITY_KIND_PERSON
from troika.scoring.v1 import scoring_service_pb2 as scoring_pb2
from troika.scoring.v1.scoring_service_pb2_grpc import ScoringServiceStub
from troika.tags.v1 import tags_service_pb2 as tags_pb2
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceStub

from chassis.errors import FailedPrecondition, InvalidArgument
from chassis.rpc import reason_of
from services.orchestrator.domain.suggesting import Term

# Who serves a person, which reports ask, too.
DEALER_TAG = "dealer_code"
# What says that a channel leads to a person; a dealer does where she has one. An address itself only identity knows.
REACHED_BY: Mapping[str, str] = {
    "app": "has_app",
    "wechat": "has_wechat",
    "wechat_mini": "has_mini_program",
    "wecom": "has_wecom",
    "sms": "has_mobile",
    "push": "has_push",
    "call_list": "has_mobile",
}
PAGE = 1000
MAX_TERMS = 500
# Of one question by ids.
MOST_IDS = 100_000
# An IANA name, where the catalogue has such a tag.
ZONE_TAG = "time_zone"
# A predicate over millions of people streams for a while; a launch can wait for it, a caller cannot.
STREAM_TIMEOUT_S = 300.0
# A ranking streams as fast as it is decided on, hence as long as a launch takes. What breaks off goes on where it was.
RANKING_TIMEOUT_S = 4 * 3600.0
# What scoring gives of those who are alike.
MOST_ALIKE = 1_000_000

A = TypeVar("A")
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reach:
    """What some persons' tags say of how to reach them, aligned with them.

    `has`: whether each tag that was asked for holds. `dealer` and `zone`: places in words, -1 for none.
    """

    has: Mapping[str, NDArray[np.bool_]]
    dealer: Ints
    dealers: Sequence[str]
    zone: Ints
    zones: Sequence[str]


def word_tags(catalogue: Mapping[str, tags_pb2.Tag]) -> tuple[tuple[str, bool], ...]:
    """(tag, whether it is a set) of tags with words that may be looked at."""
    kinds = (tags_pb2.TAG_TYPE_CATEGORY, tags_pb2.TAG_TYPE_SET)
    return tuple(
        (name, tag.type == tags_pb2.TAG_TYPE_SET)
        for name, tag in sorted(catalogue.items())
        if tag.type in kinds and not tag.sensitive and tag.sensitivity != "sensitive"
    )


def has_word(word: str, tags: Sequence[tuple[str, bool]]) -> str:
    """The predicate that a word is among somebody's."""
    literal = "'" + word.replace("'", "''") + "'"
    return " OR ".join(f"CONTAINS({tag}, {literal})" if is_set else f"{tag} = {literal}" for tag, is_set in tags)


@contextmanager
def blaming(field: str) -> Iterator[None]:
    """Passes a peer's refusal on as our own, naming the field of our request that it comes from."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        reason, _ = reason_of(error)
        message = error.details() or "refused"
        if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
            raise InvalidArgument(message, reason=reason or None, field=field) from error
        if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION):
            raise FailedPrecondition(message, reason=reason or None, field=field) from error
        raise


async def _blamed(answers: AsyncIterable[A], field: str) -> AsyncIterator[A]:
    with blaming(field):
        async for answer in answers:
            yield answer


class Tags:
    """Questions to tags, about persons only."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = TagsServiceStub(channel)

    async def expressions(self) -> Mapping[str, str]:
        """The definition of every tag of persons."""
        return {name: tag.expression for name, tag in (await self.catalogue()).items()}

    async def catalogue(self) -> Mapping[str, tags_pb2.Tag]:
        """Every tag of persons, by name."""
        found: dict[str, tags_pb2.Tag] = {}
        token = ""
        while True:
            page = await self._stub.ListTags(tags_pb2.ListTagsRequest(page_size=PAGE, page_token=token))
            found |= {tag.name: tag for tag in page.tags if tag.entity_kind == ENTITY_KIND_PERSON}
            if not (token := page.next_page_token):
                return found

    async def count(self, predicate: str, field: str) -> int:
        """How many persons a predicate holds for."""
        with blaming(field):
            request = tags_pb2.CountAudienceRequest(entity_kind=ENTITY_KIND_PERSON, predicate=predicate)
            return (await self._stub.CountAudience(request)).count

    async def sizes(self, predicate: str, field: str) -> tuple[int, int]:
        """(how many persons a predicate holds for, how many there are at all)."""
        with blaming(field):
            request = tags_pb2.CountAudienceRequest(entity_kind=ENTITY_KIND_PERSON, predicate=predicate)
            answer = await self._stub.CountAudience(request)
        return answer.count, answer.base

    async def overlaps(self, predicate: str, others: Sequence[str], field: str) -> list[int]:
        """How many persons are in an audience and in each of up to 100 others."""
        with blaming(field):
            request = tags_pb2.DescribeAudienceRequest(
                entity_kind=ENTITY_KIND_PERSON, predicate=predicate, overlap_predicates=others, without_terms=True
            )
            answer = await self._stub.DescribeAudience(request)
        return [overlap.both for overlap in answer.overlaps]

    async def describe(self, predicate: str, base: str, field: str) -> list[Term]:
        """What a predicate's persons have more often than those of `base`."""
        with blaming(field):
            request = tags_pb2.DescribeAudienceRequest(
                entity_kind=ENTITY_KIND_PERSON, predicate=predicate, base_predicate=base, limit=MAX_TERMS
            )
            answer = await self._stub.DescribeAudience(request)
        return [Term(t.tag, t.predicate, t.audience_count, t.lift, t.z_score) for t in answer.terms]

    async def person_ids(self, predicate: str, field: str) -> Ints:
        """The persons a predicate holds for, ascending."""
        return np.concatenate([np.empty(0, np.int64), *[chunk async for chunk in self.stream_ids(predicate, field)]])

    async def stream_ids(self, predicate: str, field: str) -> AsyncIterator[Ints]:
        """The same in chunks."""
        request = tags_pb2.StreamAudienceRequest(entity_kind=ENTITY_KIND_PERSON, predicate=predicate, packed=True)
        async for chunk in _blamed(self._stub.StreamAudience(request, timeout=STREAM_TIMEOUT_S), field):
            packed = np.frombuffer(chunk.packed_ids, "<u4").astype(np.int64)
            yield packed if len(packed) else np.array(chunk.entity_ids, np.int64)

    async def reach(self, persons: Ints, flags: Sequence[str], *, zones: bool) -> Reach:
        """Which flags hold of persons and who serves them; with `zones` also where their clocks are. Strangers have nothing."""
        size = len(persons)
        has = {flag: np.zeros(size, np.bool_) for flag in flags}
        columns = [np.full(size, -1, np.int64) for _ in range(2)]
        words: list[list[str]] = [[], []]
        order = np.argsort(persons)
        for start in range(0, size, MOST_IDS):
            asked = persons[start : start + MOST_IDS]
            tags = [*flags, DEALER_TAG, ZONE_TAG] if zones else [*flags, DEALER_TAG]
            request = tags_pb2.StreamTagValuesRequest(entity_kind=ENTITY_KIND_PERSON, entity_ids=asked.tolist(), tags=tags)
            async for chunk in _blamed(self._stub.StreamTagValues(request, timeout=STREAM_TIMEOUT_S), "theme.audience"):
                rows = order[np.searchsorted(persons, np.array(chunk.entity_ids, np.int64), sorter=order)]
                for flag, holds in zip(flags, chunk.columns, strict=False):
                    has[flag][rows] = np.array(holds.numbers, np.float64) == 1
                for column, known, told in zip(columns, words, chunk.columns[len(flags) :], strict=False):
                    indexes = np.array(told.word_indexes, np.int64)
                    column[rows] = np.where(indexes >= 0, indexes + len(known), -1)
                    known.extend(told.words)
        return Reach(has, columns[0], words[0], columns[1], words[1])


class Scoring:
    """Questions to scoring."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = ScoringServiceStub(channel)

    async def require(self, model: str, field: str) -> None:
        """Raises FailedPrecondition when no version of the model is in use."""
        with blaming(field):
            # Whoever asks for scores need not be allowed to see to models; the person does not matter.
            await self._stub.ScorePersons(scoring_pb2.ScorePersonsRequest(model=model, person_ids=[1]))

    async def scores(self, model: str, person_ids: Ints, field: str, chunk: int = 10_000) -> tuple[Floats, Floats]:
        """(scores, probabilities) aligned with the persons, -1 where there is none."""
        scores, probabilities = np.empty(len(person_ids)), np.empty(len(person_ids))
        for start in range(0, len(person_ids), chunk):
            part: Sequence[int] = person_ids[start : start + chunk].tolist()
            with blaming(field):
                answer = await self._stub.ScorePersons(scoring_pb2.ScorePersonsRequest(model=model, person_ids=part))
            scores[start : start + len(part)] = answer.scores
            probabilities[start : start + len(part)] = answer.probabilities
        return scores, probabilities

    async def alike(self, seeds: Ints, seed_predicate: str, among: str, field: str) -> AsyncIterator[Ints]:
        """Persons of an audience who are like the seeds and those of the predicate, the most similar first, in chunks."""
        request = scoring_pb2.ExpandAudienceRequest(
            seed_ids=seeds.tolist(), seed_predicate=seed_predicate, among=among, limit=MOST_ALIKE
        )
        async for chunk in _blamed(self._stub.ExpandAudience(request, timeout=RANKING_TIMEOUT_S), field):
            yield np.array(chunk.person_ids, np.int64)

    async def rank(self, model: str, predicate: str, field: str) -> AsyncIterator[tuple[Ints, Floats, Floats]]:
        """(persons, scores, probabilities) of an audience, the best first, in chunks; only who has a score."""
        request = scoring_pb2.RankAudienceRequest(model=model, predicate=predicate)
        async for chunk in _blamed(self._stub.RankAudience(request, timeout=RANKING_TIMEOUT_S), field):
            yield (
                np.array(chunk.person_ids, np.int64),
                np.array(chunk.scores, np.float64),
                np.array(chunk.probabilities, np.float64),
            )
