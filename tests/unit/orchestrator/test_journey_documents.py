"""Documents of journeys: what is taken, and how what is not is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.journeys import catalogue, programs
from services.orchestrator.journeys.programs import OVER, Kind

HEAD = """title: Test
themes: {hello: themes/1}
trigger: {event: App Opened}
steps:
"""


def faults(text: str) -> list[tuple[str, str]]:
    return [(each.path, each.reason) for each in programs.read(text)[1]]


def steps(text: str) -> str:
    return HEAD + "".join(f"  {line}\n" for line in text.splitlines())


SAYS_HELLO = "- id: greet\n  push: {theme: hello}\n"


@pytest.mark.parametrize("name", catalogue.library())
def test_a_ready_made_journey_lacks_nothing_but_its_themes(name: str) -> None:
    text = catalogue.library()[name]
    assert {"MISSING_THEME"} == {reason for _, reason in faults(text)}
    program, wrong = programs.read(text, bound=False)
    assert [] == wrong and program is not None
    assert program.document.about


def test_the_library_has_what_was_promised() -> None:
    assert {
        "app-wake-up", "birthday", "insurance-renewal", "lead-nurturing", "post-delivery-care", "referral", "referral-thanks",
        "service-due", "test-drive-follow-up", "warranty-end", "win-back",
    } == set(catalogue.library())  # fmt: skip


def test_steps_follow_each_other_unless_they_say_otherwise() -> None:
    program, _ = programs.read(steps(SAYS_HELLO + "- id: rest\n  wait: 2 days\n  next: end\n"))
    assert program is not None
    assert [(Kind.PUSH, {"proposed": 1}), (Kind.WAIT, {"waited": OVER})] == [(n.kind, n.ways) for n in program.nodes]
    assert 2 * 86_400 == program.nodes[1].lasting_s


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("", "YAML")),
        ("- a", ("", "YAML")),
        ("title: [", ("", "YAML")),
        ("title: a\ntitle: b", ("", "YAML")),
        ("a: &x 1\nb: *x", ("", "YAML")),
        ("[" * 5000, ("", "YAML")),
        ("x" * 100_001, ("", "TOO_LONG")),
        (steps("- id: x\n  wait: 3 moons"), ("steps[0].wait.lasting", "INVALID_JOURNEY")),
        (steps("- id: x\n  wait: {until: 25:00}"), ("steps[0].wait.until", "INVALID_JOURNEY")),
        (steps("- id: x\n  wait: {}"), ("steps[0].wait", "INVALID_JOURNEY")),
        (steps("- id: x"), ("steps[0]", "INVALID_JOURNEY")),
        (steps("- id: x\n  wait: 1 day\n  exit: y"), ("steps[0]", "INVALID_JOURNEY")),
        (steps("- id: x\n  leap: 1 day"), ("steps[0].leap", "INVALID_JOURNEY")),
        (steps("- id: end\n  wait: 1 day"), ("steps[0]", "INVALID_JOURNEY")),
        (steps("- id: x\n  wait: 6000 days"), ("steps[0].wait.lasting", "INVALID_JOURNEY")),
        (steps(SAYS_HELLO + "- id: x\n  wait: 1 day\n  next: nowhere"), ("steps[1].next", "UNKNOWN_STEP")),
        (
            steps(SAYS_HELLO + "- id: x\n  condition: {holds: a = 1, then: nowhere}"),
            ("steps[1].condition.then", "UNKNOWN_STEP"),
        ),
        (steps(SAYS_HELLO + SAYS_HELLO), ("steps[1].id", "DUPLICATE_STEP")),
        (steps(SAYS_HELLO + "  next: end\n- id: x\n  wait: 1 day"), ("steps[1]", "UNREACHABLE_STEP")),
        (steps(SAYS_HELLO + "  next: greet"), ("steps[0]", "LOOP_WITHOUT_WAIT")),
        (steps("- id: x\n  push: {theme: bye}"), ("steps[0].push.theme", "MISSING_THEME")),
        (steps("- id: x\n  push: {theme: hello, offer: gift}"), ("steps[0].push.offer", "MISSING_OFFER")),
        (steps("- id: x\n  wait: 1 day"), ("themes.hello", "UNUSED_NAME")),
        (steps(SAYS_HELLO).replace("themes/1", "offers/1"), ("themes.hello", "MISSING_THEME")),
        (steps(SAYS_HELLO).replace("App Opened}", "App Opened, date: {tag: a}}"), ("trigger", "INVALID_JOURNEY")),
        (steps(SAYS_HELLO) + "entry: {per: date}\n", ("", "INVALID_JOURNEY")),
        (steps(SAYS_HELLO) + "entry: {again: sometimes}\n", ("entry.again", "INVALID_JOURNEY")),
        (steps("- id: x\n  split: {branches: {a: {share: 1}}}"), ("steps[0].split.branches", "INVALID_JOURNEY")),
    ],
)
def test_what_is_wrong_is_named_by_its_path(text: str, expected: tuple[str, str]) -> None:
    found = faults(text)
    assert any(path.startswith(expected[0]) and reason == expected[1] for path, reason in found), found


def test_a_fault_has_its_line() -> None:
    [fault] = programs.read(steps(SAYS_HELLO + "- id: x\n  wait: 1 day\n  next: nowhere"))[1]
    assert 7 == fault.line


def test_a_loop_that_never_waits_is_refused_wherever_it_begins() -> None:
    loop = (
        SAYS_HELLO + "- id: a\n  condition: {holds: x, then: b, otherwise: end}\n- id: b\n  push: {theme: hello}\n  next: a\n"
    )
    assert [("steps[1]", "LOOP_WITHOUT_WAIT")] == faults(steps(loop))
    assert [] == faults(steps(loop.replace("push: {theme: hello}\n  next: a", "wait: 1 day\n  next: a")))


def test_words_stay_words_and_hours_stay_hours() -> None:
    program, wrong = programs.read(
        steps("- id: x\n  wait: {until: 10:30}\n- id: greet\n  push: {theme: hello}").replace(
            "App Opened}", "App Opened, where: {answer: yes, on: off, price: {at_least: 3}, sure: true}}"
        )
    )
    assert [] == wrong and program is not None
    assert 630 == program.nodes[0].until_minutes
    where = program.document.trigger.where
    assert ["yes", "off", None, True] == [where[name].equals for name in ("answer", "on", "price", "sure")]


@given(st.text(max_size=300))
def test_no_text_is_more_than_a_fault(text: str) -> None:
    assert programs.read(text)[1]


KEYS = st.sampled_from(["id", "wait", "push", "theme", "steps", "trigger", "event", "condition", "title"])
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=8)


@given(
    st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12)
)
def test_no_document_is_more_than_a_fault(given_: object) -> None:
    import yaml

    assert programs.read(yaml.safe_dump({"title": "x", "trigger": {"event": "e"}, "steps": given_}))[1]
