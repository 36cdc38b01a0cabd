"""What goes wrong on records: phones of relatives and staff, typing errors, gaps, and how far a resolver can still see.

Noise is thrown first and freely; where more records than the share `lost` could then be found by nobody, the rest of them get
their own phone back (0.6 % of all records at the default rates). So the rates of phone noise are those before that mending.
"""

from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from local.overlay.identifiers import Ints
from local.overlay.people import Bools, People
from local.overlay.plan import Mark, Name, Phone, Plan, Source, Vin
from local.overlay.rates import OverlayRates
from local.overlay.vehicles import Vehicles

# One bit per thing that ties a record to others of the same person.
_MOBILE: Final = 1
_ID_CARD: Final = 2
_UNIONID: Final = 4
_EMAIL: Final = 8
_FIRST_CAR: Final = 16
_SECOND_CAR: Final = 32
_DRIVEN_CAR: Final = 64
_BITS: Final = 7

_States = npt.NDArray[np.int8]


def add_noise(rng: np.random.Generator, plan: Plan, people: People, vehicles: Vehicles, rates: OverlayRates) -> Plan:
    """Let clerks mistype, families share and advisors fill in their own number."""
    phone, name, vin = _typing(rng, plan, rates)
    device, marks = _devices(rng, plan, people, rates), _marks(rng, plan, rates)
    plan = replace(plan, phone=phone, name=name, vin=vin, device=device, marks=marks)
    plan = replace(plan, phone=_staff_phones(rng, plan, vehicles, rates))
    plan = replace(plan, phone=_family_phones(rng, plan, people, vehicles, rates))
    return replace(plan, phone=_mended_phones(rng, plan, vehicles, rates))


def links(plan: Plan, vehicles: Vehicles) -> Ints:
    """Bits of the usable links on each record: own mobile, id card, unionid, e-mail, and a right VIN beside a usable name."""
    named_car = (plan.vin == Vin.RIGHT) & _named(plan)
    car = np.where(plan.drives, _DRIVEN_CAR, np.where(vehicles.is_second(plan.vehicle), _SECOND_CAR, _FIRST_CAR))
    bits = np.where(named_car, car, 0).astype(np.int64)
    for bit, bears in (
        (_MOBILE, plan.phone == Phone.OWN),
        (_ID_CARD, plan.id_card),
        (_UNIONID, plan.unionid),
        (_EMAIL, plan.email),
    ):
        bits[bears] |= bit
    return bits


def _named(plan: Plan) -> Bools:
    return np.asarray((plan.name == Name.OWN) | (plan.name == Name.HOMOPHONE))


def strays(plan: Plan, vehicles: Vehicles, persons: int) -> Bools:
    """Records that no chain of usable links ties to those bearing the person's own mobile."""
    bits = links(plan, vehicles)
    reached = np.full(persons, _MOBILE, dtype=np.int64)
    while True:
        tied = (bits & reached[plan.person]) != 0
        wider = reached.copy()
        np.bitwise_or.at(wider, plan.person[tied], bits[tied])
        if np.array_equal(wider, reached):
            return np.asarray(~tied)
        reached = wider


def _typing(rng: np.random.Generator, plan: Plan, rates: OverlayRates) -> tuple[_States, _States, _States]:
    size = len(plan)
    phone, name, vin = plan.phone.copy(), plan.name.copy(), plan.vin.copy()
    phone[plan.typed & (rng.random(size) < rates.phone_wrong)] = Phone.WRONG
    phone[plan.at_dealer & (rng.random(size) < rates.phone_placeholder)] = Phone.PLACEHOLDER
    phone[plan.at_dealer & (rng.random(size) < rates.phone_missing)] = Phone.ABSENT
    name[(name == Name.OWN) & (rng.random(size) < rates.name_homophone)] = Name.HOMOPHONE
    name[plan.typed & (rng.random(size) < rates.name_placeholder)] = Name.PLACEHOLDER
    name[plan.typed & (rng.random(size) < rates.name_missing)] = Name.ABSENT
    vin[(vin == Vin.RIGHT) & plan.typed & (rng.random(size) < rates.vin_wrong)] = Vin.WRONG
    vin[plan.at_dealer & (rng.random(size) < rates.vin_missing)] = Vin.ABSENT
    return phone, name, vin


def _marks(rng: np.random.Generator, plan: Plan, rates: OverlayRates) -> _States:
    marks = np.zeros(len(plan), dtype=np.int8)
    for mark, share, where in (
        (Mark.PHONE_FORMAT, rates.phone_format, True),
        (Mark.NAME_SPACE, rates.name_space, True),
        (Mark.VIN_FORMAT, rates.vin_format, True),
        (Mark.PLATE_FORMAT, rates.plate_format, True),
        (Mark.NO_PLATE, rates.plate_missing, True),
        (Mark.NO_RELATION, rates.relation_missing, plan.at_dealer),
    ):
        marks |= np.where(where & (rng.random(len(plan)) < share), mark, 0).astype(np.int8)
    return marks


def _devices(rng: np.random.Generator, plan: Plan, people: People, rates: OverlayRates) -> Ints:
    has_device = plan.device >= 0
    relative = people.relative[plan.person]
    account = np.zeros(len(people), dtype=np.bool_)
    account[plan.person[plan.source == Source.APP]] = True
    shared = has_device & (relative >= 0) & account[relative] & (rng.random(len(plan)) < rates.shared_device)
    return np.where(shared, relative, plan.device)


def _backed(plan: Plan, vehicles: Vehicles, persons: int) -> Bools:
    """Dealer files with their own phone that could lose it: another such record of the person shares one more link."""
    bits = links(plan, vehicles)
    own = plan.phone == Phone.OWN
    backed = np.zeros(len(plan), dtype=np.bool_)
    for bit in range(1, _BITS):
        has = own & ((bits >> bit & 1) == 1)
        backed |= has & (np.bincount(plan.person[has], minlength=persons)[plan.person] > 1)
    return backed & plan.at_dealer


def _staff_phones(rng: np.random.Generator, plan: Plan, vehicles: Vehicles, rates: OverlayRates) -> _States:
    persons = int(plan.person.max()) + 1
    chosen = _backed(plan, vehicles, persons) & (rng.random(len(plan)) < rates.staff_phone)
    return np.where(chosen, Phone.STAFF, plan.phone).astype(np.int8)


def _family_phones(rng: np.random.Generator, plan: Plan, people: People, vehicles: Vehicles, rates: OverlayRates) -> _States:
    possible = np.flatnonzero(_backed(plan, vehicles, len(people)) & _named(plan) & (people.relative[plan.person] >= 0))
    shuffled = rng.permutation(possible)
    one_each = shuffled[np.unique(plan.person[shuffled], return_index=True)[1]]
    chosen = rng.permutation(one_each)[: round(rates.family_phone * len(people))]
    phone = plan.phone.copy()
    phone[chosen] = Phone.RELATIVE
    return phone


def _mended_phones(rng: np.random.Generator, plan: Plan, vehicles: Vehicles, rates: OverlayRates) -> _States:
    lost = rng.permutation(np.flatnonzero(strays(plan, vehicles, int(plan.person.max()) + 1)))
    phone = plan.phone.copy()
    phone[lost[round(rates.lost * len(plan)) :]] = Phone.OWN
    return phone
