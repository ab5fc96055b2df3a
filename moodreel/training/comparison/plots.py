"""Draw the plots of a report. Each plot is drawn once and saved twice: as SVG for the HTML page, and as PNG."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moodreel.emotions import COLORS
from moodreel.training.comparison.results import Comparison, GroupMetrics, ModelResult
from moodreel.training.comparison.verdict import METRIC_NAMES
from moodreel.training.evaluation.metrics import CONFUSION_METRICS
from moodreel.training.evaluation.significance import Interval

Params = ParamSpec("Params")

INK = "#1d1d1e"
"""Color of lines and text; the SVG replaces it with the text color of the page."""
BLUE = COLORS["sad"]
WIDTH = 4.8
"""Width in inches of most plots: readable, and hardly smaller on a phone."""
MODEL_COLORS = [COLORS[name] for name in ("sad", "anger", "happy", "disgust", "shock", "neutral", "fear")]
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
    # Names come from users; a $ in a name must not start a formula.
    "text.parse_math": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass(frozen=True, eq=False)
class Plot:
    """A plot.

    Attributes:
        name: Name of its file, without the suffix: letters, digits and hyphens.
        alt: Alternative text.
        figure: The drawing.
    """

    name: str
    alt: str
    figure: Figure

    def svg_base64(self) -> str:
        """Return an SVG in base64, without a background, dark on light pages and light on dark ones."""
        adaptive = "<style>svg{color:#1d1d1e}@media(prefers-color-scheme:dark){svg{color:#e8e8ea}}</style><defs>"
        svg = self._save(format="svg", metadata={"Date": None}).decode()
        svg = svg.replace(INK, "currentColor").replace("<defs>", adaptive, 1)
        return base64.b64encode(svg.encode()).decode()

    def png(self) -> bytes:
        """Return a PNG on white."""
        return self._save(format="png", dpi=140, facecolor="white", metadata={"Software": None})

    def _save(self, **options: Any) -> bytes:
        file = io.BytesIO()
        with mpl.rc_context(STYLE):
            self.figure.savefig(file, **options)
        return file.getvalue()


def styled(draw: Callable[Params, Figure]) -> Callable[Params, Figure]:
    """Decorate a function to draw in the report's style, which text needs when it is created, not only when saved."""

    @wraps(draw)
    def draw_in_style(*args: Params.args, **kwargs: Params.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return draw_in_style


def draw_plots(comparison: Comparison) -> dict[str, Plot]:
    """Draw all plots of a report, by name."""
    results = list(enumerate(comparison.results, start=1))
    metric = METRIC_NAMES[comparison.config.decision_metric]
    plots = [
        Plot("scores", "Accuracy, balanced accuracy and macro-F1 with intervals", scores(comparison)),
        Plot("speed", "Accuracy and latency of each model", speed(comparison)),
    ]
    if comparison.pairs:
        plots.append(Plot("differences", f"Differences in {metric} with intervals", differences(comparison)))
    if any(result.gap for result in comparison.results):
        plots.append(Plot("overfitting", "Accuracy on training and on held-out examples", overfitting(comparison)))
    for number, result in results:
        name, figure = result.name, reliability(result)
        plots.append(Plot(f"reliability-{number}", f"Accuracy of {name} by its confidence", figure))
        figure = confusion(result, comparison.labels)
        plots.append(Plot(f"confusion-{number}", f"Predictions of {name} for each true label", figure))
        if result.groups:
            figure = groups(result, result.groups)
            plots.append(Plot(f"groups-{number}", f"Accuracy of {name} by group, the worst first", figure))
    return {plot.name: plot for plot in plots}


def scores(comparison: Comparison) -> Figure:
    """Draw each model's accuracy, balanced accuracy and macro-F1 with intervals."""
    rows: list[_Row | None] = []
    for metric in CONFUSION_METRICS:
        for index, result in enumerate(comparison.results):
            name = f"{METRIC_NAMES[metric]}: {result.name}" if index == 0 else result.name
            rows.append(_Row(name, getattr(result.metrics, metric), result.intervals[metric], index))
        rows.append(None)
    return _interval_plot(rows[:-1], "per cent, with 95 % intervals", height=1.1 + 0.24 * len(rows))


def differences(comparison: Comparison) -> Figure:
    """Draw the difference of each pair in the decision metric."""
    metric = comparison.config.decision_metric
    rows = [
        _Row(f"{pair.first} − {pair.second}", each.value, each.interval, color=BLUE if each.significant else INK)
        for pair in comparison.pairs
        for each in [pair.differences[metric]]
    ]
    label = f"percentage points of {METRIC_NAMES[metric]}"
    return _interval_plot(rows, label, height=0.9 + 0.28 * len(rows), line=0)


def groups(result: ModelResult, measured: Sequence[GroupMetrics]) -> Figure:
    """Draw the accuracy of each group, the worst on top, with a line at the accuracy of all."""
    rows = [_Row(f"{each.name} ({each.examples})", each.accuracy, each.interval, color=BLUE) for each in measured]
    height, line = 1.1 + 0.26 * len(rows), result.metrics.accuracy
    return _interval_plot(rows, "accuracy, per cent; dashed: all", height=height, line=line, title=result.name)


@styled
def reliability(result: ModelResult) -> Figure:
    """Draw a reliability diagram, with the fraction of predictions in each bin."""
    figure, axes = _figure(3.0, 3.1)
    bins = np.array([[each.confidence, each.accuracy, each.fraction] for each in result.metrics.reliability])
    confidence, accuracy, fraction = 100 * bins.reshape(-1, 3).T
    axes.plot([0, 100], [0, 100], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.bar(confidence, fraction, width=4.5, color=BLUE, alpha=0.3, linewidth=0)
    axes.plot(confidence, accuracy, color=BLUE, linewidth=1.2, marker="o", markersize=4)
    error = "" if result.metrics.ece is None else f"\ncalibration error {result.metrics.ece:.3f}"
    ylabel = "accuracy, % (bars: share of predictions)"
    axes.set(xlim=(0, 100), ylim=(0, 100), xlabel="confidence, %", ylabel=ylabel)
    axes.set_title(f"{result.name}{error}", fontsize=9)
    return figure


@styled
def confusion(result: ModelResult, labels: Sequence[str]) -> Figure:
    """Draw the confusion matrix: rows true, columns predicted; each cell shaded by its share of the row."""
    counts = result.metrics.confusion
    columns = [*labels, "no face"] if counts[:, -1].any() else list(labels)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = _figure(1.0 + 0.46 * len(columns), 1.1 + 0.4 * len(labels))
    for row, column in np.ndindex(len(labels), len(columns)):
        share = float(shares[row, column])
        box = mpl.patches.Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=BLUE, alpha=share, linewidth=0)
        axes.add_patch(box)
        if counts[row, column]:
            color = "white" if share > 0.55 else INK
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=7.5, color=color)
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(labels) - 0.5, -0.5), xlabel="predicted", ylabel="true")
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(result.name, fontsize=9)
    return figure


