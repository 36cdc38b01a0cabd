"""Every mistake of every file is told at once, with line and column down to the character of an expression."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from services.tags.catalogue import command, yaml_files
from services.tags.catalogue.places import place_in
from services.tags.domain.catalogue import CatalogueError

BAD = """\
owner: me
person:
  opens: {type: number, title: 打开, description: d, expression: COUNT(*) FILTER (WHERE event = 'App Opened')}
  often:
    type: boolean
    title: 常来
    description: d
    expression: >-
      opens >= 2
      AND opns > 3
  wide: {type: numbr, title: a, description: d, expression: COUNT(*)}
  both: {type: number, title: b, description: d, expression: COUNT(*), score: m}
  typo: {type: number, title: c, description: d, expresion: COUNT(*)}
  one: {type: boolean, title: d, description: d, expression: other}
  other: {type: boolean, title: e, description: d, expression: 'NOT one'}
  poor: {type: category, title: f, description: d, sensitivity: sensitive, expression: "LAST(poor)"}
  nosy: {type: boolean, title: g, description: d, expression: "poor = 'it''s'"}
  twin: {type: boolean, title: h, description: d, sensitivity: sensitive, expression: "poor = 'it''s'"}
  zero: {type: number, title: i, description: d, expression: opens / 0}
  wind: {type: boolean, title: j, description: d, expression: "opens > 1 AND occurred_at > NOW()"}
  long: {type: number, title: k, description: d, retention_days: 9, expression: "COUNT(*) FILTER (WHERE event = 'App Opend'
    AND occurred_at > NOW() - INTERVAL '10 days')"}
  mute: {type: boolean, description: d, expression: opens > 4}
  name: {type: boolean, title: 打开, description: d, expression: opens > 5}
dog: {}
"""
EXPECTED = [
    (10, 11, "UNKNOWN_TAG"),
    (11, 16, "WRONG_VALUE"),
    (12, 79, "SOURCE"),
    (13, 3, "SOURCE"),
    (13, 50, "UNKNOWN_KEY"),
    (14, 62, "CYCLE"),
    (17, 64, "SENSITIVITY"),
    (18, 88, "SAME_AS"),
    (19, 62, "DIVISION_BY_ZERO"),
    (20, 78, "WINDOW_WITHOUT_AGGREGATE"),
    (21, 66, "WINDOW_PAST_RETENTION"),
    (21, 114, "NOT_IN_VOCABULARY"),
    (23, 3, "NO_TITLE"),
    (23, 3, "UNUSED"),
    (24, 32, "DEFINED_TWICE"),
    (25, 1, "UNKNOWN_KEY"),
]


def found(text: str) -> list[tuple[int, int, str]]:
    mistakes = command.mistakes_in(*yaml_files.read(text))
    return [(mistake.place.line, mistake.place.column, mistake.reason) for mistake in mistakes]


def test_all_mistakes_are_told_in_one_run_with_their_places() -> None:
    assert EXPECTED == found(BAD)


def test_the_nearest_names_are_told() -> None:
    told = "\n".join(map(str, command.mistakes_in(*yaml_files.read(BAD))))
    for hint in ("did you mean opens?", "did you mean number?", "did you mean expression", "did you mean App Opened"):
        assert hint in told
    assert "person.one -> person.other -> person.one" in told


def test_every_name_of_an_expression_that_nobody_knows_is_told() -> None:
    expression = "bb > 1 AND cc = 'dd' AND TRUE AND ANY(vehicle, ff)"
    text = f'person:\n  a: {{type: boolean, title: 甲, description: d, expression: "{expression}"}}'
    assert [("bb", "UNKNOWN_TAG"), ("cc", "UNKNOWN_TAG"), ("ff", "UNKNOWN_TAG")] == [
        (text.splitlines()[line - 1][column - 1 :][:2], reason) for line, column, reason in found(text)
    ]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("person: [", (1, 10)),
        ("person: 3", (1, 9)),
        ("person:\n  a: 3", (2, 6)),
        ("person:\n\ta: 3", (2, 1)),
        ("'a", (1, 3)),
        ("? [a]\n: b", (1, 3)),
    ],
)
def test_what_is_no_catalogue_at_all_is_told_with_its_place(text: str, place: tuple[int, int]) -> None:
    assert place == found(text)[0][:2]


def test_what_cannot_be_used_is_not_loaded_and_all_of_it_is_said() -> None:
    with pytest.raises(CatalogueError) as caught:
        yaml_files.parse(BAD)
    assert sum(reason not in WARNINGS for _, _, reason in EXPECTED) == len(str(caught.value).splitlines())


WARNINGS = ("NO_TITLE", "UNUSED", "SAME_AS", "WINDOW_PAST_RETENTION", "NOT_IN_VOCABULARY")


@given(
    st.text(st.sampled_from("ab 中'\"\\:#\n"), min_size=1, max_size=40).map(str.strip).filter(bool),
    st.sampled_from(["'", '"', "|", ">", None]),
    st.integers(20, 60),
    st.data(),
)
def test_a_character_of_a_value_is_found_where_it_is_written(
    value: str, style: str | None, width: int, data: st.DataObject
) -> None:
    marked = value.replace("\n", " ") if style is None else value
    marks = [at for at, character in enumerate(marked) if not character.isspace()]
    at = data.draw(st.sampled_from(marks))
    # One letter that is nowhere else.
    unique = f"{marked[:at]}Z{marked[at + 1 :]}"
    text = yaml.dump({"key": {"expression": unique}}, default_style=style, width=width, allow_unicode=True)
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    node = root.value[0][1].value[0][1]
    place = place_in("", text, node, at + 1)
    assert "Z" == text.splitlines()[place.line - 1][place.column - 1]


def test_the_command_says_all_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(BAD, encoding="utf-8")
    flags = argparse.Namespace(file=[path], alone=True, strict=False, json=False)
    assert 1 == command.lint(flags)
    assert f"{path}:10:11: error: person.often: no person tag is named opns" in capsys.readouterr().out
    flags.json = True
    assert 1 == command.lint(flags)
    report = json.loads(capsys.readouterr().out)
    assert EXPECTED == [(each["line"], each["column"], each["reason"]) for each in report["mistakes"]]


def test_a_file_is_looked_at_together_with_the_shipped_tags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "more.yaml"
    path.write_text(
        "person:\n  ours: {type: boolean, title: 我们, description: d, expression: app_opens > 2}\n", encoding="utf-8"
    )
    assert 0 == command.lint(argparse.Namespace(file=[path], alone=False, strict=True, json=False))
    assert "1 tags in 1 files: 0 errors, 0 warnings" in capsys.readouterr().out
    assert 1 == command.lint(argparse.Namespace(file=[path], alone=True, strict=False, json=False))


def test_a_file_that_is_not_there_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 1 == command.lint(argparse.Namespace(file=[tmp_path / "no.yaml"], alone=False, strict=False, json=False))
    assert "cannot be read" in capsys.readouterr().out
