"""The overlay as a whole: same seed same bytes, a truth that fits, noise at its rates, and no invented predictive power."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local.data.bank_marketing import Contacts, load
from local.overlay import CAMPAIGN_START, NOW, Overlay, OverlayRates
from local.overlay.homes import Address, written
from local.overlay.noise import strays
from local.overlay.times import stamps
from tests.unit.local.reference_resolver import clean_mobile, clean_name, pairwise, resolve

PERSONS = 4_000
README = Path(__file__).parents[3] / "local" / "overlay" / "README.md"
CONTACTS = load()


@pytest.fixture(scope="module")
def overlay() -> Overlay:
    return Overlay(PERSONS, 7, contacts=CONTACTS)


def with_persons(overlay: Overlay) -> Iterator[tuple[str, dict[str, Any], int]]:
    """Source, record and person of every record."""
    for source in overlay.sources:
        for record, (record_id, person) in zip(overlay.records(source), overlay.truth.records(source), strict=True):
            assert record_id == record["record_id"]
            yield source, record, person


def all_bytes(overlay: Overlay) -> bytes:
    """A digest of everything that the overlay gives."""
    digest = hashlib.sha256()
    for source in overlay.sources:
        for record in overlay.records(source):
            digest.update(orjson.dumps(record))
    workshops = (overlay.workshop_events(source) for source in overlay.sources if source.startswith("dealer:"))
    for events in (overlay.past_events(), *map(overlay.behaviour_events, overlay.event_sources), *workshops):
        for event in events:
            digest.update(orjson.dumps(event))
    for chunk in overlay.truth.json_chunks():
        digest.update(chunk)
    return digest.digest()


def everything_made(overlay: Overlay) -> list[dict[str, Any]]:
    records = [record for source in overlay.sources for record in overlay.records(source)]
    behaviour = [event for source in overlay.event_sources for event in overlay.behaviour_events(source)]
    dealers = [source for source in overlay.sources if source.startswith("dealer:")]
    return records + behaviour + [event for source in dealers for event in overlay.workshop_events(source)]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    first, again, other = (all_bytes(Overlay(600, seed, contacts=CONTACTS)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_records_may_be_read_twice(overlay: Overlay) -> None:
    source = overlay.sources[-1]
    assert list(overlay.records(source)) == list(overlay.records(source))
    assert overlay.record_count(source) == sum(1 for _ in overlay.records(source))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 120), st.integers(0, 2**32), st.booleans())
def test_every_record_stands_in_the_truth_once_and_every_person_at_the_call_centre_once(
    persons: int, seed: int, doubled: bool
) -> None:
    rates = OverlayRates().doubled() if doubled else OverlayRates()
    overlay = Overlay(persons, seed, rates, CONTACTS)
    rows = [(source, record["record_id"], person) for source, record, person in with_persons(overlay)]
    assert len(rows) == len({(source, record_id) for source, record_id, _ in rows})
    assert list(range(persons)) == sorted(person for source, _, person in rows if source == "call_center")


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60), st.sampled_from([item[0] for item in OverlayRates().rows()]), st.sampled_from([0.0, 1.0]))
def test_any_rate_may_be_nothing_or_everything(persons: int, rate: str, share: float) -> None:
    overlay = Overlay(persons, 3, replace(OverlayRates(), **{rate: share}), CONTACTS)
    assert persons <= sum(1 for _ in with_persons(overlay))


@pytest.mark.parametrize("lost", [0.0, 0.003, 0.02])
def test_no_noise_hides_more_records_than_the_share_that_may_be_lost(lost: float) -> None:
    rates = replace(OverlayRates(), phone_wrong=0.5, staff_phone=1.0, name_missing=0.3, lost=lost)
    world = Overlay(PERSONS, 7, rates, CONTACTS).world
    hidden = strays(world.plan, world.vehicles, PERSONS).mean()
    assert 0.5 * lost <= hidden <= lost


def test_records_have_the_shape_of_the_import_and_nothing_else(overlay: Overlay) -> None:
    identifiers = {"mobile", "name", "id_card", "email", "unionid", "openid", "appid", "device", "address", "birth_date"}
    for source, record, _ in with_persons(overlay):
        assert {"record_id", "updated_at", "identifiers"} <= record.keys()
        assert record.keys() <= {"record_id", "updated_at", "identifiers", "vehicle", "attributes"}
        assert record["identifiers"].keys() <= identifiers
        assert record.get("vehicle", {}).keys() <= {"vin", "plate", "relation", "attributes"}
        assert (source == "call_center") == ("attributes" in record)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", record["updated_at"])
        assert source.startswith("wechat:") == ("openid" in record["identifiers"])


def test_the_call_centre_bears_the_real_attributes_and_the_truth_the_real_answers() -> None:
    overlay = Overlay(len(CONTACTS), 7, contacts=CONTACTS)
    real = Counter((orjson.dumps(CONTACTS.attributes(row)), CONTACTS.answers[row]) for row in range(len(CONTACTS)))
    answers = overlay.truth.answers.tolist()
    told = Counter(
        (orjson.dumps(record["attributes"]), answers[person])
        for record, (_, person) in zip(overlay.records("call_center"), overlay.truth.records("call_center"), strict=True)
    )
    assert real == told


def test_no_duration_is_anywhere(overlay: Overlay) -> None:
    written = b"".join(map(orjson.dumps, everything_made(overlay))) + b"".join(map(orjson.dumps, overlay.past_events()))
    assert b"duration" not in written + b"".join(overlay.truth.json_chunks())


def test_past_and_new_are_disjoint_and_only_the_past_has_answered(overlay: Overlay) -> None:
    side = {person.call_center_id: person.past for person in overlay.truth.persons()}
    answered = [event["userId"] for event in overlay.past_events()]
    assert len(answered) == len(set(answered))
    assert {record_id for record_id, past in side.items() if past} == set(answered)
    assert 0.6 == pytest.approx(len(answered) / PERSONS, abs=0.03)


def test_past_events_tell_the_real_answers(overlay: Overlay) -> None:
    truth = {person.call_center_id: person.answer for person in overlay.truth.persons()}
    for event in overlay.past_events():
        assert ("track", "Offer Answered") == (event["type"], event["event"])
        assert {"answer": "yes" if truth[event["userId"]] else "no"} == event["properties"]


def test_copies_of_a_contact_stay_on_one_side() -> None:
    few = Contacts({name: column[:500] for name, column in CONTACTS.columns.items()}, CONTACTS.answers[:500])
    overlay = Overlay(3_000, 7, contacts=few)
    sides = defaultdict(set)
    for row, past in zip(overlay.world.people.row.tolist(), overlay.truth.past.tolist(), strict=True):
        sides[row].add(past)
    assert len(sides) < 3_000 == len(overlay)
    assert {1} == {len(side) for side in sides.values()}
    assert 3_000 == len({person.mobile for person in overlay.truth.persons()})


def test_records_come_before_behaviour_and_answers_and_all_before_now(overlay: Overlay) -> None:
    start, now = stamps(np.array([CAMPAIGN_START, NOW]))
    assert max(record["updated_at"] for _, record, _ in with_persons(overlay)) < start
    answered = {event["userId"]: event["timestamp"] for event in overlay.past_events()}
    assert start < min(answered.values()) <= max(answered.values()) < now
    answered_at = {}
    for person in overlay.truth.persons():
        for record_id in (*person.app_ids, *person.openids):
            answered_at[record_id] = answered.get(person.call_center_id, now)
    for source in overlay.event_sources:
        assert all(event["timestamp"] < answered_at[event["userId"]] for event in overlay.behaviour_events(source))


def test_every_account_behaves_one_to_three_times(overlay: Overlay) -> None:
    holder = {key: person.person for person in overlay.truth.persons() for key in (*person.app_ids, *person.openids)}
    seen = Counter(holder[event["userId"]] for source in overlay.event_sources for event in overlay.behaviour_events(source))
    assert set(holder.values()) == set(seen)
    assert {1, 2, 3} == set(seen.values())


def test_nothing_made_can_know_an_answer(overlay: Overlay) -> None:
    opposite = Overlay(PERSONS, 7, contacts=replace(CONTACTS, answers=tuple(not answer for answer in CONTACTS.answers)))
    assert everything_made(overlay) == everything_made(opposite)
    assert (overlay.truth.answers != opposite.truth.answers).all()


def test_behaviour_and_its_times_do_not_go_with_the_answers() -> None:
    overlay = Overlay(len(CONTACTS), 7, contacts=CONTACTS)
    behaviour, answers = overlay.behaviour, overlay.truth.answers.astype(float)
    size = len(overlay)
    latest = np.zeros(size)
    np.maximum.at(latest, behaviour.person, behaviour.at.astype(float))
    features = [np.bincount(behaviour.person, behaviour.kind == kind, size) for kind in range(4)]
    features += [np.bincount(behaviour.person, behaviour.model == model, size) for model in range(5)]
    some = latest > 0
    correlations = [np.corrcoef(feature, answers)[0, 1] for feature in features]
    correlations += [
        np.corrcoef(latest[some], answers[some])[0, 1],
        np.corrcoef(overlay.world.people.contacted_at, answers)[0, 1],
    ]
    assert max(map(abs, correlations)) < 4 / np.sqrt(some.sum())


def test_staff_phones_stand_on_many_customers_of_their_dealer_and_on_no_persons_own_records(overlay: Overlay) -> None:
    dealer_of = {phone[3:]: dealer for dealer, phones in overlay.truth.staff_phones.items() for phone in phones}
    customers = defaultdict(set)
    for source, record, person in with_persons(overlay):
        mobile = clean_mobile(record["identifiers"].get("mobile"))
        if mobile in dealer_of:
            assert dealer_of[mobile] == source
            customers[mobile].add(person)
    assert dealer_of.keys() == customers.keys()
    assert all(1 <= len(phones) <= 3 for phones in overlay.truth.staff_phones.values())
    assert 20 <= min(map(len, customers.values()))


def test_family_phones_stand_beside_the_persons_own_name(overlay: Overlay) -> None:
    persons = list(overlay.truth.persons())
    borrowed = {(person.person, mobile[3:]) for person in persons for mobile in person.relative_mobiles}
    owner = {person.mobile[3:]: person for person in persons}
    seen = set()
    for _, record, person in with_persons(overlay):
        mobile = clean_mobile(record["identifiers"].get("mobile"))
        if (person, mobile) in borrowed:
            seen.add((person, mobile))
            assert owner[mobile].person != person
            assert clean_name(persons[person].name) == clean_name(record["identifiers"]["name"])
    assert borrowed == seen
    assert 0.03 == pytest.approx(len({person for person, _ in borrowed}) / PERSONS, abs=0.005)


def test_cars_are_owned_and_some_are_driven_by_family(overlay: Overlay) -> None:
    cars = {car.vin: car for car in overlay.truth.vehicles()}
    assert 0.70 == pytest.approx(len({car.owner for car in cars.values()}) / PERSONS, abs=0.03)
    assert 0.02 < sum(car.drivers != (car.owner,) for car in cars.values()) / len(cars) < 0.10
    for _, record, person in with_persons(overlay):
        car = cars.get(record.get("vehicle", {}).get("vin"))
        relation = record.get("vehicle", {}).get("relation")
        if car and relation:
            assert person in (car.drivers if relation == "drives" else (car.owner,))
            assert record["vehicle"]["attributes"]["sold_on"] <= record["updated_at"][:10]
            assert record["vehicle"]["attributes"]["mileage_km"] >= 0


def test_app_and_wechat_of_bound_accounts_share_the_unionid(overlay: Overlay) -> None:
    unionid: defaultdict[str, dict[int, str | None]] = defaultdict(dict)
    for source, record, person in with_persons(overlay):
        unionid[source][person] = record["identifiers"].get("unionid")
    app, wechat = (unionid[source] for source in overlay.event_sources)
    bound = {person for person in app.keys() & wechat.keys() if app[person]}
    assert bound
    assert all(app[person] == wechat[person] for person in bound)
    unionids = list(filter(None, wechat.values()))
    assert len(unionids) == len(set(unionids))


def test_some_devices_are_shared_and_some_customers_stand_at_two_dealers(overlay: Overlay) -> None:
    dealers, devices = defaultdict(set), Counter()
    for source, record, person in with_persons(overlay):
        if source.startswith("dealer:"):
            dealers[person].add(source)
        if source == "app":
            devices[record["identifiers"]["device"]] += 1
    assert 0.1 < sum(len(sources) > 1 for sources in dealers.values()) / PERSONS < 0.3
    assert 2 == max(devices.values())


@pytest.mark.parametrize("rates", [OverlayRates(), OverlayRates().doubled()], ids=["plain", "doubled"])
def test_a_plain_resolver_finds_the_persons_by_what_stands_on_the_records(rates: OverlayRates) -> None:
    overlay = Overlay(PERSONS, 7, rates, CONTACTS)
    rows = [(record, person) for _, record, person in with_persons(overlay)]
    precision, recall = pairwise(resolve(record for record, _ in rows), np.array([person for _, person in rows]))
    assert 0.98 < recall < 1.0
    assert precision > 0.998


def test_doubling_doubles_the_noise_and_leaves_the_shape() -> None:
    plain, doubled = (list(rates.rows()) for rates in (OverlayRates(), OverlayRates().doubled()))
    for (name, group, share, _), (_, _, twice, _) in zip(plain, doubled, strict=True):
        assert (min(1.0, 2 * share) if group == "noise" else share) == twice, name


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_rate_outside_zero_and_one_is_refused_by_name(share: float) -> None:
    with pytest.raises(ValueError, match="staff_phone"):
        OverlayRates(staff_phone=share)


def test_no_persons_unknown_sources_and_negative_seeds_are_refused(overlay: Overlay) -> None:
    with pytest.raises(ValueError, match="persons"):
        Overlay(0, 7, contacts=CONTACTS)
    with pytest.raises(ValueError, match="seed"):
        Overlay(1, -1, contacts=CONTACTS)
    with pytest.raises(ValueError, match="dealer:D999"):
        overlay.records("dealer:D999")
    with pytest.raises(ValueError, match="no behaviour"):
        overlay.behaviour_events("call_center")


def test_the_truth_as_json_says_the_same(overlay: Overlay) -> None:
    told = orjson.loads(b"".join(overlay.truth.json_chunks()))
    assert {source: dict(overlay.truth.records(source)) for source in overlay.sources} == told["records"]
    assert [person.mobile for person in overlay.truth.persons()] == [person["mobile"] for person in told["persons"]]
    assert [car.vin for car in overlay.truth.vehicles()] == [car["vin"] for car in told["vehicles"]]
    assert {dealer: list(phones) for dealer, phones in overlay.truth.staff_phones.items()} == told["staff_phones"]


def test_the_readme_names_every_rate_with_its_share() -> None:
    page = README.read_text(encoding="utf-8")
    for name, group, share, why in OverlayRates().rows():
        assert f"| `{name}` | {group} | {share:g} | {why} |" in page


def test_who_lives_together_has_one_address_and_nobody_else_has_it(overlay: Overlay) -> None:
    world = overlay.world
    homes, people = world.homes, world.people
    assert len(homes.dwelling) + len(homes.former) == len({*homes.dwelling.tolist(), *homes.former.tolist()})
    assert set() == {*homes.of_dealer.tolist()} & {*homes.dwelling.tolist(), *homes.former.tolist()}
    plain: dict[int, set[str]] = defaultdict(set)
    rows = np.flatnonzero((homes.address == Address.OWN) & ~homes.loose)
    for row in rows.tolist():
        person = int(world.plan.person[row])
        plain[int(people.household[person])].add(written(homes, people, row, int(world.plan.source[row]), person, 5))
    assert {1} == {len(ways) for ways in plain.values()}
    assert len(plain) == len({way for ways in plain.values() for way in ways})


def test_households_in_the_truth_are_those_of_two_or_more(overlay: Overlay) -> None:
    together = list(overlay.truth.households())
    assert {2, 3} == {len(members) for members in together}
    assert 0.4 == pytest.approx(sum(map(len, together)) / PERSONS, abs=0.02)


def test_cars_are_served_where_they_went_last_of_their_own_will(overlay: Overlay) -> None:
    workshops, cars = overlay.workshops, overlay.world.vehicles
    visits: dict[int, list[int]] = defaultdict(list)
    for dealer, source in enumerate(source for source in overlay.sources if source.startswith("dealer:")):
        number = {vin.decode(): car for car, vin in enumerate(cars.vin.tolist())}
        owner = {record["record_id"] for record in overlay.records(source)}
        for event in overlay.workshop_events(source):
            assert event["userId"] in owner
            if event["event"] == "Service Completed":
                visits[number[event["properties"]["vin"]]].append(dealer)
    served = {car: dealer for car, dealer in enumerate(workshops.serving.tolist()) if dealer >= 0}
    assert served.keys() <= visits.keys()
    assert 0.95 < np.mean([served[car] in visits[car] for car in served]) <= 1
