"""The models of classes: what they say of themselves, and what is never inferred."""

from __future__ import annotations

import importlib

import pytest
import yaml

from chassis.consents import OPT_IN
from services.scoring.domain import TrainingRefused
from services.scoring.models.attributes import SPECIFICATIONS, refuse_sensitive
from services.scoring.models.next_best_offer import SPECIFICATION
from services.scoring.models.specification import Foretells


@pytest.mark.parametrize("specification", [SPECIFICATION, *SPECIFICATIONS], ids=lambda s: s.name)
def test_a_model_of_classes_can_be_trained_and_says_its_limits(specification) -> None:  # type: ignore[no-untyped-def]
    assert callable(importlib.import_module(specification.training_module).train)
    assert Foretells.CLASS is specification.foretells
    assert specification.purpose and specification.limits
    assert "{" not in specification.purpose


def test_attributes_are_inferred_only_of_those_who_allow_it() -> None:
    assert {OPT_IN} == {specification.consent for specification in SPECIFICATIONS}


@pytest.mark.parametrize("target", ["age_band", "household_stage", "marital", "job", "preferred_brand", "last_model_viewed"])
def test_what_is_not_sensitive_may_be_inferred(target: str) -> None:
    for sensitivity in ("", "public", "internal", "personal", "PERSONAL"):
        refuse_sensitive(target, sensitivity)


@pytest.mark.parametrize(
    ("target", "sensitivity", "title"),
    [
        ("age_band", "sensitive", ""),
        ("age_band", "something_new", ""),
        ("has_credit_default", "personal", ""),
        ("estimated_income", "internal", ""),
        ("homeLocation", "personal", ""),
        ("religion", "", ""),
        ("group_7", "personal", "宗教信仰"),
        ("民族", "personal", ""),
    ],
)
def test_what_is_sensitive_by_class_or_by_name_is_refused(target: str, sensitivity: str, title: str) -> None:
    with pytest.raises(TrainingRefused) as caught:
        refuse_sensitive(target, sensitivity, title)
    assert "SENSITIVE_TARGET" == caught.value.reason


def test_words_that_only_look_alike_are_not_refused() -> None:
    for target in ("facelift_interest", "minority_stake", "unionid_known", "party_size"):
        if target in ("minority_stake", "party_size"):
            # These hold a forbidden word by itself: better one attribute too few.
            with pytest.raises(TrainingRefused):
                refuse_sensitive(target, "internal")
        else:
            refuse_sensitive(target, "internal")


def test_no_sensitive_tag_of_the_catalogue_can_be_a_target() -> None:
    from pathlib import Path

    for file in Path("services/tags/catalogue/definitions").glob("*.yaml"):
        tags = yaml.safe_load(file.read_text(encoding="utf-8")).get("person", {})
        for name, definition in tags.items():
            if definition.get("sensitivity") == "sensitive":
                with pytest.raises(TrainingRefused):
                    refuse_sensitive(name, definition["sensitivity"], definition.get("title", ""))
