"""What doors check: signatures, tokens, feedback."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from chassis.errors import InvalidArgument, Unauthenticated
from services.touchpoints import webhooks
from services.touchpoints.domain.feedback import MEANINGS, Feedback, parse
from services.touchpoints.domain.observed import Invalid
from services.touchpoints.ingest import MOST_DECOMPRESSED, decompress
from services.touchpoints.vault import Vault

NOW_US = 1_800_000_000_000_000
SECRET = webhooks.new_secret()


def test_what_we_sign_we_verify() -> None:
    body = webhooks.envelope("message.push", {"title": "试驾"}, datetime.now(UTC))
    assert "msg_1" == webhooks.verify(SECRET, webhooks.signed_headers(SECRET, "msg_1", body), body)


def test_the_specifications_vector_is_signed_as_it_says() -> None:
    from standardwebhooks import Webhook

    at = datetime.fromtimestamp(1614265330, UTC)
    signature = Webhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").sign(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", at, '{"test": 2432232314}'
    )
    assert "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" == signature


BODY = b'{"type":"message.opened"}'


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-signature": ""},
        {"webhook-signature": "v1"},
        {"webhook-signature": "v1,###"},
        {"webhook-signature": "v1a,AAAA"},
        {"webhook-signature": "\udcff"},
        {"webhook-timestamp": "x"},
        {"webhook-timestamp": "99999999999999999999"},
        {"webhook-timestamp": str(int((datetime.now(UTC) - timedelta(minutes=6)).timestamp()))},
        {"webhook-id": "other"},
    ],
)
def test_a_forged_webhook_is_unauthenticated_and_nothing_else(change: dict[str, str]) -> None:
    with pytest.raises(Unauthenticated):
        webhooks.verify(SECRET, webhooks.signed_headers(SECRET, "msg_1", BODY) | change, BODY)


def test_other_bytes_under_a_good_signature_are_refused() -> None:
    headers = webhooks.signed_headers(SECRET, "msg_1", BODY)
    for body in (BODY + b" ", b"\xff\xfe", b""):
        with pytest.raises(Unauthenticated):
            webhooks.verify(SECRET, headers, body)


@given(st.text(max_size=80), st.integers(0, 2**40))
def test_a_token_gives_back_what_was_put_in(text: str, expires: int) -> None:
    vault = Vault(b"k" * 32)
    assert (text, expires) == vault.read_token(vault.token(text, expires))
    assert vault.token(text, expires) != vault.token(text, expires)


@given(st.text(max_size=120))
def test_anything_else_is_no_token(token: str) -> None:
    assert Vault(b"k" * 32).read_token(token) is None


def test_a_token_of_another_key_is_none() -> None:
    assert Vault(b"k" * 32).read_token(Vault(b"l" * 32).token("d", 1)) is None


def test_a_secret_moved_to_another_row_cannot_be_read() -> None:
    vault = Vault(b"k" * 32)
    assert "whsec_x" == vault.show(vault.hide("whsec_x", "app/secret"), "app/secret")
    with pytest.raises(InvalidTag):
        vault.show(vault.hide("whsec_x", "app/secret"), "dealer/secret")


def test_a_persons_reference_differs_between_recipients() -> None:
    vault = Vault(b"k" * 32)
    assert vault.reference("dealer:D001", 7) == vault.reference("dealer:D001", 7)
    assert 3 == len({vault.reference("dealer:D001", 7), vault.reference("dealer:D002", 7), vault.reference("dealer:D001", 8)})


def _feedback(**changes: Any) -> dict[str, Any]:
    return {
        "type": "message.answered",
        "timestamp": "2026-01-01T00:00:00Z",
        "data": {"delivery_id": "d", "answer": "yes"},
    } | changes


def test_feedback_is_read_with_lead_id_as_delivery_id() -> None:
    assert Feedback("message.answered", "d", "yes", 1_767_225_600_000_000) == parse(_feedback(), "", NOW_US)
    assert Feedback("lead.contacted", "l", "", NOW_US) == parse(
        {"type": "lead.contacted", "timestamp": "2099-01-01T00:00:00Z", "data": {"lead_id": "l"}}, "", NOW_US
    )
    lost = {"type": "lead.lost", "data": {"lead_id": "l", "reason_code": "price"}}
    assert Feedback("lead.lost", "l", "", 1_767_225_600_000_000, "price") == parse(_feedback(**lost), "", NOW_US)
    assert "" == parse(_feedback(data={"delivery_id": "d", "answer": "no", "reason_code": "price"}), "", NOW_US).reason


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"type": "x"}, "events[2].type"),
        ({"type": []}, "events[2].type"),
        ({"timestamp": None}, "events[2].timestamp"),
        ({"data": []}, "events[2].data"),
        ({"data": {}}, "events[2].data.delivery_id"),
        ({"data": {"delivery_id": "a\0b", "answer": "yes"}}, "events[2].data.delivery_id"),
        ({"data": {"lead_id": 3}}, "events[2].data.lead_id"),
        ({"data": {"delivery_id": "d"}}, "events[2].data.answer"),
        ({"type": "lead.lost", "data": {"lead_id": "l", "reason_code": "he said 138"}}, "events[2].data.reason_code"),
    ],
)
def test_feedback_that_cannot_be_taken_names_the_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse(_feedback(**change), "events[2].", NOW_US)
    assert field == caught.value.field


def test_one_report_is_one_event_however_often_it_comes() -> None:
    kinds = [Feedback(kind, "d", "", 1) for kind in MEANINGS]
    assert len(kinds) == len({f.event_id for f in kinds})
    assert Feedback("message.opened", "d", "", 1).event_id == Feedback("message.opened", "d", "", 2).event_id


@given(st.binary(max_size=300), st.sampled_from(["", "gzip", "deflate", "identity", "br", "x-gzip"]))
def test_any_bytes_are_decompressed_or_refused(body: bytes, encoding: str) -> None:
    with contextlib.suppress(InvalidArgument):
        assert len(decompress(body, encoding)) <= MOST_DECOMPRESSED


@given(
    st.recursive(st.none() | st.text(max_size=9), lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=9), x))
)
def test_any_json_is_feedback_or_refused(raw: Any) -> None:
    with pytest.raises(Invalid):
        parse(json.loads(json.dumps(raw)), "", NOW_US)
