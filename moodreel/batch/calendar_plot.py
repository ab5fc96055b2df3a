"""Plot a mood calendar: a row of weeks for each year, a square for each day."""

from collections import Counter
from collections.abc import Mapping
from datetime import date, timedelta
from typing import BinaryIO

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch

from moodreel.batch.summary import DayMoods
from moodreel.emotions import FIVE, color_of

_BACKGROUND, _NO_ENTRY, _TEXT, _MUTED = "#ffffff", "#f4f5f7", "#2b2d33", "#8b909a"
_SQUARE = 0.86
"""Side of a square as a fraction of the distance between the centers of two."""
_PALEST = 0.45
"""Opacity of a day whose leading emotion has the lowest mean probability it can have, 1 of 5."""


def plot_calendar(days: Mapping[str, DayMoods], file: BinaryIO) -> None:
    """Plot a mood calendar as PNG: the color is the leading emotion of the day, paler if it is less probable.

    Args:
        days: Moods by day, such as "2025-03-31"; at least one.
        file: Where to write.
    """
    by_year: dict[int, dict[date, DayMoods]] = {}
    for name in sorted(days):
        day = date.fromisoformat(name)
        by_year.setdefault(day.year, {})[day] = days[name]
    height = 1.05 + 1.55 * len(by_year)
    figure = Figure(figsize=(11.5, height), facecolor=_BACKGROUND)
    for index, (year, moods) in enumerate(by_year.items()):
        top = 1 - (1.12 + 1.55 * index) / height
        _plot_year(figure.add_axes((0.055, top - 1.22 / height, 0.735, 1.22 / height)), year, moods)
        _plot_shares(figure.add_axes((0.845, top - 1.12 / height, 0.1, 1.0 / height)), moods)
    clips = sum(moods.counts.total() for moods in days.values())
    figure.text(0.055, 1 - 0.36 / height, "Mood calendar", fontsize=15, fontweight="bold", color=_TEXT)
    figure.text(0.055, 1 - 0.6 / height, f"{clips:,} clips on {len(days):,} days", fontsize=9.5, color=_MUTED)
    figure.legend(
        handles=[Patch(color=color_of(emotion), label=emotion) for emotion in FIVE],
        loc="upper right",
        bbox_to_anchor=(0.797, 1 - 0.2 / height),
        ncols=len(FIVE),
        frameon=False,
        fontsize=9.5,
        labelcolor=_TEXT,
        handlelength=0.9,
        handleheight=0.9,
        columnspacing=1.4,
    )
    figure.savefig(file, format="png", dpi=150)


def _plot_year(axes: Axes, year: int, moods: Mapping[date, DayMoods]) -> None:
    """Draw a square for each day: Monday on top, a column a week, as ISO weeks begin."""
    first = date(year, 1, 1)
    day, months = first, {}
    while day.year == year:
        column = (day.timetuple().tm_yday - 1 + first.weekday()) // 7
        if day.day == 1:
            months[column if day.weekday() == 0 or day == first else column + 1] = f"{day:%b}"
        color = _color(moods[day]) if day in moods else to_rgb(_NO_ENTRY)
        shape = FancyBboxPatch(
            (column - _SQUARE / 2 + 0.1, day.weekday() - _SQUARE / 2 + 0.1),
            _SQUARE - 0.2,
            _SQUARE - 0.2,
            boxstyle="round,pad=0.1,rounding_size=0.16",
            linewidth=0,
            facecolor=color,
        )
        axes.add_patch(shape)
        day += timedelta(days=1)
    axes.set(xlim=(-0.6, 53.6), ylim=(6.6, -0.6), aspect="equal", anchor="W")
    axes.set_xticks(list(months), list(months.values()), fontsize=8.5, color=_MUTED, ha="left")
    axes.set_yticks([0, 2, 4, 6], ["Mon", "Wed", "Fri", "Sun"], fontsize=8, color=_MUTED)
    axes.tick_params(length=0, pad=3)
    axes.xaxis.tick_top()
    axes.spines[:].set_visible(False)
    axes.text(-0.5, -2.1, str(year), fontsize=11.5, fontweight="bold", color=_TEXT)


def _plot_shares(axes: Axes, moods: Mapping[date, DayMoods]) -> None:
    """Draw the fraction of a year's clips that showed each emotion."""
    counts = sum((day.counts for day in moods.values()), Counter[str]())
    shares = [counts[emotion] / counts.total() for emotion in FIVE]
    axes.barh(FIVE, shares, color=[color_of(emotion) for emotion in FIVE], height=0.62)
    for row, share in enumerate(shares):
        axes.text(share + 0.04, row, f"{share:.0%}", va="center", fontsize=8.5, color=_TEXT)
    axes.set(xlim=(0, 1), ylim=(4.6, -0.6))
    axes.set_xticks([])
    axes.tick_params(length=0, labelsize=8.5, labelcolor=_TEXT, pad=4)
    axes.spines[:].set_visible(False)


def _color(moods: DayMoods) -> tuple[float, float, float]:
    share = (moods.strength - 1 / len(FIVE)) / (1 - 1 / len(FIVE))
    opacity = _PALEST + (1 - _PALEST) * min(max(share, 0.0), 1.0)
    red, green, blue = (1 - opacity + opacity * value for value in to_rgb(color_of(moods.leading)))
    return red, green, blue
