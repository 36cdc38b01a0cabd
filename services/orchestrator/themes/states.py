"""Where a theme and its versions stand, and which command moves them where. Every function takes the latest version.

A version is reviewed by itself; the theme moves on with the approved one, whatever is prepared beside it. Commands whose
outcome stands already answer with the theme as it is, so that a caller who lost the answer may ask again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum

from chassis.errors import FailedPrecondition, NotFound
from services.orchestrator.domain.approving import check_second_person
from services.orchestrator.domain.themes import ThemeId, name_of
from services.orchestrator.themes.definitions import ThemeDefinition


class ThemeState(IntEnum):
    """Where a theme stands; the numbers are those of the contract."""

    DRAFT = 1
    IN_REVIEW = 2
    APPROVED = 3
    RUNNING = 4
    PAUSED = 5
    FINISHED = 6


class VersionState(IntEnum):
    """Where a version stands; the numbers are those of the contract."""

    DRAFT = 1
    IN_REVIEW = 2
    APPROVED = 3
    REJECTED = 4
    # Another version was made before anybody approved this one.
    REPLACED = 5


@dataclass(frozen=True)
class Review:
    """Who asked for a version's approval and who gave or refused it; `reason` of a refusal."""

    state: VersionState = VersionState.DRAFT
    submitter: str = ""
    submitted_at: datetime | None = None
    reviewer: str = ""
    reviewed_at: datetime | None = None
    reason: str = ""


@dataclass(frozen=True)
class Theme:
    """A stored theme in one of its versions. `salt` (16 random bytes) makes holdout and delivery ids its own.

    `offer_versions` aligned with the definition's offers: those whose words are reviewed, empty before. `latest_version` is
    that of the last edit, `approved_version` that which decides (0: none); `launching`: its launch is being decided. `authors`:
    whoever edited since the version before it that was approved.
    """

    theme_id: ThemeId
    version: int
    definition: ThemeDefinition
    offer_versions: tuple[int, ...]
    author: str
    stated_at: datetime
    review: Review
    owner: str
    state: ThemeState
    latest_version: int
    approved_version: int
    launching: bool
    salt: bytes
    launch_failure: str
    created_at: datetime
    launched_at: datetime | None
    finished_at: datetime | None
    authors: tuple[str, ...]

    @property
    def name(self) -> str:
        """The resource name, "themes/12"."""
        return name_of(self.theme_id)


def found(theme: Theme | None, theme_id: ThemeId) -> Theme:
    """The theme; raises NotFound without one."""
    if theme is None:
        raise NotFound(f"there is no {name_of(theme_id)}", reason="THEME_NOT_FOUND", field="name")
    return theme


def edited(theme: Theme, version: int, stated: ThemeDefinition, author: str, now: datetime) -> Theme:
    """The next version, a draft. What was under review before is not any more; what is approved stays so."""
    _check(theme, version, "theme.version")
    return replace(
        theme,
        version=theme.version + 1,
        latest_version=theme.version + 1,
        definition=stated,
        offer_versions=(),
        author=author,
        authors=(author,) if theme.review.state is VersionState.APPROVED else tuple(sorted({*theme.authors, author})),
        stated_at=now,
        review=Review(),
        state=theme.state if theme.approved_version else ThemeState.DRAFT,
    )


def submitted(theme: Theme, version: int, offer_versions: tuple[int, ...], submitter: str, now: datetime) -> Theme:
    """Under review, its offers in the versions that are to be reviewed with it."""
    _check(theme, version, "version")
    if theme.review.state is VersionState.IN_REVIEW:
        return theme
    if theme.review.state is not VersionState.DRAFT:
        raise FailedPrecondition(
            f"version {version} is {theme.review.state.name.lower()}", reason="VERSION_REVIEWED", field="version"
        )
    return replace(
        theme,
        offer_versions=offer_versions,
        review=Review(VersionState.IN_REVIEW, submitter, now),
        state=theme.state if theme.approved_version else ThemeState.IN_REVIEW,
    )


def approved(theme: Theme, version: int, reviewer: str, approvers: Collection[str], now: datetime) -> Theme:
    """Decides from now on; raises PermissionDenied unless a second person, one of the approvers, says so."""
    _check(theme, version, "version")
    check_second_person(reviewer, (*theme.authors, theme.review.submitter), approvers)
    if theme.review.state is VersionState.APPROVED:
        return theme
    return replace(
        theme,
        review=_reviewed(theme, VersionState.APPROVED, reviewer, "", now),
        approved_version=version,
        state=theme.state if theme.approved_version else ThemeState.APPROVED,
        launch_failure="",
    )


