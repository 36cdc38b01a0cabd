"""The two rooms the orchestrator asks: tags (who is this true of) and scoring (how likely will they answer)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

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

# What the choice of a channel needs to know of a person.
REACH_TAGS = ("has_app", "has_wechat", "dealer_code")
PAGE = 1000
MAX_TERMS = 500
# A predicate over millions of people streams for a while; a launch can wait for it, a caller cannot.
STREAM_TIMEOUT_S = 300.0

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reach:
    """A chunk of an audience: through which channels each person can be reached; `dealer` holds codes, "" for none."""

    person_id: Ints
    has_app: NDArray[np.bool_]
    has_wechat: NDArray[np.bool_]
    dealer: NDArray[np.str_]


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
        chunks = [np.empty(0, np.int64)]
        with blaming(field):
            request = tags_pb2.StreamAudienceRequest(entity_kind=ENTITY_KIND_PERSON, predicate=predicate, packed=True)
            async for chunk in self._stub.StreamAudience(request, timeout=STREAM_TIMEOUT_S):
                packed = np.frombuffer(chunk.packed_ids, "<u4").astype(np.int64)
                chunks.append(packed if len(packed) else np.array(chunk.entity_ids, np.int64))
        return np.concatenate(chunks)

    async def reach(self, predicate: str, field: str) -> AsyncIterator[Reach]:
        """The persons a predicate holds for and how they can be reached, in chunks."""
        with blaming(field):
            request = tags_pb2.StreamTagValuesRequest(entity_kind=ENTITY_KIND_PERSON, predicate=predicate, tags=REACH_TAGS)
            async for chunk in self._stub.StreamTagValues(request, timeout=STREAM_TIMEOUT_S):
                app, wechat, dealer = chunk.columns
                words = np.array([*dealer.words, ""], np.str_)
                # Index -1 (none) reads the empty word at the end.
                yield Reach(
                    np.array(chunk.entity_ids, np.int64),
                    np.array(app.numbers, np.float64) == 1,
                    np.array(wechat.numbers, np.float64) == 1,
                    words[np.array(dealer.word_indexes, np.int64)],
                )


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
