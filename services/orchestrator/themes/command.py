"""`troika themes …`: asks a running service over gRPC, in the name of whose token is shown."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import Message
from troika.orchestrator.v1 import orchestrator_service_pb2 as pb
from troika.orchestrator.v1.orchestrator_service_pb2_grpc import OrchestratorServiceStub

from chassis.run import PlainVerb
from chassis.terminal import shown
from services.orchestrator import terminal
from services.orchestrator.reports import words as reports
from services.orchestrator.terminal import TIMEOUT_S, Ask

PICTURES: Final = ("funnel", "effect", "times")
_STATES: Final = {name.removeprefix("THEME_STATE_").lower(): number for name, number in pb.ThemeState.items() if number}


async def _list(stub: Any, flags: argparse.Namespace) -> Message:
    states = [_STATES[flags.state]] if flags.state else []
    answer: Message = await stub.ListThemes(pb.ListThemesRequest(page_size=flags.limit, states=states), timeout=TIMEOUT_S)
    return answer


async def _show(stub: Any, flags: argparse.Namespace) -> Message:
    if flags.versions:
        asked: Message = await stub.ListThemeVersions(pb.ListThemeVersionsRequest(name=flags.theme), timeout=TIMEOUT_S)
        return asked
    return await _get(stub, flags, flags.version)


async def _get(stub: Any, flags: argparse.Namespace, version: int = 0) -> pb.Theme:
    request = pb.GetThemeRequest(name=flags.theme, version=version)
    theme: pb.Theme = (await stub.GetTheme(request, timeout=TIMEOUT_S)).theme
    return theme


async def _waves(stub: Any, flags: argparse.Namespace) -> Message:
    answer: Message = await stub.ListThemeWaves(pb.ListThemeWavesRequest(name=flags.theme), timeout=TIMEOUT_S)
    return answer


async def _preview(stub: Any, flags: argparse.Namespace) -> Message:
    request = pb.PreviewThemeRequest(name=flags.theme, version=flags.version)
    answer: Message = await stub.PreviewTheme(request, timeout=TIMEOUT_S)
    return answer


async def _report(stub: Any, flags: argparse.Namespace) -> Message:
    by = pb.ReportBreakdown.Value(f"REPORT_BREAKDOWN_{flags.by.upper() or 'UNSPECIFIED'}")
    report: Message = await stub.GetThemeReport(pb.GetThemeReportRequest(name=flags.theme, by=by), timeout=TIMEOUT_S)
    if flags.picture:
        drawn = flags.kind or flags.picture.stem
        request = pb.GetThemeReportPictureRequest(
            name=flags.theme,
            by=by,
            picture=pb.ReportPicture.Value(f"REPORT_PICTURE_{(drawn if drawn in PICTURES else PICTURES[0]).upper()}"),
            format=pb.PictureFormat.Value(f"PICTURE_FORMAT_{flags.picture.suffix[1:].upper()}"),
        )
        picture = await stub.GetThemeReportPicture(request, timeout=TIMEOUT_S)
        try:
            await asyncio.to_thread(flags.picture.write_bytes, picture.content)
        except OSError as error:
            raise SystemExit(f"PICTURE_NOT_WRITTEN: {error}") from error
    return report


def _picture(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in (".svg", ".png"):
        raise argparse.ArgumentTypeError(f"{text} ends neither with .svg nor with .png")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    return path


def _command(verb: str, *, versioned: bool = False) -> Ask:
    """A command on one theme; without a stated version it is the latest one that is meant."""

    async def ask(stub: Any, flags: argparse.Namespace) -> Message:
        fields: dict[str, Any] = {"name": flags.theme, "dry_run": flags.dry_run}
        if versioned:
            fields["version"] = flags.version or (await _get(stub, flags)).version
        for name in ("reason", "confirm_everybody"):
            if name in flags:
                fields[name] = getattr(flags, name)
        answer = await getattr(stub, f"{verb}Theme")(getattr(pb, f"{verb}ThemeRequest")(**fields), timeout=TIMEOUT_S)
        theme: Message = answer.theme
        return theme

    return ask


def in_words(answer: Message) -> str:
    """What people read."""
    match answer:
        case pb.Theme():
            told = _lines(answer)
        case pb.PreviewThemeResponse():
            told = _preview_lines(answer)
        case pb.ListThemeWavesResponse():
            told = [f"layer {wave.layer}: {wave.words or 'not judged yet'}" for wave in answer.waves] or ["none"]
        case pb.ListThemeVersionsResponse():
            told = [_version_line(theme) for theme in answer.versions]
        case pb.ListThemesResponse():
            told = [_line(theme) for theme in answer.themes] or ["none"]
        case pb.GetThemeReportResponse():
            told = [reports.in_words(answer)]
        case _:
            told = [str(answer)]
    return "\n".join(told)


def _line(theme: pb.Theme) -> str:
    return f"{theme.name:<12} {_word(pb.ThemeState.Name(theme.state)):<10} {theme.title}"


def _version_line(theme: pb.Theme) -> str:
    review = theme.review
    told = f"{theme.version:>3} {_word(pb.VersionState.Name(review.state)):<10} {shown(theme.update_time)} by {theme.author}"
    if review.reviewer:
        told += f", reviewed by {review.reviewer}"
    return told + (f": {review.reason}" if review.reason else "")


def _lines(theme: pb.Theme) -> list[str]:
    told = [_line(theme), _version_line(theme)]
    if theme.approved_version:
        told.append(f"version {theme.approved_version} decides" + (", its launch is under way" if theme.launching else ""))
    if theme.launch_failure:
        told.append(f"the last launch was given up: {theme.launch_failure}")
    told.append(f"for {theme.audience}")
    chosen = " by what is learnt" if theme.offer_choice else ""
    told.append(f"{', '.join(theme.offers)}{chosen} in {theme.language}, {theme.purpose}")
    told += [f"from score {band.from_score:g}: {', '.join(band.channels) or 'nobody'}" for band in theme.bands]
    told.append(
        f"at most {theme.budget.max_contacts} contacts, {theme.budget.max_calls} calls; {theme.holdout_share:.0%} kept out"
    )
    return told


def _preview_lines(preview: pb.PreviewThemeResponse) -> list[str]:
    told = [
        f"{preview.audience} of {preview.base} persons in the audience",
        f"{preview.chosen} chosen, {preview.holdout} of them kept out",
        *(f"{channel}: {n} pushes of {preview.reach_by_channel[channel]} it could reach" for channel, n in _sorted(preview)),
        *(f"passed over: {n} {reason}" for reason, n in sorted(preview.passed_over.items(), key=lambda item: -item[1])),
        f"{preview.expected_responses:.0f} responses expected for {preview.expected_cost_fen / 100:.2f} yuan",
    ]
    told += [
        f"{each.offer} (version {each.offer_version}) on {each.channel}: {each.title} | {each.body}" for each in preview.words
    ]
    return told + [f"{o.command} would refuse: {o.reason} ({o.field}): {o.message}" for o in preview.obstacles]


def _sorted(preview: pb.PreviewThemeResponse) -> list[tuple[str, int]]:
    return [(channel, preview.pushes_by_channel.get(channel, 0)) for channel in sorted(preview.reach_by_channel)]


def _word(name: str) -> str:
    return name.removeprefix("THEME_STATE_").removeprefix("VERSION_STATE_").lower()


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    actions = parser.add_subparsers(dest="action", required=True)

    def action(name: str, about: str, ask: Ask) -> argparse.ArgumentParser:
        found = terminal.action(actions, name, about, ask, in_words, OrchestratorServiceStub)
        if name != "list":
            found.add_argument("theme", help="themes/12", type=lambda text: f"themes/{text.removeprefix('themes/')}")
        return found

    listing = action("list", "themes, newest first", _list)
    listing.add_argument("--state", choices=sorted(_STATES), default="")
    listing.add_argument("--limit", type=int, default=50)
    show = action("show", "one theme, or all its versions", _show)
    show.add_argument("--versions", action="store_true", help="who wrote each, and what became of it")
    show.add_argument("--version", type=int, default=0, help="default: the latest")
    preview = action("preview", "what it would do now, and what the next command would refuse", _preview)
    preview.add_argument("--version", type=int, default=0, help="default: the latest")
    action("waves", "the layers that have opened, and how they are judged", _waves)
    report = action("report", "what came of it: funnel, effect against the holdout, cost and return, times", _report)
    breakdowns = [name.removeprefix("REPORT_BREAKDOWN_").lower() for name, number in pb.ReportBreakdown.items() if number]
    report.add_argument("--by", choices=breakdowns, default="", help="break it down")
    report.add_argument("--picture", type=_picture, metavar="FILE.svg|png", help="draw it, too")
    report.add_argument(
        "--kind", choices=PICTURES, default="", help="what to draw; default: as the file is called, or the funnel"
    )
    for verb, about in (
        ("submit", "ask for a version's approval"),
        ("approve", "approve what somebody else wrote and submitted"),
        ("reject", "refuse what somebody else wrote and submitted"),
    ):
        command = action(verb, about, _command(verb.capitalize(), versioned=True))
        command.add_argument("--version", type=int, default=0, help="default: the latest")
        command.add_argument("--dry-run", action="store_true", help="change nothing")
        if verb == "submit":
            command.add_argument("--confirm-everybody", action="store_true", help="everybody is really meant")
        if verb == "reject":
            command.add_argument("--reason", required=True, help="what has to be other")
    for verb, about in (
        ("launch", "decide for everybody in the audience"),
        ("pause", "decide nothing until it is resumed"),
        ("resume", "go on after a pause"),
        ("finish", "end it for good"),
    ):
        action(verb, about, _command(verb.capitalize())).add_argument("--dry-run", action="store_true", help="change nothing")


VERBS = (PlainVerb("themes", "list, review, run and report on themes of a running service", terminal.run, arguments),)
