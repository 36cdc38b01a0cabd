"""What goes wrong on records: phones of relatives and staff, typing errors, gaps, and how far a resolver can still see.

Noise is thrown first and freely; then the records that nobody could find any more get their own phone back, but for the
share `lost`. So the rates of phone noise are those before that mending.
"""

from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from local.overlay.identifiers import Ints
from local.overlay.people import Bools, People
from local.overlay.plan import Name, Phone, Plan, Source, Vin
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


def add_noise(rng: np.random.Generator, plan: Plan, people: People, vehicles: Vehicles, rates: OverlayRates) -> Plan:
    """Let clerks mistype, families share and advisors fill in their own number."""
    plan = replace(plan, **_typing(rng, plan, rates), device=_devices(rng, plan, people, rates))
    plan = replace(plan, phone=_staff_phones(rng, plan, vehicles, rates))
    plan = replace(plan, phone=_family_phones(rng, plan, people, vehicles, rates))
    return replace(plan, phone=_mended_phones(rng, plan, vehicles, rates))


def links(plan: Plan, vehicles: Vehicles) -> Ints:
    """Bits of the usable links on each record: own mobile, id card, unionid, e-mail, and a right VIN beside a usable name."""
    named_car = (plan.vin == Vin.RIGHT) & ((plan.name == Name.OWN) | (plan.name == Name.HOMOPHONE))
    car = np.where(plan.drives, _DRIVEN_CAR, np.where(vehicles.second[plan.vehicle], _SECOND_CAR, _FIRST_CAR))
    return (
        np.where(plan.phone == Phone.OWN, _MOBILE, 0)
        | np.where(plan.id_card, _ID_CARD, 0)
        | np.where(plan.unionid, _UNIONID, 0)
        | np.where(plan.email, _EMAIL, 0)
        | np.where(named_car, car, 0)
    )


def strays(plan: Plan, vehicles: Vehicles, persons: int) -> Bools:
    """Records that no chain of usable links ties to those bearing the person's own mobile."""
    bits = links(plan, vehicles)
    reached = np.full(persons, _MOBILE, dtype=np.int64)
    while True:
        tied = (bits & reached[plan.person]) != 0
        wider = reached.copy()
        np.bitwise_or.at(wider, plan.person[tied], bits[tied])
        if np.array_equal(wider, reached):
            return ~tied
        reached = wider


def _typing(rng: np.random.Generator, plan: Plan, rates: OverlayRates) -> dict[str, npt.NDArray[np.int8]]:
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
    return {"phone": phone, "name": name, "vin": vin}


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


def _staff_phones(rng: np.random.Generator, plan: Plan, vehicles: Vehicles, rates: OverlayRates) -> npt.NDArray[np.int8]:
    persons = int(plan.person.max()) + 1
    chosen = _backed(plan, vehicles, persons) & (rng.random(len(plan)) < rates.staff_phone)
    return np.where(chosen, Phone.STAFF, plan.phone).astype(np.int8)


def _family_phones(
    rng: np.random.Generator, plan: Plan, people: People, vehicles: Vehicles, rates: OverlayRates
) -> npt.NDArray[np.int8]:
    possible = np.flatnonzero(_backed(plan, vehicles, len(people)) & (people.relative[plan.person] >= 0))
    shuffled = rng.permutation(possible)
    one_each = shuffled[np.unique(plan.person[shuffled], return_index=True)[1]]
    chosen = rng.permutation(one_each)[: round(rates.family_phone * len(people))]
    phone = plan.phone.copy()
    phone[chosen] = Phone.RELATIVE
    return phone


def _mended_phones(rng: np.random.Generator, plan: Plan, vehicles: Vehicles, rates: OverlayRates) -> npt.NDArray[np.int8]:
    lost = rng.permutation(np.flatnonzero(strays(plan, vehicles, int(plan.person.max()) + 1)))
    phone = plan.phone.copy()
    phone[lost[round(rates.lost * len(plan)) :]] = Phone.OWN
    return phone
