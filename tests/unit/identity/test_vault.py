"""The vault: equal values meet, nobody reads them back, swapped cells do not open, and missing keys are named."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from chassis.errors import FailedPrecondition
from services.identity import keks
from services.identity.domain.identifiers import Known
from services.identity.domain.kinds import Kind
from services.identity.keks import EnvironmentKeks, FileKeks
from services.identity.settings import Settings
from services.identity.tokens import Tokens
from services.identity.vault import Vault, identifier_place, profile_place

ONE, TWO, HASH, KEK, OTHER = (bytes([number]) * 32 for number in range(1, 6))
MOBILE = "13812340001"


def vault(keys: dict[int, bytes] | None = None, active: int = 1, following: int | None = None) -> Vault:
    return Vault(Tokens(keys or {1: ONE}, active, following), HASH, EnvironmentKeks({"k1": KEK}, "k1"))


def known(of: Vault, kind: str = "mobile", scope: str = "", value: str = MOBILE) -> Known:
    found = of.known(kind, scope, value)
    assert isinstance(found, Known)
    return found


def test_a_token_says_its_key_and_nothing_of_its_value_or_kind() -> None:
    token = known(vault()).token
    assert 16 == len(token) and 1 == token[0]
    assert token == known(vault(), value="+86 138-1234-0001").token
    # The same characters in another kind, another scope or under another key look like any other.
    cookie, device = known(vault(), "cookie", value="a1b2c3d4e5"), known(vault(), "device", value="a1b2c3d4e5")
    assert cookie.token != device.token
    assert known(vault(), "crm_id", "D001", "77").token != known(vault(), "crm_id", "D002", "77").token
    assert token[1:] != known(vault({2: TWO}, 2)).token[1:]


def test_while_keys_rotate_a_value_is_looked_up_under_every_key() -> None:
    old, prepared, switched = vault(), vault({1: ONE, 2: TWO}, 1, 2), vault({1: ONE, 2: TWO}, 2)
    assert (known(old).token,) == old.lookup_tokens(known(old)) and old.next_token(known(old)) is None
    assert prepared.next_token(known(prepared)) == known(switched).token
    assert (known(old).token, known(switched).token) == prepared.lookup_tokens(known(prepared))
    assert (known(switched).token, known(old).token) == switched.lookup_tokens(known(switched))


def test_names_and_addresses_have_hashes_of_their_own_that_do_not_rotate() -> None:
    one, two = vault(), vault({2: TWO}, 2)
    assert one.name_hash("zhang wei") == two.name_hash("zhang wei")
    assert one.name_hash("zhang wei") != one.address_hash("zhang wei")
    assert one.name_hash("zhang wei") != Vault(Tokens({1: ONE}, 1), OTHER, EnvironmentKeks({"k1": KEK}, "k1")).name_hash(
        "zhang wei"
    )


@given(st.text(max_size=40))
def test_a_hash_fits_into_a_column_and_is_never_the_sign_for_none(text: str) -> None:
    assert -(2**63) <= vault().name_hash(text) < 2**63 and 0 != vault().name_hash(text)


@given(st.text(max_size=200), st.integers(1, 2**60), st.integers(1, 2**60))
def test_what_is_sealed_opens_at_its_place_only(text: str, key_id: int, row: int) -> None:
    of = vault()
    subject = of.subject(key_id)
    sealed = subject.seal(identifier_place(row), text)
    assert text == of.open(key_id, subject.kek_id, subject.wrapped, identifier_place(row), sealed)
    for place, wrapped_for in (
        (identifier_place(row + 1), key_id),
        (profile_place(row), key_id),
        (identifier_place(row), key_id + 1),
    ):
        with pytest.raises(FailedPrecondition) as refused:
            of.open(wrapped_for, subject.kek_id, subject.wrapped, place, sealed)
        assert "SEALED_VALUE_UNREADABLE" == refused.value.reason


def test_cells_of_two_persons_cannot_be_swapped() -> None:
    of, place = vault(), identifier_place(1)
    mine, other = of.subject(1), of.subject(2)
    with pytest.raises(FailedPrecondition):
        of.open(1, mine.kek_id, mine.wrapped, place, other.seal(place, "138"))
    # Nor may the wrap of one key be put beside another's row.
    with pytest.raises(FailedPrecondition):
        of.open(1, other.kek_id, other.wrapped, place, other.seal(place, "138"))


@pytest.mark.parametrize("sealed", [b"", b"short", bytes(28)])
def test_an_emptied_or_broken_cell_is_named_without_its_content(sealed: bytes) -> None:
    subject = vault().subject(1)
    with pytest.raises(FailedPrecondition, match="identifier:7:sealed"):
        vault().open(1, subject.kek_id, subject.wrapped, identifier_place(7), sealed)


def test_wrapping_anew_changes_no_sealed_byte_and_frees_the_old_key() -> None:
    old = vault()
    subject = old.subject(5)
    sealed = subject.seal(identifier_place(9), MOBILE)
    both = Vault(old.tokens, HASH, EnvironmentKeks({"k1": KEK, "k2": OTHER}, "k2"))
    kek_id, wrapped = both.rewrap(5, subject.kek_id, subject.wrapped)
    new = Vault(old.tokens, HASH, EnvironmentKeks({"k2": OTHER}, "k2"))
    assert "k2" == kek_id
    assert MOBILE == new.open(5, kek_id, wrapped, identifier_place(9), sealed)
    with pytest.raises(FailedPrecondition, match="k1") as missing:
        new.open(5, subject.kek_id, subject.wrapped, identifier_place(9), sealed)
    assert "KEK_MISSING" == missing.value.reason


def test_a_token_key_that_is_not_there_cannot_be_made_active() -> None:
    for arguments in (({1: ONE}, 2, None), ({1: ONE}, 1, 2), ({1: ONE}, 1, 1), ({0: ONE}, 0, None), ({256: ONE}, 256, None)):
        with pytest.raises(ValueError, match="key"):
            Tokens(*arguments)


def write(path: Path, content: object, mode: int = 0o600) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(mode)
    return path


def encoded(**keys: bytes) -> dict[str, str]:
    return {name: base64.b64encode(key).decode() for name, key in keys.items()}


def test_a_file_of_keys_is_read_again_for_a_key_it_did_not_hold(tmp_path: Path) -> None:
    path = write(tmp_path / "keks.json", {"active": "k1", "keks": encoded(k1=KEK)})
    provider = FileKeks(path)
    subject = Vault(Tokens({1: ONE}, 1), HASH, provider).subject(1)
    write(path, {"active": "k2", "keks": encoded(k1=KEK, k2=OTHER)})
    assert provider.get("k2") and "k2" == provider.active().id
    assert Vault(Tokens({1: ONE}, 1), HASH, provider).unwrap(1, "k1", subject.wrapped)
    with pytest.raises(FailedPrecondition, match="k3"):
        provider.get("k3")


def test_a_new_active_key_is_noticed_without_being_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "keks.json", {"active": "k1", "keks": encoded(k1=KEK, k2=OTHER)})
    provider = FileKeks(path)
    write(path, {"active": "k2", "keks": encoded(k1=KEK, k2=OTHER)})
    monkeypatch.setattr(keks, "LOOKED_AT_EVERY_S", 0.0)
    time.sleep(0.001)
    assert "k2" == provider.active().id
    # A file that is half written leaves what was known.
    write(path, "{")
    assert "k2" == provider.active().id


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o666])
def test_a_file_of_keys_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ValueError, match="closed to others"):
        FileKeks(write(tmp_path / "keks.json", {"active": "k1", "keks": encoded(k1=KEK)}, mode))


def test_a_file_of_keys_may_be_mounted_for_a_group_to_read(tmp_path: Path) -> None:
    assert "k1" == FileKeks(write(tmp_path / "keks.json", {"active": "k1", "keks": encoded(k1=KEK)}, 0o440)).active().id


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", {"keks": {}}, {"active": "k1", "keks": {"k1": "?"}}, {"active": "k1", "keks": {"k1": "c2hvcnQ="}},
     {"active": "k9", "keks": encoded(k1=KEK)}, {"active": "k1", "keks": [1]}],
)  # fmt: skip
def test_a_broken_file_of_keys_is_refused_without_being_quoted(tmp_path: Path, content: object) -> None:
    with pytest.raises(ValueError, match="key-encryption key") as refused:
        FileKeks(write(tmp_path / "keks.json", content))
    assert encoded(k1=KEK)["k1"] not in str(refused.value)


def test_a_file_of_keys_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        FileKeks(tmp_path / "none.json")


ENVIRONMENT = {
    "POSTGRES_DSN": "postgresql://x", "NATS_URL": "nats://x", "GRPC_PORT": "0", "HTTP_PORT": "0",
    "CALLER_TOKEN": "s" * 16, "CALLER_TOKEN_SHA256": "{}", "HASH_KEY": encoded(k=HASH)["k"],
    "SEALING_PRIVATE_KEYS": json.dumps(encoded(k1=ONE)), "TOKEN_KEYS": json.dumps(encoded(**{"1": ONE, "2": TWO})),
    "KEKS": json.dumps(encoded(k1=KEK)),
}  # fmt: skip


def settings(monkeypatch: pytest.MonkeyPatch, **changes: str | None) -> Settings:
    for name in [name for name in os.environ if name.startswith("TROIKA_")]:
        monkeypatch.delenv(name)
    for name, value in {**ENVIRONMENT, **changes}.items():
        if value is not None:
            monkeypatch.setenv(f"TROIKA_{name}", value)
    return Settings()  # type: ignore[call-arg]


def test_settings_describe_the_vault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    of = Vault.of(settings(monkeypatch, NEXT_TOKEN_KEY_NUMBER="2"))
    assert (1, 2, {1, 2}) == (of.tokens.active, of.tokens.following, of.tokens.numbers)
    assert known(vault()).token == known(of).token and "k1" == of.keks.active().id
    path = write(tmp_path / "keks.json", {"active": "k7", "keks": encoded(k7=OTHER)})
    of_file = settings(monkeypatch, KEK_FILE=str(path), KEKS=None)
    assert "k7" == Vault.of(of_file).keks.active().id
    path.chmod(0o644)
    with pytest.raises(FailedPrecondition, match="closed to others") as refused:
        Vault.of(of_file)
    assert "KEK_FILE_UNUSABLE" == refused.value.reason


@pytest.mark.parametrize(
    ("variable", "changes"),
    [
        ("token_key_number", {"TOKEN_KEY_NUMBER": "3"}),
        ("next_token_key_number", {"NEXT_TOKEN_KEY_NUMBER": "9"}),
        ("token_keys", {"TOKEN_KEYS": '{"1": "c2hvcnQ="}'}),
        ("token_keys", {"TOKEN_KEYS": "not json"}),
        ("token_keys", {"TOKEN_KEYS": json.dumps(encoded(**{"0": ONE}))}),
        ("sealing_key_id", {"SEALING_KEY_ID": "k9"}),
        ("kek_id", {"KEKS": None}),
        ("kek_id", {"KEK_ID": "k9"}),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, changes: dict[str, str | None]
) -> None:
    with pytest.raises(ValidationError) as refused:
        settings(monkeypatch, **changes)
    assert variable in {str(error["loc"][0]) for error in refused.value.errors()}


def test_kinds_have_keys_of_their_own() -> None:
    tokens = Tokens({1: ONE}, 1)
    assert len(Kind) == len({tokens.of(kind, "", "x") for kind in Kind})
