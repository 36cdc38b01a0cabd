"""Themes between protobuf and ours, for the gRPC door."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp
from troika.orchestrator.v1 import offer_service_pb2 as offer_pb
from troika.orchestrator.v1 import orchestrator_service_pb2 as pb

from chassis.moments import moment
from services.orchestrator.offers import definitions as offers
from services.orchestrator.themes.definitions import (
    USUAL_PRIORITY,
    Band,
    Budget,
    Choice,
    Exclusion,
    Filling,
    Goal,
    Pacing,
    Schedule,
    ThemeDefinition,
    Waves,
)
from services.orchestrator.themes.states import Theme
from services.orchestrator.waves.store import Wave


def definition(theme: pb.Theme) -> ThemeDefinition:
    """What a theme of the contract states; raises InvalidArgument for impossible moments and values without any."""
    return ThemeDefinition(
        title=theme.title,
        words=theme.words,
        audience=theme.audience,
        goal=Goal(theme.goal.event, theme.goal.property, theme.goal.value, theme.goal.window_days, theme.goal.value_fen),
        offers=tuple(offers.id_of(name) for name in theme.offers),
        language=theme.language,
        values=tuple(_filling(name, theme.values[name]) for name in sorted(theme.values)),
        purpose=theme.purpose,
        bands=tuple(Band(band.from_score, tuple(band.channels)) for band in theme.bands),
        model=theme.model,
        budget=Budget(
            theme.budget.max_contacts,
            theme.budget.max_calls,
            theme.budget.max_cost_fen if theme.budget.HasField("max_cost_fen") else None,
            dict(theme.budget.unit_cost_fen),
            Pacing(theme.budget.pacing or Pacing.ASAP),
        ),
        schedule=_schedule(theme.schedule),
        priority=theme.priority if theme.HasField("priority") else USUAL_PRIORITY,
        holdout_share=theme.holdout_share,
        exclusion=Exclusion(theme.exclusion.group, theme.exclusion.cool_down_days) if theme.HasField("exclusion") else None,
        waves=_waves(theme.waves) if theme.HasField("waves") else None,
        choice=Choice(theme.offer_choice),
    )


def _waves(waves: pb.Waves) -> Waves:
    return Waves(
        tuple(waves.shares),
        tuple(waves.from_scores),
        waves.target_rate,
        waves.least_pushes,
        waves.response_hours,
        waves.seeds.strip(),
    )


def _schedule(given: pb.Schedule) -> Schedule:
    return Schedule(
        moment(given.starts_at, "theme.schedule.starts_at") if given.HasField("starts_at") else None,
        moment(given.ends_at, "theme.schedule.ends_at") if given.HasField("ends_at") else None,
    )


def _filling(name: str, given: offer_pb.VariableValue) -> Filling:
    match given.WhichOneof("value"):
        case "number":
            return Filling(name, number=given.number)
        case "word":
            return Filling(name, word=given.word)
        case _:
            return Filling(name, time=moment(given.time, f"theme.values.{name}"))


def told(theme: Theme) -> pb.Theme:
    """A theme as the contract tells it."""
    stated = theme.definition
    budget, schedule = stated.budget, stated.schedule
    answer = pb.Theme(
        name=theme.name if theme.theme_id else "",
        version=theme.version,
        title=stated.title,
        words=stated.words,
        audience=stated.audience,
        goal=pb.Goal(
            event=stated.goal.event,
            property=stated.goal.field,
            value=stated.goal.value,
            window_days=stated.goal.window_days,
            value_fen=stated.goal.value_fen,
        ),
        offers=[offers.name_of(offer) for offer in stated.offers],
        language=stated.language,
        values={each.name: _value(each) for each in stated.values},
        purpose=stated.purpose,
        bands=[pb.ScoreBand(from_score=band.from_score, channels=band.channels) for band in stated.bands],
        model=stated.model,
        budget=pb.Budget(
            max_contacts=budget.max_contacts,
            max_calls=budget.max_calls,
            max_cost_fen=budget.max_cost_fen,
            unit_cost_fen=budget.unit_cost_fen,
            pacing=pb.Pacing.ValueType(budget.pacing.value),
        ),
        priority=stated.priority,
        holdout_share=stated.holdout_share,
        owner=theme.owner,
        author=theme.author,
        offer_choice=pb.OfferChoice.ValueType(stated.choice),
        state=pb.ThemeState.ValueType(theme.state.value),
        approved_version=theme.approved_version,
        launching=theme.launching,
        launch_failure=theme.launch_failure,
        create_time=stamp(theme.created_at),
        update_time=stamp(theme.stated_at),
        launch_time=stamp(theme.launched_at),
        finish_time=stamp(theme.finished_at),
        review=pb.Review(
            state=pb.VersionState.ValueType(theme.review.state.value),
            submitter=theme.review.submitter,
            submit_time=stamp(theme.review.submitted_at),
            reviewer=theme.review.reviewer,
            review_time=stamp(theme.review.reviewed_at),
            reason=theme.review.reason,
            offer_versions=theme.offer_versions,
        ),
    )
    if schedule.starts_at is not None or schedule.ends_at is not None:
        answer.schedule.CopyFrom(pb.Schedule(starts_at=stamp(schedule.starts_at), ends_at=stamp(schedule.ends_at)))
    if stated.exclusion is not None:
        answer.exclusion.CopyFrom(pb.Exclusion(group=stated.exclusion.group, cool_down_days=stated.exclusion.cool_down_days))
    if (waves := stated.waves) is not None:
        answer.waves.CopyFrom(
            pb.Waves(
                shares=waves.shares,
                from_scores=waves.from_scores,
                target_rate=waves.target_rate,
                least_pushes=waves.least_pushes,
                response_hours=waves.response_hours,
                seeds=waves.seeds,
            )
        )
    return answer


def told_wave(wave: Wave) -> pb.ThemeWave:
    """A layer as the contract tells it."""
    return pb.ThemeWave(
        layer=wave.layer,
        open_time=stamp(wave.opened_at),
        persons=wave.persons or 0,
        from_score=wave.from_score or 0,
        pushes=wave.pushes,
        goals=wave.goals,
        rate=pb.Interval(value=wave.goals / wave.pushes if wave.pushes else 0, low=wave.low, high=wave.high),
        verdict=pb.WaveVerdict.ValueType(wave.verdict or 0),
        words=wave.words,
        judge_time=stamp(wave.judged_at),
    )


def _value(filling: Filling) -> offer_pb.VariableValue:
    if filling.number is not None:
        return offer_pb.VariableValue(number=filling.number)
    if filling.word is not None:
        return offer_pb.VariableValue(word=filling.word)
    return offer_pb.VariableValue(time=stamp(filling.time))


def stamp(moment: datetime | None) -> Timestamp | None:
    """The moment as protobuf tells it; None stays unset."""
    if moment is None:
        return None
    told = Timestamp()
    told.FromDatetime(moment)
    return told
