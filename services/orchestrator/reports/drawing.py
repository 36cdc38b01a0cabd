"""Reports as pictures. Only names of ours and codes are written into them: their fonts have no Chinese.

Everything here runs in one thread: matplotlib's settings are the process's.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any, Final

from services.orchestrator.domain.statistics import Interval
from services.orchestrator.reports.cells import Breakdown
from services.orchestrator.reports.folding import Part, Report
from services.orchestrator.reports.times import EDGES, LABELS, Times, hours_in_words

PUSHED, ANSWERS, FAINT, TEXT = "#4c78a8", "#54a24b", "#d5dbe3", "#5b6470"
# More than this nobody reads in one picture; the largest come first.
MOST_PANELS: Final = 6
MOST_ROWS: Final = 30
MOST_REASONS: Final = 4
# Text stays text, so that it can be found and copied; and the same report gives the same bytes.
_STYLE: Final[Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "troika", "axes.spines.top": False, "axes.spines.right": False, "font.size": 9,
    "axes.titlesize": 10, "axes.titlelocation": "left", "figure.titlesize": 12,
}  # fmt: skip


class Picture(IntEnum):
    """What is drawn; the numbers are those of the contract."""

    FUNNEL = 1
    EFFECT = 2
    TIMES = 3


class Format(IntEnum):
    """How a picture is stored; the numbers are those of the contract."""

    SVG = 1
    PNG = 2

    @property
    def media_type(self) -> str:
        """Of the bytes."""
        return "image/svg+xml" if self is Format.SVG else "image/png"


def draw(report: Report, picture: Picture, form: Format) -> bytes:
    """A picture of a report."""
    # Half a second and 30 MB, for those alone who ask for pictures.
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(layout="constrained")
        FigureCanvasAgg(figure)
        _DRAWN[picture](figure, report)
        stored = io.BytesIO()
        metadata = {"Date": None} if form is Format.SVG else {"Software": "troika"}
        figure.savefig(stored, format=form.name.lower(), dpi=130, metadata=metadata)
    return stored.getvalue()


def _title(figure: Any, report: Report, what: str) -> None:
    by = f" by {report.by.name.lower()}" if report.by else ""
    incomplete = ", launch under way" if report.launching else ""
    figure.suptitle(f"{what}{by}: {report.name}{incomplete}", x=0.01, ha="left")


def _funnel(figure: Any, report: Report) -> None:
    panels = report.parts[:MOST_PANELS] if report.by else (report.whole,)
    columns = min(3, max(1, len(panels)))
    lines = -(-len(panels) // columns) or 1
    figure.set_size_inches((9.5, 6.5) if not report.by else (4.6 * columns, 3.4 * lines + 0.5))
    _title(figure, report, "From the audience to the goal")
    for number, part in enumerate(panels):
        axes = figure.add_subplot(lines, columns, number + 1)
        _steps(axes, part, reasons=not report.by)
        if report.by:
            axes.set_title(_label(part.key, report.by) + _small(part))
    if len(report.parts) > len(panels):
        figure.supxlabel(f"and {len(report.parts) - len(panels)} more", fontsize=8, color=TEXT)


def _steps(axes: Any, part: Part, *, reasons: bool) -> None:
    stages = part.funnel
    top = max(1, *(stage.count for stage in stages))
    places = range(len(stages))
    colours = [PUSHED if stage.name != "goal" else ANSWERS for stage in stages]
    axes.barh(places, [top] * len(stages), color=FAINT, alpha=0.35, height=0.62)
    axes.barh(places, [stage.count for stage in stages], color=colours, height=0.62)
    axes.set_yticks(places, [stage.name for stage in stages])
    axes.invert_yaxis()
    axes.set_xlim(0, top * (1.75 if reasons else 1.45))
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    for place, stage in enumerate(stages):
        before = stages[place - 1].count if place else 0
        share = f"  {stage.count / before:.1%}" if before and stage.name != "goal" else ""
        axes.text(top * 1.02, place, f"{stage.count:,}{share}", va="center", fontweight="bold")
        if reasons and stage.lost:
            axes.text(top * 1.34, place, _reasons(stage.lost), va="center", fontsize=7.5, color=TEXT)


def _reasons(lost: Mapping[str, int]) -> str:
    told = [f"−{n:,} {reason.replace('_', ' ')}" for reason, n in list(lost.items())[:MOST_REASONS]]
    rest = sum(list(lost.values())[MOST_REASONS:])
    told += [f"−{rest:,} other"] if rest else []
    return "\n".join(", ".join(told[i : i + 2]) for i in range(0, len(told), 2))


def _effect(figure: Any, report: Report) -> None:
    """What pushing changed; where those kept out are in no part, how many of each part's pushed reached the goal."""
    compared = report.by.comparable
    rows = [("all", report.whole)]
    rows += [(_label(part.key, report.by), part) for part in report.parts if part.pushed is None or part.pushed.persons]
    left_out, rows = rows[MOST_ROWS:], rows[:MOST_ROWS]
    figure.set_size_inches(9.5, 1.9 + 0.38 * len(rows))
    _title(figure, report, "Effect against those kept out" if compared else "Pushed who reached the goal")
    axes = figure.add_subplot()
    rates = [part.pushed.interval if part.pushed is not None else None for _, part in rows]
    drawn = [part.effect for _, part in rows] if compared else rates
    for place, interval in enumerate(drawn):
        if interval is not None:
            _whisker(axes, place, interval, PUSHED if place else TEXT)
    known = [interval for interval in drawn if interval is not None]
    low, high = min([0.0, *(i.low for i in known)]), max([0.01, *(i.high for i in known)])
    wide = high - low
    axes.set_xlim(100 * (low - 0.04 * wide), 100 * (high + 0.04 * wide))
    if compared:
        axes.axvline(0, color=TEXT, linewidth=0.8, linestyle="--")
    elif report.holdout.persons:
        kept_out = report.holdout.interval
        axes.axvspan(100 * kept_out.low, 100 * kept_out.high, color=FAINT, alpha=0.5, zorder=0)
        axes.axvline(100 * kept_out.value, color=TEXT, linewidth=0.8, linestyle="--", label="all who were kept out")
        axes.legend(frameon=False, loc="lower right", fontsize=8)
    for place, (_, part) in enumerate(rows):
        axes.text(1.01, place, _compared(part), transform=axes.get_yaxis_transform(), va="center", fontsize=7.5, color=TEXT)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(
        ("points of the goal rate" if compared else "goal rate, %")
        + ", with 95 % intervals"
        + (f"; {len(left_out)} more are not drawn" if left_out else "")
    )