@styled
def overfitting(comparison: Comparison) -> Figure:
    """Draw the accuracy on training and on held-out examples."""
    measured = [(result, result.gap) for result in comparison.results if result.gap]
    figure, axes = _figure(WIDTH, 1.0 + 0.3 * len(measured))
    for row, (result, gap) in enumerate(measured):
        held_out, train = 100 * result.metrics.accuracy, 100 * gap.train_accuracy
        axes.plot([held_out, train], [row, row], color=INK, linewidth=1, alpha=0.6)
        axes.plot([held_out], [row], "o", color=BLUE, label="held out" if row == 0 else None)
        axes.plot([train], [row], "s", color=COLORS["happy"], label="training" if row == 0 else None)
    axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    names = [result.name for result, _ in measured]
    return _label_rows(figure, axes, list(range(len(measured))), names, "accuracy, per cent")


@styled
def speed(comparison: Comparison) -> Figure:
    """Draw accuracy against latency; the size of a marker grows with the parameters."""
    figure, axes = _figure(WIDTH, 3.4)
    for index, result in enumerate(comparison.results):
        x, y, color = result.cost.p50, 100 * result.metrics.accuracy, _model_color(index)
        interval = result.intervals["accuracy"]
        axes.plot([x, x], [100 * interval.low, 100 * interval.high], color=color, linewidth=1.2)
        axes.plot([x, result.cost.p95], [y, y], color=color, linewidth=0.8, alpha=0.6)
        size = 5 + 2 * np.log10(max(result.cost.parameters, 1e3) / 1e3)
        axes.plot([x], [y], MARKERS[index % len(MARKERS)], color=color, markersize=size)
        axes.annotate(result.name, (x, y), xytext=(9, 6), textcoords="offset points", fontsize=8)
    axes.set(xlabel="median latency, ms; the line reaches to the 95th percentile", ylabel="accuracy, per cent")
    axes.set_xlim(left=0)
    axes.margins(x=0.2, y=0.15)
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


class _Row(NamedTuple):
    """A row of an interval plot; `model` chooses its marker, and its color unless one is given."""

    name: str
    value: float
    interval: Interval | None
    model: int = 0
    color: str = ""


@styled
def _interval_plot(
    rows: Sequence[_Row | None], label: str, *, height: float, line: float | None = None, title: str = ""
) -> Figure:
    """Draw values with their intervals, the first row on top, a gap for None, and a dashed line at `line`."""
    figure, axes = _figure(WIDTH, height)
    if line is not None:
        axes.axvline(100 * line, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    named = [(number, row) for number, row in enumerate(rows) if row]
    for number, row in named:
        color = row.color or _model_color(row.model)
        if row.interval:
            ends = [100 * row.interval.low, 100 * row.interval.high]
            axes.plot(ends, [number, number], color=color, linewidth=1.6, solid_capstyle="butt")
        axes.plot([100 * row.value], [number], MARKERS[row.model % len(MARKERS)], color=color, markersize=5)
    axes.set_title(title, fontsize=9)
    return _label_rows(figure, axes, [number for number, _ in named], [row.name for _, row in named], label)


def _label_rows(figure: Figure, axes: Axes, rows: list[int], names: list[str], label: str) -> Figure:
    """Label the rows of a plot, the first on top."""
    axes.set_yticks(rows, names)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", linewidth=0.4, alpha=0.4, color=INK)
    axes.set(xlabel=label, ylim=(max(rows) + 0.6, -0.6))
    return figure


def _model_color(index: int) -> str:
    return MODEL_COLORS[index % len(MODEL_COLORS)]
