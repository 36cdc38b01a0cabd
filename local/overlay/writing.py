"""Writing a planned record down in the shape of `POST /v1/records`."""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any, Final, NamedTuple

from local.overlay import handwriting, homes
from local.overlay.homes import Birth
from local.overlay.identifiers import account_number, device_id, wechat_id
from local.overlay.names import romanised
from local.overlay.plan import FIRST_DEALER, WECHAT_APPID, Mark, Name, Phone, Source, Vin
from local.overlay.times import DAY, stamps
from local.overlay.vehicles import MODELS
from local.overlay.world import World

_EPOCH: Final = date(1970, 1, 1)
_ID_PREFIX: Final[dict[int, str]] = {Source.CALL_CENTER: "C", Source.APP: "U"}
_AT_ONCE: Final = 4096  # records turned into text together; bounds the memory of a stream


class _Row(NamedTuple):
    """One record of the plan; the fields are columns of `Plan`."""

    person: int
    vehicle: int
    drives: bool
    id_card: bool
    email: bool
    unionid: bool
    phone: int
    name: int
    vin: int
    device: int
    marks: int
    at: int
    number: int
    salt: int


class Writer:
    """Turns rows of the plan into records; holds nothing but the columns."""

    def __init__(self, world: World) -> None:
        self._seed, self._contacts, self._plan = world.seed, world.contacts, world.plan
        self._people, self._vehicles, self._homes = world.people, world.vehicles, world.homes

    def records(self, source: int) -> Iterator[dict[str, Any]]:
        """The records of one source in order of their last change."""
        rows = self._plan.rows_of(source)
        for begin in range(rows.start, rows.stop, _AT_ONCE):
            yield from self._some(slice(begin, min(begin + _AT_ONCE, rows.stop)), source)

    def record_id(self, source: int, person: int, number: int) -> str:
        """The id that the source knows the record by: an openid at WeChat, a running number elsewhere."""
        if source == Source.WECHAT:
            return self.openid(person)
        return f"{_ID_PREFIX.get(source, '')}{number}"

    def openid(self, person: int) -> str:
        """The person's id at the official account."""
        return wechat_id(self._seed, WECHAT_APPID, person)

    def device(self, person: int) -> str:
        """The id of the person's phone."""
        return device_id(self._seed, person)

    def _some(self, rows: slice, source: int) -> Iterator[dict[str, Any]]:
        plan = self._plan
        updated = stamps(plan.at[rows])
        cells = zip(*(getattr(plan, name)[rows].tolist() for name in _Row._fields), strict=True)
        for at, (stamp, row) in enumerate(zip(updated, map(_Row._make, cells), strict=True), rows.start):
            record: dict[str, Any] = {
                "record_id": self.record_id(source, row.person, row.number),
                "updated_at": stamp,
                "identifiers": self._identifiers(source, row) | self._home(source, row, at),
            }
            if row.vehicle >= 0 and (car := self._car(row)):
                record["vehicle"] = car
            if source == Source.CALL_CENTER:
                record["attributes"] = self._contacts.attributes(int(self._people.row[row.person]))
            yield record

    def _identifiers(self, source: int, row: _Row) -> dict[str, str]:
        written: dict[str, str] = {}
        if row.phone != Phone.ABSENT:
            written["mobile"] = self._mobile(source, row)
        if row.name != Name.ABSENT:
            written["name"] = self._name(row)
        if row.id_card:
            written["id_card"] = self._people.id_card[row.person].decode()
        if row.email:
            written["email"] = self._email(row.person)
        if row.unionid:
            written["unionid"] = wechat_id(self._seed, "unionid", row.person)
        if source == Source.WECHAT:
            written |= {"openid": self.openid(row.person), "appid": WECHAT_APPID}
        if row.device >= 0:
            written["device"] = self.device(row.device)
        return written

    def _home(self, source: int, row: _Row, at: int) -> dict[str, str]:
        told = {}
        if address := homes.written(self._homes, self._people, at, source, row.person, row.salt):
            told["address"] = address
        if state := self._homes.birth[at]:
            day = _EPOCH + timedelta(days=int(self._people.birthday[row.person]))
            told["birth_date"] = (handwriting.wrong_date(day, row.salt) if state == Birth.WRONG else day).isoformat()
        return told

    def _mobile(self, source: int, row: _Row) -> str:
        if row.phone == Phone.PLACEHOLDER:
            return handwriting.placeholder_phone(row.salt)
        people = self._people
        if row.phone == Phone.STAFF:
            phones = people.staff_phones(source - FIRST_DEALER)
            digits = str(phones[row.salt % len(phones)])
        else:
            digits = str(people.mobile[people.relative[row.person] if row.phone == Phone.RELATIVE else row.person])
        if row.phone == Phone.WRONG:
            return handwriting.wrong_phone(digits, row.salt)
        return handwriting.spaced_phone(digits, row.salt) if row.marks & Mark.PHONE_FORMAT else digits

    def _name(self, row: _Row) -> str:
        if row.name == Name.PLACEHOLDER:
            return handwriting.placeholder_name(row.salt)
        surname, given = self._people.names.parts(row.person)
        name = handwriting.mistyped_name(surname, given, row.salt) if row.name == Name.HOMOPHONE else surname + given
        return handwriting.spaced_name(name, row.salt) if row.marks & Mark.NAME_SPACE else name

    def _email(self, person: int) -> str:
        surname, given = self._people.names.parts(person)
        account = account_number(self._seed, person)
        return f"{account}@qq.com" if account % 3 else f"{romanised(given)}.{romanised(surname)}{account}@163.com"

    def _car(self, row: _Row) -> dict[str, Any]:
        cars = self._vehicles
        car: dict[str, Any] = {}
        if row.vin != Vin.ABSENT:
            vin = cars.vin[row.vehicle].decode()
            if row.vin == Vin.WRONG:
                vin = handwriting.wrong_vin(vin, row.salt)
            car["vin"] = handwriting.spaced_vin(vin, row.salt) if row.marks & Mark.VIN_FORMAT else vin
        if not row.marks & Mark.NO_PLATE:
            plate = cars.plate[row.vehicle]
            car["plate"] = handwriting.spaced_plate(plate, row.salt) if row.marks & Mark.PLATE_FORMAT else plate
        if not car:
            return car
        if not row.marks & Mark.NO_RELATION:
            car["relation"] = "drives" if row.drives else "owns"
        sold = int(cars.sold[row.vehicle])
        car["attributes"] = {
            "model": MODELS[cars.model[row.vehicle]],
            "mileage_km": int(cars.km_a_year[row.vehicle]) * (row.at - sold * DAY) // (365 * DAY),
            "sold_on": (_EPOCH + timedelta(days=sold)).isoformat(),
        }
        return car
