"""What a report shows in pictures. Each is drawn once and saved twice: as SVG, which follows the reader's light or dark
page, and as PNG."""

import io
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moodreel.emotions import COLORS
from moodreel.training.comparison.results import Comparison, GroupMetrics, ModelResult
from moodreel.training.comparison.verdict import WORDS
from moodreel.training.evaluation.metrics import CONFUSION_METRICS
from moodreel.training.evaluation.significance import Interval

Arguments = ParamSpec("Arguments")

INK = "#1d1d1e"
"""Of lines and letters; the SVG has the page's own colour in its place."""
BLUE = COLORS["sad"]
WIDTH = 4.8
"""Inches of a plot of rows: wide enough to be read, and on a phone not much smaller."""
MODELS = [COLORS[name] for name in ("sad", "anger", "happy", "disgust", "shock", "neutral", "fear")]
MARKERS = "osD^vPX"
STYLE: Any = {
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.hashsalt": "moodreel",
    # Names are other people's: a $ in one is no formula.
    "text.parse_math": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def styled(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Have all that a function draws in our style: letters take it when they are made, not when they are saved."""

    @wraps(draw)
    def drawn(*args: Arguments.args, **options: Arguments.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **options)

    return drawn


def as_svg(figure: Figure) -> bytes:
    """An SVG for an <img>, without a background, dark on light pages and light on dark ones."""
    file = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(file, format="svg", metadata={"Date": None})
    adaptive = "<style>svg{color:#1d1d1e}@media(prefers-color-scheme:dark){svg{color:#e8e8ea}}</style><defs>"
    svg = file.getvalue().decode().replace(INK, "currentColor").replace("<defs>", adaptive, 1)
    return svg.encode()


def as_png(figure: Figure) -> bytes:
    file = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(file, format="png", dpi=140, facecolor="white", metadata={"Software": None})
    return file.getvalue()


@styled
def scores(comparison: Comparison) -> Figure:
    """Each model's accuracy, balanced accuracy and macro-F1, with intervals."""
    results = comparison.results
    figure, axes = _figure(WIDTH, 1.1 + 0.24 * len(CONFUSION_METRICS) * (len(results) + 1))
    places, names = [], []
    for block, score in enumerate(CONFUSION_METRICS):
        for index, result in enumerate(results):
            place = block * (len(results) + 1) + index
            _dot(axes, place, getattr(result.metrics, score), result.intervals[score], index)
            places.append(place)
            names.append(f"{WORDS[score]}: {result.name}" if index == 0 else result.name)
    return _ranked(figure, axes, places, names, "per cent, with 95 % intervals")


@styled
def differences(comparison: Comparison) -> Figure:
    """What the first of each pair has over the second, in the figure that decides."""
    pairs, judged_by = comparison.pairs, comparison.config.decision_metric
    figure, axes = _figure(WIDTH, 0.9 + 0.28 * len(pairs))
    axes.axvline(0, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    for place, pair in enumerate(pairs):
        difference = pair.differences[judged_by]
        _dot(axes, place, difference.value, difference.interval, 0, colour=BLUE if difference.significant else INK)
    names = [f"{pair.first} − {pair.second}" for pair in pairs]
    return _ranked(figure, axes, list(range(len(pairs))), names, f"points of {WORDS[judged_by]}")


@styled
def reliability(result: ModelResult) -> Figure:
    """How often answers of each confidence are right, and how many of each there are."""
    figure, axes = _figure(3.0, 3.1)
    bins = result.metrics.reliability
    confidence, right, share = (
        100 * np.array([getattr(each, name) for each in bins]) for name in ("confidence", "accuracy", "fraction")
    )
    axes.plot([0, 100], [0, 100], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.bar(confidence, share, width=4.5, color=BLUE, alpha=0.3, linewidth=0)
    axes.plot(confidence, right, color=BLUE, linewidth=1.2, marker="o", markersize=4)
    error = "" if result.metrics.ece is None else f"\ncalibration error {result.metrics.ece:.3f}"
    axes.set(xlim=(0, 100), ylim=(0, 100), xlabel="confidence, %", ylabel="right, % (bars: share of answers)")
    axes.set_title(f"{result.name}{error}", fontsize=9)
    return figure


@styled
def confusion(result: ModelResult, labels: Sequence[str]) -> Figure:
    """Rows true, columns answered: per cent of the row, shaded, and the number of examples."""
    counts = result.metrics.confusion
    columns = [*labels, "no face"] if counts[:, -1].any() else list(labels)
    counts = counts[:, : len(columns)]
    shares = counts / np.maximum(result.metrics.confusion.sum(axis=1, keepdims=True), 1)
    figure, axes = _figure(1.0 + 0.46 * len(columns), 1.1 + 0.4 * len(labels))
    for row in range(len(labels)):
        for column in range(len(columns)):
            share = float(shares[row, column])
            box = mpl.patches.Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=BLUE, alpha=share, linewidth=0)
            axes.add_patch(box)
            if counts[row, column]:
                colour = "white" if share > 0.55 else INK
                axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=7.5, color=colour)
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(labels) - 0.5, -0.5), xlabel="answered", ylabel="true")
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(result.name, fontsize=9)
    return figure


