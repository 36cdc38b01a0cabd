"""Which records exist: for each, its source, its person, its car and the identifiers that stand on it, as columns."""

from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag
from typing import Final

import numpy as np
import numpy.typing as npt

from local.overlay.identifiers import Ints, distinct
from local.overlay.people import Bools, People
from local.overlay.rates import OverlayRates
from local.overlay.times import DAY, RECORDS_END, RECORDS_START
from local.overlay.vehicles import Vehicles

WECHAT_APPID: Final = "wx5e1f3a9c0d7b2468"  # made, and the same for every seed: write keys are set up for it
FIRST_DEALER: Final = 3  # index of D001 among the sources
_RECORD_NUMBERS: Final = (10**6, 10**9)


class Source(IntEnum):
    """Index of the sources that are not dealers; dealer d has the index FIRST_DEALER + d."""

    CALL_CENTER = 0
    APP = 1
    WECHAT = 2


class Phone(IntEnum):
    """Whose number stands where the mobile belongs."""

    OWN = 0
    RELATIVE = 1
    STAFF = 2
    WRONG = 3
    PLACEHOLDER = 4
    ABSENT = 5


class Name(IntEnum):
    """What stands where the name belongs."""

    OWN = 0
    HOMOPHONE = 1
    PLACEHOLDER = 2
    ABSENT = 3


class Vin(IntEnum):
    """What stands where the VIN belongs."""

    RIGHT = 0
    WRONG = 1
    ABSENT = 2


class Mark(IntFlag):
    """How the writing of a record departs from the plain one."""

    PHONE_FORMAT = 1
    NAME_SPACE = 2
    VIN_FORMAT = 4
    PLATE_FORMAT = 8
    NO_PLATE = 16
    NO_RELATION = 32


@dataclass(frozen=True)
class Plan:
    """Columns over records, ordered by source, then time."""

    person: Ints
    source: Ints
    vehicle: Ints  # -1 without a car
    drives: Bools  # the car is somebody else's
    id_card: Bools
    email: Bools
    unionid: Bools
    phone: npt.NDArray[np.int8]  # Phone
    name: npt.NDArray[np.int8]  # Name
    vin: npt.NDArray[np.int8]  # Vin
    device: Ints  # the person whose phone the app runs on, -1 without a device
    marks: npt.NDArray[np.int8]  # Mark
    at: Ints  # seconds since 1970
    number: Ints  # the record's number in its source, distinct over all sources
    salt: Ints  # from which the writing of the record takes its small choices

    def __len__(self) -> int:
        return len(self.person)

    @property
    def typed(self) -> Bools:
        """Records that a clerk typed (dealer, call centre), as against accounts that people opened themselves."""
        return np.asarray(self.at_dealer | (self.source == Source.CALL_CENTER))

    @property
    def at_dealer(self) -> Bools:
        """Records of dealers."""
        return np.asarray(self.source >= FIRST_DEALER)

    def rows_of(self, source: int) -> slice:
        """Where the records of one source stand."""
        return slice(*np.searchsorted(self.source, [source, source + 1]).tolist())


_Columns = dict[str, npt.NDArray[np.generic]]


def plan_records(rng: np.random.Generator, people: People, vehicles: Vehicles, rates: OverlayRates) -> Plan:
    """Lay out every record without noise: own phones, right names, right VINs."""
    draft = _Draft(rng, people, rates)
    size = len(people)
    everybody = np.arange(size)
    car = np.full(size, -1, dtype=np.int64)  # the car a person would talk about: the first own one, else the driven one
    driven = np.flatnonzero(vehicles.driver >= 0)
    car[vehicles.driver[driven]] = driven
    first = np.flatnonzero(~vehicles.second)
    car[vehicles.owner[first]] = first
    drives = (car >= 0) & (vehicles.owner_of(car) != everybody)

    noted = draft.happens(size, rates.call_center_car) & ~drives
    draft.add(everybody, int(Source.CALL_CENTER), np.where(noted, car, -1))

    app = draft.happens(size, rates.app)
    wechat = draft.happens(size, rates.wechat)
    bound = app & wechat & draft.happens(size, rates.wechat_bound)
    users = np.flatnonzero(app)
    in_garage = np.where(draft.happens(len(users), rates.app_car), car[users], -1)
    draft.add(
        users,
        int(Source.APP),
        in_garage,
        drives=drives[users],
        id_card=np.where(in_garage >= 0, rates.app_id_card, 0.0),
        email=rates.app_email,
        unionid=bound[users],
        named=rates.app_name,
        device=users,
    )
    fans = np.flatnonzero(wechat)
    draft.add(
        fans,
        int(Source.WECHAT),
        unionid=bound[fans] | draft.happens(len(fans), rates.wechat_unionid),
        named=rates.wechat_name,
        phoned=np.where(bound[fans], rates.wechat_mobile, 1.0),
    )
    _add_dealer_records(draft, people, vehicles, rates)
    return draft.finish(vehicles)