def _whisker(axes: Any, place: int, interval: Interval, colour: str) -> None:
    axes.plot([100 * interval.low, 100 * interval.high], [place, place], color=colour, linewidth=2.2, solid_capstyle="butt")
    axes.plot([100 * interval.value], [place], "o", color=colour, markersize=6)


def _compared(part: Part) -> str:
    if part.pushed is None:
        return "too few to tell of"
    told = f"pushed {part.pushed.interval.value:.1%} of {part.pushed.persons:,}"
    if part.holdout is not None and part.holdout.persons:
        told += f", kept out {part.holdout.interval.value:.1%} of {part.holdout.persons:,}"
    return told


def _times(figure: Any, report: Report) -> None:
    parts = report.parts[:MOST_ROWS]
    figure.set_size_inches(11, 3.9 if not report.by else 1.9 + 0.36 * (len(parts) + 1))
    _title(figure, report, "Time from push")
    for number, (colour, whole) in enumerate(zip((PUSHED, ANSWERS), report.whole.times, strict=True)):
        axes = figure.add_subplot(1, 2, number + 1)
        axes.set_title(f"to the {whole.kind}: {whole.count:,}" + _in_words(whole))
        if not report.by:
            _classes(axes, whole, colour)
            continue
        rows = [("all", whole), *((_label(part.key, report.by), part.times[number]) for part in parts)]
        _spans(axes, rows, colour)


def _classes(axes: Any, times: Times, colour: str) -> None:
    bars = axes.bar(range(len(EDGES)), times.histogram, color=colour, width=0.85)
    axes.bar_label(bars, [f"{n:,}" if n else "" for n in times.histogram], fontsize=7.5, color=TEXT)
    axes.set_xticks(range(len(EDGES)), LABELS, rotation=45, ha="right", fontsize=8)
    axes.set_xlabel("from … on")
    axes.set_ylabel("persons")
    axes.margins(y=0.12)
    axes.yaxis.get_major_locator().set_params(integer=True)


def _spans(axes: Any, rows: Sequence[tuple[str, Times]], colour: str) -> None:
    """A thin line from one tenth to nine, a thick one around the middle half, a dot in the middle; hours by powers of ten."""
    for place, (_, times) in enumerate(rows):
        if not times.quantiles:
            axes.text(0.02, place, "too few" if times.count else "none", va="center", fontsize=7.5, color=TEXT,
                      transform=axes.get_yaxis_transform())  # fmt: skip
            continue
        tenth, quarter, half, three_quarters, nine = (max(hours, 1 / 60) for hours in times.quantiles)
        axes.plot([tenth, nine], [place, place], color=colour, linewidth=1)
        axes.plot([quarter, three_quarters], [place, place], color=colour, linewidth=5, alpha=0.55, solid_capstyle="butt")
        axes.plot([half], [place], "o", color=colour, markersize=5)
    axes.set_xscale("log")
    axes.set_xlim(1 / 70, 3000)
    axes.set_xticks([1 / 60, 1, 24, 168, 720], ["1 min", "1 h", "1 d", "7 d", "30 d"])
    axes.minorticks_off()
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)


def _in_words(times: Times) -> str:
    if not times.quantiles:
        return ""
    return f"; half within {hours_in_words(times.quantiles[2])}, nine of ten within {hours_in_words(times.quantiles[4])}"


def _label(key: str, by: Breakdown) -> str:
    if not key:
        return {Breakdown.DEALER: "no dealer", Breakdown.BAND: "no score"}.get(by, "none")
    return {Breakdown.BAND: f"{key} on", Breakdown.VERSION: f"version {key}"}.get(by, key)


def _small(part: Part) -> str:
    return " (too few to tell more)" if part.hidden else ""


_DRAWN: Final[dict[Picture, Callable[[Any, Report], None]]] = {
    Picture.FUNNEL: _funnel,
    Picture.EFFECT: _effect,
    Picture.TIMES: _times,
}
