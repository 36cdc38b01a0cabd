"""No secret and no personal data in a log call, a metric label or a span attribute."""

from __future__ import annotations

import ast

from tests.house.source import modules, name

PERSONAL = {
    "mobile", "phone", "email", "openid", "unionid", "id_card", "plate", "vin", "person_name", "identifier", "identifiers",
    "address", "addresses", "value", "values", "payload", "body", "token", "secret", "password", "write_key", "properties",
    "dsn", "data", "row", "rows", "record", "event",
}  # fmt: skip
LOGGERS = {"log", "logger", "logging"}
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}


def logged_names(source: str) -> list[str]:
    """Variables and attributes that reach a log call, a metric label or a span attribute, as "line name"."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner = node.func.value
        is_log = node.func.attr in LEVELS and isinstance(owner, ast.Name) and owner.id in LOGGERS
        if not (is_log or node.func.attr in ("set_attribute", "labels")):
            continue
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
            for part in ast.walk(argument):
                word = part.id if isinstance(part, ast.Name) else part.attr if isinstance(part, ast.Attribute) else ""
                if word in PERSONAL:
                    found.append(f"{node.lineno} {word}")
    return found


def test_no_log_call_takes_a_variable_that_may_hold_personal_data() -> None:
    hits = {name(path): logged_names(path.read_text()) for path in modules("services", "chassis")}
    assert {} == {path: found for path, found in hits.items() if found}


def test_the_rule_notices_a_leak() -> None:
    assert ["1 mobile"] == logged_names('log.info("pushed", extra={"to": person.mobile})')


def test_nobody_prints_in_a_service() -> None:
    printing = []
    for path in modules("services", "chassis"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                printing.append(f"{name(path)}:{node.lineno}")
    assert [] == printing
