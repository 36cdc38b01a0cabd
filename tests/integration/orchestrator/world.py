"""Stand-ins for tags and scoring behind their real contracts: one table of people, predicates run by SQLite."""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from troika.scoring.v1 import scoring_service_pb2 as scoring_pb2
from troika.scoring.v1.scoring_service_pb2_grpc import ScoringServiceServicer, add_ScoringServiceServicer_to_server
from troika.tags.v1 import tags_service_pb2 as tags_pb2
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceServicer, add_TagsServiceServicer_to_server

from chassis import rpc
from chassis.errors import InvalidArgument, NotFound

SECRET = "a secret that is long enough"
HASHES = {name: hashlib.sha256(SECRET.encode()).hexdigest() for name in ("orchestrator", "operator", "approver", "scoring")}
MODEL = "purchase_intent"
# Told by the catalogue only of people with `ways`: every second has a mobile number, every third a device, and so on.
WAYS = {"has_mobile": 2, "has_push": 3, "has_wecom": 5, "has_mini_program": 7}
WORDS = ("job", "dealer_code", "offer_answer", "previous_outcome", "answer_class", "time_zone")
EXPRESSIONS = {
    "answer_class": "CASE WHEN offer_answer = 'yes' THEN 'A' ELSE 'B' END",
    "offer_answer": "LAST(answer) FILTER (WHERE event = 'Offer Answered')",
}
RATE = {"student": 0.35, "retired": 0.25, "services": 0.05, "technician": 0.04}


@dataclass
class People:
    """The people both stand-ins know. `pause_s` slows every chunk down; `chunk` is their size."""

    count: int = 1000
    seed: int = 1
    pause_s: float = 0.0
    chunk: int = 100
    has_model: bool = True
    broken: bool = False
    poison: str = ""
    secret: frozenset[str] = frozenset()
    zones: tuple[str, ...] = ()
    ways: bool = False
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        draw = random.Random(self.seed)
        self.table = sqlite3.connect(":memory:")
        self.table.execute(
            "CREATE TABLE person (id INTEGER PRIMARY KEY, job TEXT, previous_outcome TEXT, has_app REAL, has_wechat REAL,"
            " dealer_code TEXT, offer_answer TEXT, answer_class TEXT, probability REAL, time_zone TEXT, has_mobile REAL,"
            " has_push REAL, has_wecom REAL, has_mini_program REAL)"
        )
        for number in range(1, self.count + 1):
            job = draw.choice(list(RATE))
            success = draw.random() < 0.1
            probability = min(0.95, RATE[job] * draw.uniform(0.5, 1.5) + 0.4 * success)
            asked = number % 2 == 0
            answer = ("yes" if draw.random() < probability else "no") if asked else None
            row = (
                number,
                job,
                "success" if success else None,
                1.0 if draw.random() < 0.6 else None,
                1.0 if draw.random() < 0.4 else None,
                draw.choice(["D001", "D002", None]),
                answer,
                None if answer is None else "A" if answer == "yes" else "B",
                probability if draw.random() < 0.98 else None,
                self.zones[number % len(self.zones)] if self.zones else None,
                *(1.0 if number % every == 0 else None for every in WAYS.values()),
            )
            self.table.execute("INSERT INTO person VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)", row)

    def select(self, columns: str, predicate: str) -> list[tuple[Any, ...]]:
        self.asked.append(predicate)
        if self.poison and self.poison in predicate:
            raise ZeroDivisionError
        if self.broken:
            raise InvalidArgument("no such tag: job", reason="UNKNOWN_TAG", field="predicate")
        try:
            return self.table.execute(f"SELECT {columns} FROM person WHERE {predicate or 'TRUE'} ORDER BY id").fetchall()
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            raise InvalidArgument(str(error), reason="UNKNOWN_TAG", field="predicate") from error


