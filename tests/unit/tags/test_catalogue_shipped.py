"""The ready-made automotive catalogue: rich, described, careful, and made of events that somebody sends."""

from __future__ import annotations

from collections import Counter

import pytest

from services.tags.catalogue import command, vocabulary, yaml_files
from services.tags.catalogue.searching import search
from services.tags.domain.business import BusinessRules
from services.tags.domain.catalogue import FromEvents, FromTags, Kind, Sensitivity, TagDefinition, TagType
from services.tags.domain.facts import FactRules
from services.tags.domain.predicates import parse_predicate

CATALOGUE = yaml_files.load()
RULES = BusinessRules(CATALOGUE)
# Scoring, orchestrator and the demo read these.
READ_BY_OTHERS = (
    "age",
    "job",
    "marital",
    "education",
    "has_credit_default",
    "has_housing_loan",
    "has_personal_loan",
    "contact_line",
    "call_month",
    "call_weekday",
    "calls_this_campaign",
    "pdays",
    "calls_before",
    "previous_outcome",
    "emp_var_rate",
    "cons_price_idx",
    "cons_conf_idx",
    "euribor3m",
    "nr_employed",
    "has_app",
    "has_wechat",
    "has_mini_program",
    "has_wecom",
    "has_mobile",
    "has_push",
    "dealer_code",
    "offer_answer",
    "app_opens",
    "models_viewed_count",
    "test_drive_page_views",
    "price_calculations",
    "pushes_delivered",
    "last_model_viewed",
    "last_seen_at",
    "lead_score",
    "reachable",
    "score_band",
    "is_new_lead",
)


def test_there_are_more_than_120_tags_of_every_type_over_every_kind() -> None:
    assert len(CATALOGUE.definitions) >= 120
    assert set(TagType) == {definition.type for definition in CATALOGUE.definitions}
    assert set(Kind) == {definition.kind for definition in CATALOGUE.definitions}
    folders = "lifecycle value vehicle service behaviour content channel feedback score_bands dealer household"
    assert set(folders.split()) <= {definition.folder for definition in CATALOGUE.definitions}


def test_names_that_others_read_are_there() -> None:
    assert set() == set(READ_BY_OTHERS) - CATALOGUE.of(Kind.PERSON).keys()
    assert (
        set()
        == {"model", "mileage_km", "sold_on", "last_seen_at", "high_mileage", "service_due"} - CATALOGUE.of(Kind.VEHICLE).keys()
    )


def test_nothing_is_wrong_or_looks_wrong() -> None:
    assert [] == list(map(str, command.mistakes_in(*yaml_files.read_files([yaml_files.DEFAULT]))))


@pytest.mark.parametrize("definition", CATALOGUE.definitions, ids=lambda d: f"{d.kind.name}.{d.name}")
def test_every_tag_is_described_owned_and_found_by_its_words(definition: TagDefinition) -> None:
    assert any("\u4e00" <= character <= "\u9fff" for character in definition.title)
    assert definition.description.endswith(".")
    assert definition.owner and definition.folder
    assert any(word.isascii() for word in definition.words) and not all(word.isascii() for word in definition.words)
    # Business people write its name as they read it.
    predicate = f"{definition.title} IS NULL"
    assert parse_predicate(predicate, definition.kind, CATALOGUE) == parse_predicate(
        f"{definition.name} IS NULL", definition.kind, CATALOGUE
    )


def test_tags_of_households_and_dealers_are_views() -> None:
    for kind in (Kind.HOUSEHOLD, Kind.DEALER):
        assert CATALOGUE.of(kind).keys() == CATALOGUE.views[kind].keys()


def test_finance_whereabouts_and_driving_style_are_sensitive() -> None:
    sensitive = {d.name for d in CATALOGUE.definitions if d.sensitivity is Sensitivity.SENSITIVE}
    assert {
        *("has_credit_default", "has_housing_loan", "has_personal_loan", "payment_method"),
        *("usual_city", "hard_brakes_30d"),
    } == sensitive


def test_only_the_tags_that_were_always_so_are_stated_by_every_event() -> None:
    every = [d.name for d in CATALOGUE.definitions if isinstance(d.origin, FromEvents) and not d.origin.events]
    assert {"last_seen_at", "has_app", "has_wechat", "has_mini_program", "dealer_code"} == set(every)


def test_an_event_states_few_tags() -> None:
    facts = FactRules(CATALOGUE)
    stated = {n: len(facts._rules(Kind.PERSON, "app", n)) for n in vocabulary.load() if n != "Record Updated"}
    assert max(stated.values()) <= 9, Counter(stated).most_common(3)
    # Those that come by the thousand.
    assert {"App Opened": 4, "Model Viewed": 5, "Test Drive Page Viewed": 4, "Price Calculated": 4, "Page Viewed": 3} == {
        name: stated[name]
        for name in ("App Opened", "Model Viewed", "Test Drive Page Viewed", "Price Calculated", "Page Viewed")
    }


def test_every_event_and_property_has_a_word_for_people() -> None:
    for event in vocabulary.load().values():
        assert event.title and event.description.endswith(".")
        for each in (*event.properties.values(), *event.vehicle.values()):
            assert each.type in ("number", "word", "text", "flag", "time")
            assert each.description.endswith(".")


def test_most_tags_of_behaviour_have_windows_or_ages() -> None:
    windows = {d.origin.window.steps * d.origin.window.step_us // 86_400_000_000 for d in CATALOGUE.definitions
               if isinstance(d.origin, FromEvents) and d.origin.window and "INTERVAL" in d.expression}  # fmt: skip
    assert {7, 30, 90, 365} == windows
    assert any("DAYS_SINCE" in d.expression for d in CATALOGUE.definitions if isinstance(d.origin, FromTags))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("试驾", "test_drives_done"),
        ("test drive", "test_drives_done"),
        ("沉睡客户", "is_dormant"),
        ("churn", "is_dormant"),
        ("微信", "has_wechat"),
        ("有投诉的客户", "complaints"),
        ("price sensitivity", "is_price_sensitive"),
        ("lead_score", "lead_score"),
    ],
)
def test_tags_are_found_by_words_in_either_language(query: str, expected: str) -> None:
    assert expected in [hit.definition.name for hit in search(CATALOGUE.of(Kind.PERSON).values(), query)[:10]]


def test_nothing_is_found_by_what_nobody_wrote() -> None:
    assert [] == search(CATALOGUE.definitions, "zebra")
