"""Describe the metrics of a face model in a few lines of text."""

from collections.abc import Mapping

from moodreel.training.evaluation.evaluate import FaceEvaluation
from moodreel.training.evaluation.metrics import ClassificationMetrics


def summarize(report: FaceEvaluation) -> str:
    """Describe all metrics of an evaluation."""
    lines = [_metrics_summary(report.metrics)]
    if report.sequences:
        lines.append(f"expected calibration error {report.sequences.ece:.4f} (pseudo-sequences)")
        for kind, accuracy in report.sequences.by_kind.items():
            lines.append(f"pseudo-sequences {kind}: {accuracy.model:.3f}, mean of frames {accuracy.frame_mean:.3f}")
    lines += _group_summary(report.groups)
    if report.five:
        lines += ["In five classes:", _metrics_summary(report.five)]
    return "\n".join(lines)


def _metrics_summary(metrics: ClassificationMetrics) -> str:
    lines = [
        f"images {metrics.examples}, faces found {metrics.found:.4f}",
        f"accuracy {metrics.accuracy:.4f} (face not found = wrong), {metrics.accuracy_found:.4f} (faces found)",
        f"mean recall {metrics.balanced_accuracy:.4f}",
        f"expected calibration error {metrics.ece:.4f} (images)",
        "recall " + ", ".join(f"{label} {share:.3f}" for label, share in metrics.recall.items()),
        f"confusion, rows true, columns predicted, {', '.join(metrics.labels)}:",
        *(" ".join(f"{count:5d}" for count in row) for row in metrics.confusion[:, :-1]),
    ]
    return "\n".join(lines)


def _group_summary(groups: Mapping[str, ClassificationMetrics]) -> list[str]:
    if not groups:
        return []
    lines = [
        f"group {group}: images {metrics.examples}, faces found {metrics.found:.4f}, accuracy {metrics.accuracy:.4f}, "
        f"mean recall {metrics.balanced_accuracy:.4f}"
        for group, metrics in groups.items()
    ]
    for label, name in (("accuracy", "accuracy"), ("mean recall", "balanced_accuracy")):
        values = {group: getattr(metrics, name) for group, metrics in groups.items()}
        worst, best = (choose(values, key=values.__getitem__) for choose in (min, max))
        lines.append(
            f"spread of {label} {values[best] - values[worst]:.4f}: "
            f"best {values[best]:.4f} ({best}), worst {values[worst]:.4f} ({worst})"
        )
    return lines
