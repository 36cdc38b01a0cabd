"""Draws journeys: any steps that lead anywhere, as long as nobody goes round without waiting."""

from __future__ import annotations

from hypothesis import assume
from hypothesis import strategies as st

from services.orchestrator.journeys import programs

KINDS = ("wait", "until", "both", "wait_until", "condition", "split", "push", "push", "exit")


@st.composite
def documents(draw: st.DrawFn) -> str:  # noqa: C901  (one case for each kind of step)
    """A journey of one to eight steps, with or without a goal."""
    count = draw(st.integers(1, 8))
    names = [f"s{number}" for number in range(count)]
    target = st.sampled_from([*names, "end"])
    lines = []
    for name in names:
        kind = draw(st.sampled_from(KINDS))
        to, other = draw(target), draw(target)
        hours = draw(st.integers(1, 50))
        match kind:
            case "wait":
                body = f"wait: {hours} hours\n  next: {to}"
            case "until":
                body = f"wait: {{until: {draw(st.integers(0, 23)):02}:30}}\n  next: {to}"
            case "both":
                body = f"wait: {{lasting: {hours} hours, until: {draw(st.integers(0, 23)):02}:00}}\n  next: {to}"
            case "wait_until":
                event = draw(st.sampled_from("AB"))
                body = f"wait_until: {{event: {event}, timeout: {hours} hours, then: {to}, otherwise: {other}}}"
            case "condition":
                body = f"condition: {{holds: p{draw(st.integers(0, 2))}, then: {to}, otherwise: {other}}}"
            case "split":
                shares = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
                body = f"split: {{branches: {{x: {{share: {shares[0]}, to: {to}}}, y: {{share: {shares[1]}, to: {other}}}}}}}"
            case "push":
                body = f"push: {{theme: hello}}\n  next: {to}"
            case _:
                body = "exit: out"
        lines.append(f"- id: {name}\n  {body}\n")
    goal = draw(st.sampled_from(["", "goal: {event: G}\n"]))
    # Steps that nobody comes to are left out, so that what remains is a journey.
    while True:
        themes = "themes: {hello: themes/1}\n" if any("push:" in line for line in lines) else ""
        text = f"title: T\n{themes}trigger: {{event: Begun}}\n{goal}steps:\n{''.join(lines)}"
        program, faults = programs.read(text)
        if program is not None:
            return text
        unreached = {fault.path for fault in faults if fault.reason == "UNREACHABLE_STEP"}
        assume(unreached and all(fault.reason == "UNREACHABLE_STEP" for fault in faults))
        lines = [line for number, line in enumerate(lines) if f"steps[{number}]" not in unreached]
