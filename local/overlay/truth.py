"""What is really so: which person stands behind each record, who owns and drives each car, which phones are staff's."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import orjson

from local.overlay.people import Bools
from local.overlay.plan import FIRST_DEALER, Phone, Source
from local.overlay.world import World
from local.overlay.writing import Writer


@dataclass(frozen=True)
class VehicleTruth:
    """One car: its numbers, the person who owns it and the persons who drive it."""

    vin: str
    plate: str
    owner: int
    drivers: tuple[int, ...]


@dataclass(frozen=True)
class PersonTruth:
    """One person: the real answer, and every good key under which a receiver may meet the person (mobiles in E.164)."""

    person: int
    past: bool
    answer: bool
    name: str
    call_center_id: str
    app_ids: tuple[str, ...]
    openids: tuple[str, ...]
    mobile: str
    relative_mobiles: tuple[str, ...]


def e164(mobile: int) -> str:
    """A mainland mobile as the product stores it."""
    return f"+86{mobile}"


class Truth:
    """The ground truth of one overlay; big parts are iterators, so that they need not fit into memory at once."""

    def __init__(self, world: World, writer: Writer) -> None:
        self.sources = world.sources
        self._world, self._writer = world, writer

    @property
    def answers(self) -> Bools:
        """Per person: did the contact really say yes?"""
        return self._world.answers

    @property
    def past(self) -> Bools:
        """Per person: is the answer part of the past campaign?"""
        return self._world.people.past

    @cached_property
    def staff_phones(self) -> Mapping[str, tuple[str, ...]]:
        """Dealer source -> the phones of its advisors in E.164."""
        dealers = self.sources[FIRST_DEALER:]
        return {name: tuple(map(e164, self._world.people.staff_phones(dealer))) for dealer, name in enumerate(dealers)}

    def records(self, source: str) -> Iterator[tuple[str, int]]:
        """Record id and person of each record of a source, in the order of the records."""
        index = self.sources.index(source)
        rows = self._world.plan.rows_of(index)
        for person, number in zip(self._world.plan.person[rows].tolist(), self._world.plan.number[rows].tolist(), strict=True):
            yield self._writer.record_id(index, person, number), person

    def vehicles(self) -> Iterator[VehicleTruth]:
        """Every car; its drivers are the household member who drives it, or else its owner."""
        cars = self._world.vehicles
        rows = zip(cars.vin.tolist(), cars.plate, cars.owner.tolist(), cars.driver.tolist(), strict=True)
        for vin, plate, owner, driver in rows:
            yield VehicleTruth(vin.decode(), plate, owner, (driver if driver >= 0 else owner,))

    def persons(self) -> Iterator[PersonTruth]:
        """Every person in order."""
        call_center, app, openid = (self._ids(source) for source in Source)
        people = self._world.people
        borrowed: defaultdict[int, set[int]] = defaultdict(set)
        for person in self._world.plan.person[self._world.plan.phone == Phone.RELATIVE].tolist():
            borrowed[person].add(int(people.relative[person]))
        answers, past, mobiles = self.answers.tolist(), people.past.tolist(), people.mobile.tolist()
        for person, (answer, is_past, mobile) in enumerate(zip(answers, past, mobiles, strict=True)):
            yield PersonTruth(
                person,
                is_past,
                answer,
                "".join(people.names.parts(person)),
                call_center[person][0],
                app.get(person, ()),
                openid.get(person, ()),
                e164(mobile),
                tuple(e164(mobiles[relative]) for relative in sorted(borrowed.get(person, ()))),
            )

    def households(self) -> Iterator[tuple[int, ...]]:
        """Persons who live together, two or more."""
        members: defaultdict[int, list[int]] = defaultdict(list)
        for person, household in enumerate(self._world.people.household.tolist()):
            members[household].append(person)
        yield from (tuple(persons) for persons in members.values() if len(persons) > 1)

    def _ids(self, source: int) -> dict[int, tuple[str, ...]]:
        ids: defaultdict[int, tuple[str, ...]] = defaultdict(tuple)
        for record_id, person in self.records(self.sources[source]):
            ids[person] += (record_id,)
        return ids

    def json_chunks(self) -> Iterator[bytes]:
        """The whole truth as one JSON object, in pieces; see the README for its fields."""
        staff = orjson.dumps(dict(self.staff_phones))
        yield b'{"about":"Ground truth of a generated identity overlay; only the answers are real.","staff_phones":' + staff
        yield b',"records":{'
        for at, source in enumerate(self.sources):
            yield (b"," if at else b"") + orjson.dumps(source) + b":" + orjson.dumps(dict(self.records(source)))
        yield b"}"
        for field, rows in (("vehicles", self.vehicles()), ("persons", self.persons()), ("households", self.households())):
            yield b',"' + field.encode() + b'":['
            yield from (b",\n" * bool(at) + orjson.dumps(row) for at, row in enumerate(rows))
            yield b"]"
        yield b"}\n"
