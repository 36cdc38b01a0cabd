"""Who may say that what somebody else stated goes into effect."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from chassis.errors import PermissionDenied
from services.orchestrator.domain.approving import check_second_person


def test_an_approver_who_neither_wrote_nor_submitted_may() -> None:
    check_second_person("li", ("anna", "bo"), {"li"})


@pytest.mark.parametrize(
    ("reviewer", "approvers", "reason"),
    [
        ("anna", {"anna", "li"}, "SAME_PERSON"),
        ("bo", {"bo", "li"}, "SAME_PERSON"),
        ("li", {"anna"}, "NOT_AN_APPROVER"),
        # Nobody named is nobody allowed.
        ("li", (), "NOT_AN_APPROVER"),
    ],
)
def test_nobody_else_may(reviewer: str, approvers: Collection[str], reason: str) -> None:
    with pytest.raises(PermissionDenied) as refused:
        check_second_person(reviewer, ("anna", "bo"), approvers)
    assert reason == refused.value.reason
