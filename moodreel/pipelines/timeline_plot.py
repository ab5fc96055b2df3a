"""Plot the timeline of a video."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from moodreel.emotions import color_of
from moodreel.pipelines.video_result import VideoResult

MIN_PLOT_SECONDS = 0.04
"""Length of the time axis for a video of one frame."""
_MAX_GAP_RATIO = 1.5
"""Usual gaps between two points above which the face was not found in between, unless it was found in all frames."""


def plot_timeline(result: VideoResult, path: Path, *, title: str) -> None:
    """Plot the probabilities of the main face over time, stacked, and mark the peak. The plot is empty without a face.

    Args:
        result: The result of a video.
        path: The file to write. Its suffix (`.png`, `.svg`, `.pdf`) is the format.
        title: Written above the plot literally: a `$` begins no formula.
    """
    points = [point for point in result.timeline if point.track == result.track]
    times = [point.time for point in points]
    labels = list(result.probabilities)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.add_subplot()
    series = [[point.probabilities[label] for point in points] for label in labels]
    if len(times) == 1:  # an area needs two points
        times, series = [0.0, max(result.duration, MIN_PLOT_SECONDS)], [values * 2 for values in series]
    elif result.face_coverage < 1:
        gaps = np.diff(times)
        absent = np.flatnonzero(gaps > _MAX_GAP_RATIO * np.median(gaps)) + 1
        times = np.insert(times, absent, np.array(times)[absent]).tolist()
        series = [np.insert(values, absent, np.nan).tolist() for values in series]
    axes.stackplot(times, series, labels=labels, colors=[color_of(label) for label in labels], linewidth=0)
    axes.axvline(result.peak, color="black", linewidth=1.2)
    axes.annotate(
        f"{result.emotion} {result.confidence:.0%}",
        (result.peak, 1.0),
        xytext=(0, 4),
        textcoords="offset points",
        ha="center",
        fontweight="bold",
    )
    axes.set(xlim=(0, max(result.duration, times[-1])), ylim=(0, 1), xlabel="seconds", ylabel="probability")
    axes.spines[["top", "right"]].set_visible(False)
    shown = title.encode("utf-8", "backslashreplace").decode()  # a file name may have bytes that are no UTF-8
    axes.set_title(shown, loc="left", pad=18, fontsize=10, parse_math=False)
    handles, names = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], names[::-1], loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.savefig(path, dpi=130)
