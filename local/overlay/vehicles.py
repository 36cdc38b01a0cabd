"""The cars of the overlay: who owns each, who else drives it, its numbers and its model."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from local.overlay.identifiers import PLATE_CODES, Ints, distinct, plate, vins
from local.overlay.people import Bools, People
from local.overlay.places import CITIES
from local.overlay.rates import OverlayRates
from local.overlay.times import DAY, FIRST_SALE, RECORDS_END

# A maker that does not exist: model -> world manufacturer identifier and vehicle descriptor of its VINs.
COMBUSTION_MODELS: Final = {"T3": b"LTR1A3BC", "T5": b"LTR2B5DC", "T7": b"LTR3C7FC"}
ELECTRIC_MODELS: Final = {"E5": b"LTR5E5GV", "E7": b"LTR6E7HV"}
MODELS: Final = (*COMBUSTION_MODELS, *ELECTRIC_MODELS)
_HEADS: Final = np.array([*COMBUSTION_MODELS.values(), *ELECTRIC_MODELS.values()])
_YEAR_LETTERS: Final = np.frombuffer(b"HJKLMNPRSTVWXY", dtype="S1")  # 2017 to 2030: I, O, Q and U are left out
_FIRST_YEAR: Final = 2017
_PLANT: Final = b"T"
_SERIALS: Final = 10**6
_FRESHEST: Final = RECORDS_END - 30 * DAY
_MEDIAN_KM_A_YEAR: Final = 13_000
_KM_SPREAD: Final = 0.45  # of the logarithm


@dataclass(frozen=True)
class Vehicles:
    """Columns over cars; first cars come before second ones."""

    owner: Ints
    driver: Ints  # the household member who drives it instead, -1 if the owner does
    second: Bools
    model: Ints  # index into MODELS
    sold: Ints  # day since 1970
    km_a_year: Ints
    vin: npt.NDArray[np.bytes_]
    plate: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.owner)

    def owner_of(self, vehicle: Ints) -> Ints:
        """Owner by car, -1 where the car is -1."""
        return np.append(self.owner, -1)[vehicle]

    def is_second(self, vehicle: Ints) -> Bools:
        """Whether the car is its owner's second one; false where the car is -1."""
        return np.append(self.second, False)[vehicle]

    def sold_on(self, vehicle: Ints) -> Ints:
        """Day of the sale, 0 where the car is -1."""
        return np.append(self.sold, 0)[vehicle]


def draw_vehicles(rng: np.random.Generator, people: People, rates: OverlayRates) -> Vehicles:
    """Give persons their cars; a person drives at most one car of somebody else."""
    owners = np.flatnonzero(rng.random(len(people)) < rates.car_owner)
    again = owners[rng.random(len(owners)) < rates.second_car]
    owner = np.concatenate([owners, again])
    size = len(owner)
    second = np.arange(size) >= len(owners)
    electric = rng.random(size) < rates.new_energy
    combustion_kind = rng.integers(0, len(COMBUSTION_MODELS), size)
    electric_kind = len(COMBUSTION_MODELS) + rng.integers(0, len(ELECTRIC_MODELS), size)
    model = np.where(electric, electric_kind, combustion_kind)
    sold = rng.integers(FIRST_SALE // DAY, _FRESHEST // DAY, size)
    km_a_year = np.rint(_MEDIAN_KM_A_YEAR * np.exp(_KM_SPREAD * rng.standard_normal(size))).astype(np.int64)
    vin = _vins(rng, model, sold)
    return Vehicles(
        owner,
        _drivers(rng, people, owner, rates),
        second,
        model,
        sold,
        km_a_year,
        vin,
        _plates(rng, people.city[owner], electric),
    )


def _drivers(rng: np.random.Generator, people: People, owner: Ints, rates: OverlayRates) -> Ints:
    driver = np.where(rng.random(len(owner)) < rates.other_driver, people.relative[owner], -1)
    only = np.zeros(len(owner), dtype=np.bool_)
    only[np.unique(driver, return_index=True)[1]] = True
    return np.where(only, driver, -1)


def _vins(rng: np.random.Generator, model: Ints, sold: Ints) -> npt.NDArray[np.bytes_]:
    year = sold.astype("datetime64[D]").astype("datetime64[Y]").astype(np.int64) + 1970

    def draw(at: Ints) -> Ints:
        return (model[at] * 10_000 + year[at]) * _SERIALS + rng.integers(0, _SERIALS, len(at))

    serial = distinct(draw, len(model)) % _SERIALS
    return vins(_HEADS[model], _YEAR_LETTERS[year - _FIRST_YEAR], _PLANT, serial)


def _plates(rng: np.random.Generator, city: Ints, electric: Bools) -> tuple[str, ...]:
    """Distinct plates; two codes of a new-energy plate may mean the same characters, so the characters decide."""
    prefixes = [CITIES[place].plate for place in city.tolist()]
    plates: list[str] = []
    seen: set[str] = set()
    codes = rng.integers(0, PLATE_CODES, len(city)).tolist()
    for prefix, code, is_electric in zip(prefixes, codes, electric.tolist(), strict=True):
        text = plate(prefix, code, is_electric)
        while text in seen:
            text = plate(prefix, int(rng.integers(0, PLATE_CODES)), is_electric)
        seen.add(text)
        plates.append(text)
    return tuple(plates)
