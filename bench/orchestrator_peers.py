"""Tags and scoring in one process: the same contracts in the same packed chunks, answered from arrays at once.

`python -m bench.orchestrator_peers PORT PERSONS HASHES` serves until it is killed; HASHES are callers' token hashes as JSON.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import orjson
from troika.identity.v1.events_pb2 import ENTITY_KIND_PERSON
from troika.scoring.v1 import scoring_service_pb2 as scoring_pb2
from troika.scoring.v1.scoring_service_pb2_grpc import ScoringServiceServicer, add_ScoringServiceServicer_to_server
from troika.tags.v1 import tags_service_pb2 as tags_pb2
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceServicer, add_TagsServiceServicer_to_server

from chassis import rpc

CHUNK, PACKED, DEALERS = 10_000, 100_000, 600
ZONES = ("Asia/Shanghai", "Asia/Urumqi", "Europe/Berlin")


class Base:
    """Persons 1 to n: three of five have the app, two of five WeChat, two of three a dealer, 49 of 50 a score, most mobiles."""

    def __init__(self, persons: int) -> None:
        rng = np.random.default_rng(5)
        self.persons = persons
        self.flags = {
            "has_app": (rng.random(persons + 1) < 0.6).astype(np.float64),
            "has_wechat": (rng.random(persons + 1) < 0.4).astype(np.float64),
        }
        self.dealer = np.where(rng.random(persons + 1) < 0.66, rng.integers(0, DEALERS, persons + 1), -1)
        self.zone = np.where(rng.random(persons + 1) < 0.5, rng.integers(0, len(ZONES), persons + 1), -1)
        chance = rng.beta(1.2, 9, persons + 1)
        chance[rng.random(persons + 1) < 0.02] = -1
        chance[0] = -1
        self.chance = chance
        order = np.lexsort((np.arange(persons + 1), -chance))
        self.ranked = order[: int((chance >= 0).sum())]
        self.score = np.where(chance >= 0, 1000 * chance / (chance + (1 - chance) / 12), -1.0)
        self.flags["has_mobile"] = (rng.random(persons + 1) < 0.9).astype(np.float64)
        self.flags["has_push"] = self.flags["has_app"] * (rng.random(persons + 1) < 0.7)
        self.words = [f"D{code:03}" for code in range(DEALERS)]


class Tags(TagsServiceServicer):
    """Everybody is in every audience."""

    def __init__(self, base: Base) -> None:
        self._base = base

    async def ListTags(self, request: Any, context: Any) -> tags_pb2.ListTagsResponse:  # noqa: N802
        """The tags that the arbiter reads."""
        names = ("dealer_code", "time_zone", *self._base.flags)
        return tags_pb2.ListTagsResponse(tags=[tags_pb2.Tag(name=name, entity_kind=ENTITY_KIND_PERSON) for name in names])

    async def GetProfile(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Nobody asks."""
        raise NotImplementedError

    async def DescribeAudience(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Nobody asks."""
        raise NotImplementedError

    async def CountAudience(self, request: Any, context: Any) -> tags_pb2.CountAudienceResponse:  # noqa: N802
        """All."""
        return tags_pb2.CountAudienceResponse(count=self._base.persons, base=self._base.persons)

    async def StreamAudience(self, request: Any, context: Any) -> AsyncIterator[tags_pb2.StreamAudienceResponse]:  # noqa: N802
        """All, packed."""
        ids = np.arange(1, self._base.persons + 1, dtype="<u4")
        for start in range(0, len(ids), PACKED):
            yield tags_pb2.StreamAudienceResponse(packed_ids=ids[start : start + PACKED].tobytes())

    async def StreamTagValues(self, request: Any, context: Any) -> AsyncIterator[tags_pb2.StreamTagValuesResponse]:  # noqa: N802
        """Columns of the persons asked for."""
        base, asked = self._base, np.array(request.entity_ids, np.int64)
        for start in range(0, len(asked), CHUNK):
            ids = asked[start : start + CHUNK]
            columns = []
            for tag in request.tags:
                if tag in base.flags:
                    columns.append(tags_pb2.TagColumn(numbers=base.flags[tag][ids].tolist()))
                    continue
                codes, words = (base.dealer, base.words) if tag == "dealer_code" else (base.zone, list(ZONES))
                columns.append(tags_pb2.TagColumn(word_indexes=codes[ids].tolist(), words=words))
            yield tags_pb2.StreamTagValuesResponse(entity_ids=ids.tolist(), columns=columns)


class Scoring(ScoringServiceServicer):
    """One model."""

    def __init__(self, base: Base) -> None:
        self._base = base

    async def ScorePersons(self, request: Any, context: Any) -> scoring_pb2.ScorePersonsResponse:  # noqa: N802
        """From the arrays."""
        ids = np.array(request.person_ids, np.int64)
        scores, chances = self._base.score[ids].tolist(), self._base.chance[ids].tolist()
        return scoring_pb2.ScorePersonsResponse(scores=scores, probabilities=chances, model_version=1)

    async def ExplainScore(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Nobody asks."""
        raise NotImplementedError

    async def RankOffers(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Nobody asks."""
        raise NotImplementedError

    async def ClassifyText(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Nobody asks."""
        raise NotImplementedError

    async def ListOpinions(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Nobody asks."""
        raise NotImplementedError

    def ExpandAudience(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Nobody asks."""
        raise NotImplementedError

    async def RankAudience(self, request: Any, context: Any) -> AsyncIterator[scoring_pb2.RankAudienceResponse]:  # noqa: N802
        """Everybody with a score."""
        base = self._base
        for start in range(0, len(base.ranked), CHUNK):
            ids = base.ranked[start : start + CHUNK]
            yield scoring_pb2.RankAudienceResponse(
                person_ids=ids.tolist(),
                scores=base.score[ids].tolist(),
                probabilities=base.chance[ids].tolist(),
                model_version=1,
            )


async def serve(port: int, persons: int, hashes: dict[str, str]) -> None:
    """Both on one port."""
    base = Base(persons)
    allowed = {f"troika.{name}Service": frozenset({"orchestrator"}) for name in ("tags.v1.Tags", "scoring.v1.Scoring")}
    server = rpc.Server(hashes, allowed, with_reflection=False)
    add_TagsServiceServicer_to_server(Tags(base), server.aio)
    add_ScoringServiceServicer_to_server(Scoring(base), server.aio)
    await server.start(f"127.0.0.1:{port}")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), orjson.loads(sys.argv[3])))
