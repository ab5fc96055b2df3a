"""A clip's timeline as a picture: how likely each emotion was, moment by moment."""

from pathlib import Path

from matplotlib.figure import Figure

from moodreel.emotions import color_of
from moodreel.pipelines.video import VideoResult


def timeline(analysis: VideoResult, path: Path, *, title: str = "") -> None:
    """Draw the answered face's probabilities over time, stacked, and mark the peak.

    Args:
        path: where the picture goes; its ending (`.png`, `.svg`, `.pdf`) is its kind.
    """
    moments = [moment for moment in analysis.timeline if moment.track == analysis.track]
    times = [moment.time for moment in moments]
    labels = list(analysis.probabilities)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.add_subplot()
    shares = [[moment.probabilities[label] for moment in moments] for label in labels]
    colours = [color_of(label) for label in labels]
    if len(times) == 1:  # an area needs two ends
        times, shares = [0.0, max(analysis.duration, 0.04)], [share * 2 for share in shares]
    axes.stackplot(times, shares, labels=labels, colors=colours, linewidth=0)
    axes.axvline(analysis.peak, color="black", linewidth=1.2)
    axes.annotate(
        f"{analysis.emotion} {analysis.confidence:.0%}",
        (analysis.peak, 1.0),
        xytext=(0, 4),
        textcoords="offset points",
        ha="center",
        fontweight="bold",
    )
    axes.set(xlim=(0, max(analysis.duration, times[-1])), ylim=(0, 1), xlabel="seconds", ylabel="probability")
    axes.spines[["top", "right"]].set_visible(False)
    if title:
        axes.set_title(title, loc="left", pad=18, fontsize=10)
    handles, names = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], names[::-1], loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.savefig(path, dpi=130)
