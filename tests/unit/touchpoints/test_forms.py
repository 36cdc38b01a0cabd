"""Endpoints are filled in by what their channel declares."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.errors import InvalidArgument
from services.identity.domain.consents import CHANNELS as CONSENT_CHANNELS
from services.touchpoints.channels.forms import CODE, Field, Form, filled, values
from services.touchpoints.channels.table import TABLE
from services.touchpoints.channels.web.slots import CHANNELS as SLOT_CHANNELS
from services.touchpoints.domain.deliveries import Channel
from services.touchpoints.endpoints import Endpoint


def _even(value: str) -> str:
    return "" if len(value) % 2 == 0 else "[0] must be even"


FORM = Form(
    Field("scope", "the code", pattern=CODE),
    settings=(Field("page", "a page", required=False, pattern="/.*"), Field("rules", "rules", required=False, check=_even)),
    secrets=(Field("key", "a key", pattern="[a-z]{1,9}", rotates=True),),
    default_url="https://api.example",
)


def endpoint(scope: str = "s", url: str = "", **parts: dict[str, str]) -> Endpoint:
    return Endpoint("e", Channel.WECHAT, scope, url, **parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("form", "offered", "field"),
    [
        (FORM, endpoint(), "endpoint.secrets.key"),
        (FORM, endpoint("", secrets={"key": "k"}), "endpoint.scope"),
        (FORM, endpoint(secrets={"key": "K"}), "endpoint.secrets.key"),
        (FORM, endpoint(secrets={"key": "k", "kee": "k"}), "endpoint.secrets.kee"),
        (FORM, endpoint(secrets={"key": "k"}, settings={"page": "x"}), "endpoint.settings.page"),
        (FORM, endpoint(secrets={"key": "k"}, settings={"rules": "x"}), "endpoint.settings.rules"),
        (FORM, endpoint(secrets={"key": "k"}, settings={"previous_page": "/"}), "endpoint.settings.previous_page"),
        (Form(), endpoint("s", "https://a.example"), "endpoint.scope"),
        (Form(), endpoint(""), "endpoint.url"),
    ],
)
def test_what_does_not_fit_is_named(form: Form, offered: Endpoint, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        filled(form, offered, None)
    assert field == caught.value.field


def test_what_is_not_given_stays_and_what_is_given_empty_goes() -> None:
    first = filled(FORM, endpoint(secrets={"key": "a"}, settings={"page": "/a", "rules": "ab"}), None)
    assert "https://api.example" == first.url
    again = filled(FORM, endpoint(url="https://b.example", settings={"page": ""}), first)
    assert ("https://b.example", {"rules": "ab"}, {"key": "a"}) == (again.url, again.settings, again.secrets)
    assert "https://b.example" == filled(FORM, endpoint(), again).url
    with pytest.raises(InvalidArgument):
        filled(FORM, endpoint(secrets={"key": ""}), first)


@settings(max_examples=50)
@given(st.lists(st.text("ab", min_size=1, max_size=2), min_size=1, max_size=6))
def test_a_secret_that_rotates_is_good_beside_the_one_before_it_and_no_older_one(given_keys: list[str]) -> None:
    now = None
    for key in given_keys:
        now = filled(FORM, endpoint(secrets={"key": key}), now)
    distinct = [key for n, key in enumerate(given_keys) if n == 0 or given_keys[n - 1] != key]
    assert now is not None
    assert tuple(reversed(distinct[-2:])) == values(now.secrets, "key")
    assert (distinct[-1],) == values(filled(FORM, endpoint(secrets={"previous_key": ""}), now).secrets, "key")


def test_every_channel_declares_each_field_once_with_its_meaning() -> None:
    for row in TABLE.values():
        names = [field.name for part in (row.form.settings, row.form.secrets) for field in part]
        assert len(set(names)) == len(names)
        assert all(field.meaning for part in (row.form.settings, row.form.secrets) for field in part)


def test_each_channel_has_the_consent_channel_that_people_mean() -> None:
    words = {"app", "wechat", "dealer", "sms", "phone", "web", "ads"}
    assert words == {channel.consent_channel for channel in Channel}
    # What nobody can allow or forbid at identity would be asked for in vain; slots ask under their channel's own name.
    assert {*words, *SLOT_CHANNELS} <= set(CONSENT_CHANNELS)
    assert ("wechat", "wechat", "app", "phone") == tuple(
        channel.consent_channel for channel in (Channel.WECHAT_MINI, Channel.WECOM, Channel.PUSH, Channel.CALL_LIST)
    )