@styled
def over_fitting(comparison: Comparison) -> Figure:
    """Accuracy on what was learnt from and on what was held out."""
    measured = [(result, result.gap) for result in comparison.results if result.gap]
    figure, axes = _figure(WIDTH, 1.0 + 0.3 * len(measured))
    for place, (result, gap) in enumerate(measured):
        held_out, learnt = 100 * result.metrics.accuracy, 100 * gap.train_accuracy
        axes.plot([held_out, learnt], [place, place], color=INK, linewidth=1, alpha=0.6)
        axes.plot([held_out], [place], "o", color=BLUE, label="held out" if place == 0 else None)
        axes.plot([learnt], [place], "s", color=COLORS["happy"], label="learnt from" if place == 0 else None)
    axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    names = [result.name for result, _ in measured]
    return _ranked(figure, axes, list(range(len(measured))), names, "accuracy, per cent")


@styled
def groups(result: ModelResult, measured: Sequence[GroupMetrics]) -> Figure:
    """Accuracy of each group, the worst on top, beside that of all."""
    figure, axes = _figure(WIDTH, 1.1 + 0.26 * len(measured))
    axes.axvline(100 * result.metrics.accuracy, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    for place, group in enumerate(measured):
        _dot(axes, place, group.accuracy, group.interval, 0, colour=BLUE)
    names = [f"{group.name} ({group.examples})" for group in measured]
    axes.set_title(result.name, fontsize=9)
    return _ranked(figure, axes, list(range(len(measured))), names, "accuracy, per cent; dashed: all")


@styled
def speed(comparison: Comparison) -> Figure:
    """Accuracy against the time of an answer; the size of a mark grows with the parameters."""
    figure, axes = _figure(WIDTH, 3.4)
    for index, result in enumerate(comparison.results):
        x, y = result.cost.p50, 100 * result.metrics.accuracy
        across = result.intervals["accuracy"]
        axes.plot([x, x], [100 * across.low, 100 * across.high], color=_colour(index), linewidth=1.2)
        axes.plot([x, result.cost.p95], [y, y], color=_colour(index), linewidth=0.8, alpha=0.6)
        size = 5 + 2 * np.log10(max(result.cost.parameters, 1e3) / 1e3)
        axes.plot([x], [y], MARKERS[index % len(MARKERS)], color=_colour(index), markersize=size)
        axes.annotate(result.name, (x, y), xytext=(9, 6), textcoords="offset points", fontsize=8)
    axes.set(xlabel="milliseconds, median; the line reaches to the 95th percentile", ylabel="accuracy, per cent")
    axes.set_xlim(left=0)
    axes.margins(x=0.2, y=0.15)
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _dot(axes: Axes, place: float, value: float, within: Interval | None, index: int, *, colour: str = "") -> None:
    colour = colour or _colour(index)
    if within:
        ends = [100 * within.low, 100 * within.high]
        axes.plot(ends, [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
    axes.plot([100 * value], [place], MARKERS[index % len(MARKERS)], color=colour, markersize=5)


def _ranked(figure: Figure, axes: Axes, places: list[int], names: list[str], label: str) -> Figure:
    """Name the rows of a plot, the first on top."""
    axes.set_yticks(places, names)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", linewidth=0.4, alpha=0.4, color=INK)
    axes.set(xlabel=label, ylim=(max(places) + 0.6, -0.6))
    return figure


def _colour(index: int) -> str:
    return MODELS[index % len(MODELS)]