def _add_dealer_records(draft: "_Draft", people: People, vehicles: Vehicles, rates: OverlayRates) -> None:
    size = len(vehicles)
    seller = draft.dealers_near(people.city[vehicles.owner])
    other = (seller + (people.cities if people.dealers > people.cities else 1)) % people.dealers
    sold_here = draft.happens(size, rates.sale_record)
    for dealer, cars, id_card in (
        (seller, sold_here, rates.sale_id_card),
        (other, draft.happens(size, rates.service_elsewhere), rates.service_id_card),
        (seller, sold_here & draft.happens(size, rates.duplicate), rates.service_id_card),
    ):
        rows = np.flatnonzero(cars)
        draft.add(vehicles.owner[rows], FIRST_DEALER + dealer[rows], rows, id_card=id_card, email=rates.dealer_email)
    driven = np.flatnonzero((vehicles.driver >= 0) & draft.happens(size, rates.driver_record))
    draft.add(vehicles.driver[driven], FIRST_DEALER + seller[driven], driven, drives=np.True_, id_card=rates.service_id_card)
    without_car = np.ones(len(people), dtype=np.bool_)
    without_car[vehicles.owner] = False
    prospects = np.flatnonzero(without_car & draft.happens(len(people), rates.prospect))
    draft.add(prospects, FIRST_DEALER + draft.dealers_near(people.city[prospects]), email=rates.dealer_email)


class _Draft:
    """Collects blocks of records, then puts them in order."""

    def __init__(self, rng: np.random.Generator, people: People, rates: OverlayRates) -> None:
        self._rng, self._people, self._rates = rng, people, rates
        self._blocks: list[_Columns] = []

    def happens(self, size: int, share: float | npt.NDArray[np.float64]) -> Bools:
        """One toss per row."""
        return np.asarray(self._rng.random(size) < share)

    def dealers_near(self, city: Ints) -> Ints:
        """A dealer of each person's city."""
        shops = -(-(self._people.dealers - city) // self._people.cities)
        return np.asarray(city + self._people.cities * self._rng.integers(0, shops))

    def add(
        self,
        person: Ints,
        source: int | Ints,
        vehicle: Ints | int = -1,
        *,
        drives: Bools | np.bool_ = np.False_,
        id_card: float | npt.NDArray[np.float64] = 0.0,
        email: float = 0.0,
        unionid: Bools | np.bool_ = np.False_,
        named: float = 1.0,
        phoned: float | npt.NDArray[np.float64] = 1.0,
        device: Ints | int = -1,
    ) -> None:
        """Add one record per row of `person`; floats are shares of the rows that bear the thing."""
        size = len(person)
        columns = {
            "person": person,
            "source": source,
            "vehicle": vehicle,
            "drives": drives,
            "id_card": self.happens(size, id_card) & (self._people.id_card[person] != b""),
            "email": self.happens(size, email),
            "unionid": unionid,
            "phone": np.where(self.happens(size, phoned), Phone.OWN, Phone.ABSENT),
            "name": np.where(self.happens(size, named), Name.OWN, Name.ABSENT),
            "device": device,
        }
        self._blocks.append({name: np.broadcast_to(np.asarray(column), size) for name, column in columns.items()})

    def finish(self, vehicles: Vehicles) -> Plan:
        """All records in order, with their time and number; the car's columns are blank where there is no car."""
        column = {name: np.concatenate([block[name] for block in self._blocks]) for name in self._blocks[0]}
        size = len(column["person"])
        vehicle = column["vehicle"].astype(np.int64)
        at = self._rng.integers(np.maximum(RECORDS_START, (vehicles.sold_on(vehicle) + 1) * DAY), RECORDS_END)
        number = distinct(lambda rows: self._rng.integers(*_RECORD_NUMBERS, len(rows)), size)
        plan = Plan(
            person=column["person"].astype(np.int64),
            source=column["source"].astype(np.int64),
            vehicle=vehicle,
            drives=column["drives"].astype(np.bool_) & (vehicle >= 0),
            id_card=column["id_card"].astype(np.bool_),
            email=column["email"].astype(np.bool_),
            unionid=column["unionid"].astype(np.bool_),
            phone=column["phone"].astype(np.int8),
            name=column["name"].astype(np.int8),
            vin=np.where(vehicle >= 0, Vin.RIGHT, Vin.ABSENT).astype(np.int8),
            device=column["device"].astype(np.int64),
            marks=np.zeros(size, dtype=np.int8),
            at=at,
            number=number,
            salt=self._rng.integers(0, 2**62, size),
        )
        return reorder(plan, np.lexsort((number, at, plan.source)))


def reorder(plan: Plan, order: Ints) -> Plan:
    """The same records in another order."""
    return replace(plan, **{name: column[order] for name, column in vars(plan).items()})
