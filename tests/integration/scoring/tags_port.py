"""The tags door as scoring sees it: columns in memory behind the real contract, gate included."""

# ruff: noqa: N802  # methods bear the names of the contract

from __future__ import annotations

import array
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from troika.identity.v1.events_pb2 import ENTITY_KIND_PERSON
from troika.tags.v1 import tags_service_pb2 as pb
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceServicer, add_TagsServiceServicer_to_server

from chassis.errors import InvalidArgument
from chassis.rpc import Server
from local.data.bank_marketing import Contacts, load

TOKEN = "scoring-secret-of-a-test"
HASHES = {"scoring": hashlib.sha256(TOKEN.encode()).hexdigest()}
CUT, GOAL = "offer_answer IS NOT NULL", "offer_answer = 'yes'"
CHUNK = 10_000
# What was known of a contact before the call.
FEATURES = tuple(load().columns)

Value = float | str | None


@dataclass
class TagsPort(TagsServiceServicer):
    """Persons are numbered from 1. Knows three predicates, and refuses the others as the real one does."""

    persons: dict[int, dict[str, Value]]
    tags: frozenset[str]
    expressions: dict[str, str] = field(default_factory=dict)
    # What the catalogue says of single tags, beyond what their values show.
    told: dict[str, dict[str, Any]] = field(default_factory=dict)
    value_calls: int = 0
    # More predicates that it knows.
    audiences: dict[str, Callable[[dict[str, Value]], bool]] = field(default_factory=dict)

    @classmethod
    def of(cls, contacts: Contacts, rows: range, answered: range) -> TagsPort:
        """A campaign's contacts; only those in `answered` have their answer."""
        persons: dict[int, dict[str, Value]] = {}
        for row in rows:
            persons[row + 1] = dict(contacts.attributes(row))
            if row in answered:
                persons[row + 1]["offer_answer"] = "yes" if contacts.answers[row] else "no"
        return cls(persons, frozenset(contacts.columns) | {"offer_answer"})

    def meant(self, predicate: str) -> list[int]:
        answers = {p: tags.get("offer_answer") for p, tags in self.persons.items()}
        if predicate == "":
            return sorted(answers)
        if predicate in self.audiences:
            return sorted(p for p, tags in self.persons.items() if self.audiences[predicate](tags))
        if predicate == CUT:
            return sorted(p for p, a in answers.items() if a is not None)
        if predicate in (GOAL, f"({GOAL}) AND ({CUT})"):
            return sorted(p for p, a in answers.items() if a == "yes")
        if predicate in ("offer_answer = 'never'", f"(offer_answer = 'never') AND ({CUT})", "intent_guess"):
            return []
        raise InvalidArgument("not a predicate", reason="SYNTAX", field="predicate")

    async def CountAudience(self, request: pb.CountAudienceRequest, context: Any) -> pb.CountAudienceResponse:
        assert ENTITY_KIND_PERSON == request.entity_kind
        return pb.CountAudienceResponse(count=len(self.meant(request.predicate)), base=len(self.persons))

    async def ListTags(self, request: pb.ListTagsRequest, context: Any) -> pb.ListTagsResponse:
        tags = [
            pb.Tag(name=n, entity_kind=ENTITY_KIND_PERSON, from_events=True, type=self._type(n), **self.told.get(n, {}))
            for n in sorted(self.tags)
        ]
        tags += [pb.Tag(name=n, entity_kind=ENTITY_KIND_PERSON, expression=e) for n, e in self.expressions.items()]
        return pb.ListTagsResponse(tags=tags)

    async def StreamAudience(self, request: pb.StreamAudienceRequest, context: Any) -> AsyncIterator[pb.StreamAudienceResponse]:
        for ids in _chunks(self.meant(request.predicate)):
            if request.packed:
                yield pb.StreamAudienceResponse(packed_ids=array.array("I", ids).tobytes())
            else:
                yield pb.StreamAudienceResponse(entity_ids=ids)

    async def DescribeAudience(self, request: pb.DescribeAudienceRequest, context: Any) -> pb.DescribeAudienceResponse:
        inside, base = set(self.meant(request.predicate)), self.meant(request.base_predicate)
        counts: Counter[tuple[str, str]] = Counter()
        alike: Counter[tuple[str, str]] = Counter()
        for person in base:
            words = [(tag, value) for tag, value in self.persons[person].items() if isinstance(value, str)]
            counts.update(words)
            if person in inside:
                alike.update(words)
        terms = [
            pb.AudienceTerm(
                tag=tag, audience_count=n, lift=(n / len(inside)) / (counts[tag, word] / len(base)), significant=True
            )
            for (tag, word), n in alike.items()
        ]
        return pb.DescribeAudienceResponse(terms=terms, audience=len(inside), base=len(base))

    def _type(self, tag: str) -> pb.TagType:
        words = any(isinstance(tags.get(tag), str) for tags in self.persons.values())
        return pb.TAG_TYPE_CATEGORY if words else pb.TAG_TYPE_NUMBER

    async def StreamTagValues(
        self, request: pb.StreamTagValuesRequest, context: Any
    ) -> AsyncIterator[pb.StreamTagValuesResponse]:
        self.value_calls += 1
        for tag in request.tags:
            if tag not in self.tags:
                raise InvalidArgument(f"unknown tag {tag}", reason="UNKNOWN_TAG", field="tags")
        asked = [p for p in request.entity_ids if p in self.persons]
        for ids in _chunks(asked if request.entity_ids else self.meant(request.predicate)):
            columns = [_column([self.persons[p].get(tag) for p in ids]) for tag in request.tags]
            yield pb.StreamTagValuesResponse(entity_ids=ids, columns=columns)


def _chunks(ids: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(ids), CHUNK):
        yield ids[start : start + CHUNK]


def _column(values: list[Value]) -> pb.TagColumn:
    words = sorted({v for v in values if isinstance(v, str)})
    if words:
        places = {word: place for place, word in enumerate(words)}
        return pb.TagColumn(word_indexes=[places.get(v, -1) for v in values], words=words)  # type: ignore[arg-type]
    return pb.TagColumn(numbers=[float("nan") if v is None else float(v) for v in values])


@asynccontextmanager
async def serving(port: TagsPort, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """The port behind a real gRPC server; yields its address."""
    server = Server(HASHES, {"troika.tags.v1.TagsService": frozenset({"scoring"})}, with_reflection=False)
    add_TagsServiceServicer_to_server(port, server.aio)
    number = await server.start(address)
    try:
        yield f"127.0.0.1:{number}"
    finally:
        await server.stop(0)