def rejected(theme: Theme, version: int, reviewer: str, approvers: Collection[str], reason: str, now: datetime) -> Theme:
    """Refused for good: what shall be reviewed again is a new version."""
    _check(theme, version, "version")
    check_second_person(reviewer, (*theme.authors, theme.review.submitter), approvers)
    if theme.review.state is VersionState.REJECTED:
        return theme
    return replace(
        theme,
        review=_reviewed(theme, VersionState.REJECTED, reviewer, reason, now),
        state=theme.state if theme.approved_version else ThemeState.DRAFT,
    )


def _reviewed(theme: Theme, state: VersionState, reviewer: str, reason: str, now: datetime) -> Review:
    if theme.review.state is not VersionState.IN_REVIEW:
        raise FailedPrecondition(
            f"version {theme.version} is {theme.review.state.name.lower()}", reason="NOT_IN_REVIEW", field="version"
        )
    return replace(theme.review, state=state, reviewer=reviewer, reviewed_at=now, reason=reason)


def launched(theme: Theme, now: datetime) -> Theme:
    """Runs from now on; `theme` is in the version that decides, or in the latest while there is none."""
    if theme.launched_at is not None:
        return theme
    if theme.state is ThemeState.FINISHED:
        raise _finished(theme)
    if not theme.approved_version:
        raise FailedPrecondition(f"no version of {theme.name} is approved", reason="NOT_APPROVED", field="name")
    schedule = theme.definition.schedule
    if schedule.starts_at is not None and now < schedule.starts_at:
        raise FailedPrecondition(
            f"{theme.name} starts by itself at {schedule.starts_at.isoformat()}",
            reason="TOO_EARLY",
            field="theme.schedule.starts_at",
        )
    check_time(theme.definition, now)
    return replace(theme, state=ThemeState.RUNNING, launched_at=now, launch_failure="", launching=True)


def given_back(theme: Theme, reason: str) -> Theme:
    """Approved, not launched: its launch could never be decided, for an UPPER_SNAKE reason."""
    return replace(theme, state=ThemeState.APPROVED, launched_at=None, launch_failure=reason, launching=False)


def paused(theme: Theme) -> Theme:
    """Decides nothing and hands nothing over until it is resumed."""
    if theme.state not in (ThemeState.RUNNING, ThemeState.PAUSED):
        raise FailedPrecondition(f"{theme.name} is {theme.state.name.lower()}", reason="NOT_RUNNING", field="name")
    return replace(theme, state=ThemeState.PAUSED)


def resumed(theme: Theme) -> Theme:
    """Decides and hands over again; what waited goes on."""
    if theme.state not in (ThemeState.RUNNING, ThemeState.PAUSED):
        raise FailedPrecondition(f"{theme.name} is {theme.state.name.lower()}", reason="NOT_PAUSED", field="name")
    return replace(theme, state=ThemeState.RUNNING)


def finished(theme: Theme, now: datetime) -> Theme:
    """Over for good, wherever it stood."""
    if theme.state is ThemeState.FINISHED:
        return theme
    return replace(theme, state=ThemeState.FINISHED, finished_at=now)


def check_time(stated: ThemeDefinition, now: datetime) -> None:
    """Raises FailedPrecondition when the schedule is over."""
    ends_at = stated.schedule.ends_at
    if ends_at is not None and ends_at <= now:
        raise FailedPrecondition("the schedule is over", reason="SCHEDULE_OVER", field="theme.schedule.ends_at")


def check_fixed(launched: ThemeDefinition, stated: ThemeDefinition) -> None:
    """Raises FailedPrecondition for what may not change once a theme was launched: it would end what is being measured."""
    for field, before, after in (
        ("goal.event", launched.goal.event, stated.goal.event),
        ("goal.property", launched.goal.field, stated.goal.field),
        ("goal.value", launched.goal.value, stated.goal.value),
        ("goal.window_days", launched.goal.window_days, stated.goal.window_days),
        ("holdout_share", launched.holdout_share, stated.holdout_share),
        ("purpose", launched.purpose, stated.purpose),
    ):
        if before != after:
            raise FailedPrecondition(f"{field} stays as it was launched with", reason="FIXED_BY_LAUNCH", field=f"theme.{field}")


def _check(theme: Theme, version: int, field: str) -> None:
    if theme.state is ThemeState.FINISHED:
        raise _finished(theme)
    if version != theme.version:
        raise FailedPrecondition(
            f"{theme.name} is in version {theme.version}",
            reason="VERSION_CHANGED",
            field=field,
            metadata={"version": str(theme.version)},
        )


def _finished(theme: Theme) -> FailedPrecondition:
    return FailedPrecondition(f"{theme.name} is finished", reason="THEME_FINISHED", field="name")
