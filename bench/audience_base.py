"""A seeded base as an index: 200 tags of persons from 0.01 % to 50 % dense, numbers, words, vehicles and dealers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from services.tags.catalogue import yaml_files
from services.tags.domain.catalogue import RELATIONS, Catalogue, Kind
from services.tags.index.bitmaps import Bits, bitmap, from_bits
from services.tags.index.columns import BooleanColumn, CategoryColumn, NumberColumn
from services.tags.index.index import AudienceIndex
from services.tags.index.relations import RelationTable

Ints = NDArray[np.int64]

TAGS, SPARSEST, DENSEST = 200, 0.0001, 0.5
AUDIENCE = 161  # every tenth has it
CITIES, DEALERS = 30, 600
NUMBERS = {"age": "number", "seen_at": "time", "city": "category"}
PERSON, VEHICLE, DEALER = Kind.PERSON, Kind.VEHICLE, Kind.DEALER


def name(tag: int) -> str:
    """Of a boolean tag, the sparsest first."""
    return f"t{tag:03}"


def density(tag: int) -> float:
    """Evenly spread over the orders of magnitude."""
    return float(SPARSEST * (DENSEST / SPARSEST) ** (tag / (TAGS - 1)))


def catalogue_text() -> str:
    """The catalogue that a service has to be started with."""
    lines = ["person:"]
    lines += [_line(name(tag), "boolean", f"BOOL_OR(v) FILTER (WHERE event = 'E{tag}')") for tag in range(TAGS)]
    lines += [_line(tag, type_, _last(type_, tag)) for tag, type_ in NUMBERS.items()]
    lines += ["vehicle:", _line("mileage_km", "number", "LAST(mileage_km)"), _line("electric", "boolean", "LAST(electric)")]
    lines += ["dealer:", "  big: {type: boolean, description: d, import: sales}"]
    return "\n".join(lines)


def _line(tag: str, type_: str, expression: str) -> str:
    return f'  {tag}: {{type: {type_}, description: d, expression: "{expression}"}}'


def _last(type_: str, tag: str) -> str:
    return "LAST(occurred_at)" if type_ == "time" else f"LAST({tag})"


@dataclass(frozen=True)
class Base:
    """An index, and the bits of each tag for whoever holds the same in another engine; bit 0 is id 0, which nobody has."""

    catalogue: Catalogue
    index: AudienceIndex
    bits: list[Bits]
    persons: int

    def yes(self, tag: int) -> BitMap:
        """Who has a tag."""
        column = self.index.column(PERSON, name(tag))
        if not isinstance(column, BooleanColumn):
            raise TypeError(name(tag))
        return column.yes


def make(persons: int) -> Base:
    """Every fourth tag says no of all others, the rest says nothing of them."""
    rng = np.random.default_rng(4)
    vehicles = persons // 2
    catalogue = yaml_files.parse(catalogue_text())
    index = AudienceIndex(catalogue)
    for kind, count in ((PERSON, persons), (VEHICLE, vehicles), (DEALER, DEALERS)):
        index.present[kind] = bitmap(_upto(count, 1.0, rng))
        index.versions[kind] = np.ones(count + 1, np.int64)
    bits = []
    for tag in range(TAGS):
        packed = np.packbits(_upto(persons, density(tag), rng), bitorder="little")
        bits.append(packed)
        yes = from_bits(packed)
        _boolean(index, PERSON, name(tag)).fill(yes, index.present[PERSON] - yes if tag % 4 == 0 else BitMap())
    _boolean(index, VEHICLE, "electric").fill(bitmap(_upto(vehicles, 0.2, rng)), BitMap())
    _boolean(index, DEALER, "big").fill(bitmap(_upto(DEALERS, 0.4, rng)), BitMap())
    _numbers(index, PERSON, "age", rng.integers(18, 90, persons + 1).astype(np.float64), rng)
    _numbers(index, PERSON, "seen_at", 1_700_000_000 + rng.random(persons + 1) * 5e7, rng)
    _numbers(index, VEHICLE, "mileage_km", rng.random(vehicles + 1) * 200_000, rng)
    cities = rng.integers(0, CITIES, persons + 1)
    cities[0] = -1
    city = index.column(PERSON, "city")
    if isinstance(city, CategoryColumn):
        city.fill({f"city {each}": bitmap(cities == each) for each in range(CITIES)})
    _relate(index, persons, vehicles, rng)
    return Base(catalogue, index, bits, persons)


def _upto(count: int, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    mask = rng.random(count + 1, np.float32) < share
    mask[0] = False
    return mask


def _boolean(index: AudienceIndex, kind: Kind, tag: str) -> BooleanColumn:
    column = index.column(kind, tag)
    if not isinstance(column, BooleanColumn):
        raise TypeError(tag)
    return column


def _numbers(index: AudienceIndex, kind: Kind, tag: str, values: NDArray[np.float64], rng: np.random.Generator) -> None:
    values[rng.random(len(values), np.float32) < 0.3] = np.nan
    values[0] = np.nan
    column = index.column(kind, tag)
    if isinstance(column, NumberColumn):
        column.fill(values, bitmap(~np.isnan(values)))


def _relate(index: AudienceIndex, persons: int, vehicles: int, rng: np.random.Generator) -> None:
    """Each vehicle is owned by one person, an eighth is driven by another one as well, and each was sold by a dealer."""
    owned, drivers = np.arange(1, vehicles + 1), vehicles // 8
    driven = rng.choice(owned, drivers, replace=False)
    one = np.concatenate((rng.integers(1, persons + 1, vehicles), rng.integers(1, persons + 1, drivers)))
    other = np.concatenate((owned, driven))
    relation = np.concatenate((np.zeros(vehicles, np.int64), np.ones(drivers, np.int64)))
    _fill(index, (PERSON, VEHICLE), one, other, relation)
    _fill(index, (VEHICLE, DEALER), owned, rng.integers(1, DEALERS + 1, vehicles), np.zeros(vehicles, np.int64))
    if RELATIONS[PERSON, VEHICLE][:2] != ("owns", "drives"):
        raise AssertionError("relations have another order")


def _fill(
    index: AudienceIndex, pair: tuple[Kind, Kind], one: NDArray[np.int64], other: NDArray[np.int64], relation: NDArray[np.int64]
) -> None:
    size = len(one)
    index.relations.fill(pair, RelationTable(one, other, relation, np.zeros(size, np.bool_), np.ones(size, np.int64)))