class Tags(TagsServiceServicer):
    def __init__(self, people: People) -> None:
        self._people = people

    async def ListTags(self, request: Any, context: Any) -> tags_pb2.ListTagsResponse:  # noqa: N802
        words = WORDS if self._people.zones else WORDS[:-1]
        types = dict.fromkeys(words, tags_pb2.TAG_TYPE_CATEGORY)
        flags = ("has_app", "has_wechat", *(WAYS if self._people.ways else ()))
        types |= dict.fromkeys(flags, tags_pb2.TAG_TYPE_BOOLEAN) | {"probability": tags_pb2.TAG_TYPE_NUMBER}
        return tags_pb2.ListTagsResponse(
            tags=[
                tags_pb2.Tag(
                    name=n,
                    entity_kind=1,
                    type=kind,
                    expression=EXPRESSIONS.get(n, ""),
                    sensitive=n in self._people.secret,
                    from_events=n == "offer_answer",
                )
                for n, kind in types.items()
            ]
        )

    async def CountAudience(self, request: Any, context: Any) -> tags_pb2.CountAudienceResponse:  # noqa: N802
        [(count,)] = self._people.select("count(*)", request.predicate)
        return tags_pb2.CountAudienceResponse(count=count, base=self._people.count)

    async def StreamAudience(self, request: Any, context: Any) -> AsyncIterator[tags_pb2.StreamAudienceResponse]:  # noqa: N802
        ids = [row[0] for row in self._people.select("id", request.predicate)]
        for start in range(0, len(ids), self._people.chunk):
            yield tags_pb2.StreamAudienceResponse(entity_ids=ids[start : start + self._people.chunk])

    async def StreamTagValues(self, request: Any, context: Any) -> AsyncIterator[tags_pb2.StreamTagValuesResponse]:  # noqa: N802
        among = f"id IN ({', '.join(map(str, request.entity_ids))})" if request.entity_ids else request.predicate
        rows = self._people.select(f"id, {', '.join(request.tags)}", among)
        for start in range(0, len(rows), self._people.chunk):
            await asyncio.sleep(self._people.pause_s)
            ids, *columns = zip(*rows[start : start + self._people.chunk], strict=True)
            yield tags_pb2.StreamTagValuesResponse(
                entity_ids=ids,
                columns=[_column(tag, values) for tag, values in zip(request.tags, columns, strict=True)],
            )

    async def DescribeAudience(self, request: Any, context: Any) -> tags_pb2.DescribeAudienceResponse:  # noqa: N802
        people = self._people
        [(audience,)], [(base,)] = (people.select("count(*)", p) for p in (request.predicate, request.base_predicate))
        terms = []
        for tag in () if request.without_terms else WORDS[:-1]:
            for (value,) in {row for row in people.select(tag, request.base_predicate) if row[0] is not None}:
                predicate = f"{tag} = '{value}'"
                [(n,)] = people.select("count(*)", f"({request.predicate}) AND {predicate}")
                [(m,)] = people.select("count(*)", f"({request.base_predicate}) AND {predicate}")
                pooled = m / base
                spread = math.sqrt(pooled * (1 - pooled) * (1 / audience + 1 / max(1, base - audience))) or 1.0
                z = (n / audience - (m - n) / max(1, base - audience)) / spread
                lift = (n / audience) / (m / base)
                terms.append(
                    tags_pb2.AudienceTerm(tag=tag, predicate=predicate, audience_count=n, base_count=m, lift=lift, z_score=z)
                )
        terms.sort(key=lambda term: -term.z_score)
        overlaps = [
            tags_pb2.AudienceOverlap(predicate=p, both=people.select("count(*)", f"({request.predicate}) AND ({p})")[0][0])
            for p in request.overlap_predicates
        ]
        return tags_pb2.DescribeAudienceResponse(terms=terms, audience=audience, base=base, overlaps=overlaps)


def _column(tag: str, values: Sequence[Any]) -> tags_pb2.TagColumn:
    if tag not in WORDS:
        return tags_pb2.TagColumn(numbers=[math.nan if v is None else v for v in values])
    words = sorted({v for v in values if v is not None})
    return tags_pb2.TagColumn(words=words, word_indexes=[-1 if v is None else words.index(v) for v in values])


class Scoring(ScoringServiceServicer):
    def __init__(self, people: People) -> None:
        self._people = people

    async def ScorePersons(self, request: Any, context: Any) -> scoring_pb2.ScorePersonsResponse:  # noqa: N802
        self._require(request.model)
        found = dict(self._people.table.execute("SELECT id, probability FROM person").fetchall())
        chances = [found.get(person) for person in request.person_ids]
        return scoring_pb2.ScorePersonsResponse(
            scores=[-1 if p is None else score(p) for p in chances],
            probabilities=[-1 if p is None else p for p in chances],
            model_version=1,
        )

    async def RankAudience(self, request: Any, context: Any) -> AsyncIterator[scoring_pb2.RankAudienceResponse]:  # noqa: N802
        self._require(request.model)
        people = self._people
        known = [row for row in people.select("id, probability", request.predicate) if row[1] is not None]
        known.sort(key=lambda row: (-row[1], row[0]))
        for start in range(0, len(known), people.chunk):
            await asyncio.sleep(people.pause_s)
            ids, chances = zip(*known[start : start + people.chunk], strict=True)
            yield scoring_pb2.RankAudienceResponse(
                person_ids=ids, scores=[score(p) for p in chances], probabilities=chances, model_version=1
            )

    async def ExpandAudience(self, request: Any, context: Any) -> AsyncIterator[scoring_pb2.ExpandAudienceResponse]:  # noqa: N802
        """Who does what many of the seeds do for a living."""
        people = self._people
        seeds = {*request.seed_ids, *(row[0] for row in people.select("id", request.seed_predicate))}
        jobs = dict(people.select("id, job", ""))
        counts = Counter(jobs[seed] for seed in seeds)
        alike = [row[0] for row in people.select("id", request.among) if row[0] not in seeds]
        alike.sort(key=lambda person: (-counts[jobs[person]], person))
        for start in range(0, min(len(alike), request.limit), people.chunk):
            yield scoring_pb2.ExpandAudienceResponse(person_ids=alike[start : start + people.chunk])

    def _require(self, model: str) -> None:
        if model != MODEL or not self._people.has_model:
            raise NotFound("no such model", reason="MODEL_NOT_FOUND", field="model")


def score(probability: float) -> float:
    odds = probability / (1 - probability)
    return 1000 * odds / (odds + 1 / 12)


@asynccontextmanager
async def peers(people: People) -> AsyncIterator[str]:
    """Both stand-ins on one port."""
    allowed = {
        "troika.tags.v1.TagsService": frozenset({"orchestrator"}),
        "troika.scoring.v1.ScoringService": frozenset({"orchestrator"}),
    }
    server = rpc.Server(HASHES, allowed, with_reflection=False)
    add_TagsServiceServicer_to_server(Tags(people), server.aio)
    add_ScoringServiceServicer_to_server(Scoring(people), server.aio)
    port = await server.start("127.0.0.1:0")
    yield f"127.0.0.1:{port}"
    await server.stop(0)
