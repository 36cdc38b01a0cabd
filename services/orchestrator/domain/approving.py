"""What one person states goes into effect when a second one says so."""

from __future__ import annotations

from collections.abc import Collection

from chassis.errors import PermissionDenied


def check_second_person(reviewer: str, before: Collection[str], approvers: Collection[str]) -> None:
    """Raises PermissionDenied unless the reviewer is an approver and none of those `before`.

    These are the submitter and whoever edited since a version was approved: what each of them wrote may still be in it.
    """
    if reviewer not in approvers:
        raise PermissionDenied(f"{reviewer} is no approver", reason="NOT_AN_APPROVER", field="version")
    if reviewer in before:
        raise PermissionDenied(
            "a version is reviewed by somebody who neither wrote nor submitted it, nor edited what it came from",
            reason="SAME_PERSON",
            field="version",
        )
