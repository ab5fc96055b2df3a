"""Evaluate a face model on images, and on pseudo-sequences made from them, with the predictor of the service."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moodreel.emotions import FIVE, SEVEN
from moodreel.errors import DataInvalid, MoodreelError
from moodreel.models.networks.compact_emotimesh import CompactEmotiMeshNet
from moodreel.models.predictor import FacePredictor
from moodreel.training.data import muxspace
from moodreel.training.data.dataset import IMAGES
from moodreel.training.data.fer2013 import is_fer2013
from moodreel.training.data.ferplus import read_split
from moodreel.training.data.image_folder import read_folders, read_groups
from moodreel.training.data.images import Images, ImageSequence
from moodreel.training.data.label_mapping import mapping_matrix
from moodreel.training.data.loading import DataContext
from moodreel.training.evaluation.metrics import ClassificationMetrics, Predictions, compute_metrics
from moodreel.training.evaluation.predict import predict_rows, scatter, to_labels
from moodreel.training.evaluation.pseudo_sequences import SequenceMetrics, evaluate_sequences


@dataclass(frozen=True, eq=False)
class FaceEvaluation:
    """Metrics of a face model.

    Attributes:
        metrics: Metrics on the images that have a majority label.
        five: The same with probabilities summed into five labels, for a model of seven labels.
        groups: Metrics of each group of people, if groups were given.
        sequences: Metrics on pseudo-sequences, for a Compact EmotiMesh-Net of five labels.
    """

    metrics: ClassificationMetrics
    five: ClassificationMetrics | None
    groups: dict[str, ClassificationMetrics]
    sequences: SequenceMetrics | None


def evaluate(
    predictor: FacePredictor, data: Path, context: DataContext, *, groups: Path | None = None
) -> FaceEvaluation:
    """Evaluate a model of five or seven labels on the images with a majority label.

    Args:
        predictor: The model.
        data: FER+ or FER2013, as `read_split` reads them, whose valid split is used; muxspace's folder
            (`faces.npz`), whose held-out people are used; or a folder with a folder of images for each label.
        context: Location of models and caches.
        groups: CSV file that assigns the images of such folders to groups.

    Raises:
        MoodreelError: The model has other labels.
        DataInvalid: `data` is none of these, or no face was found.
    """
    labels = predictor.info.labels
    if labels not in (FIVE, SEVEN):
        raise MoodreelError(
            f"evaluate measures models with the labels {', '.join(FIVE)}, or {', '.join(SEVEN)}; {predictor.info.name} "
            "has others. Measure it with compare, which takes a single model too."
        )
    images, all_truth, members = _read(data, labels, groups)
    faces = context.extract_faces(images)
    labeled = np.flatnonzero(all_truth >= 0)
    truth, found = all_truth[labeled], faces.found[labeled]
    if not found.any():
        raise DataInvalid(f"No face was found in any of the {len(truth)} labeled images of {data}; check the images.")
    probabilities = predict_rows(predictor, faces, labeled[found], images)
    predictions = scatter(len(truth), np.flatnonzero(found), probabilities)
    neutral = truth[found] == FIVE.index("Neutral")
    # Pseudo-sequences have no images, and need neutral faces and others.
    has_sequences = (
        isinstance(predictor.network, CompactEmotiMeshNet) and labels == FIVE and len(np.unique(neutral)) > 1
    )
    return FaceEvaluation(
        compute_metrics(predictions, truth, labels),
        five=in_five(predictions, truth) if labels == SEVEN else None,
        groups={
            name: compute_metrics(predictions.select(rows[labeled]), truth[rows[labeled]], labels)
            for name, rows in members.items()
            if rows[labeled].any()
        },
        sequences=evaluate_sequences(predictor, faces, all_truth) if has_sequences else None,
    )


def in_five(predictions: Predictions, truth: np.ndarray) -> ClassificationMetrics:
    """Compute the metrics of predictions of seven labels, summed into five."""
    five = mapping_matrix(SEVEN, FIVE).argmax(axis=1)[truth]
    return compute_metrics(to_labels(predictions, SEVEN, FIVE), five, FIVE)


def _read(data: Path, labels: tuple[str, ...], groups: Path | None) -> tuple[Images, np.ndarray, dict[str, np.ndarray]]:
    """Return N images, their label indices (N,), -1 for no label, and the members of each group, bool (N,)."""
    is_muxspace = (data / muxspace.FILE).exists()
    if data.is_dir() and not is_fer2013(data) and not is_muxspace:
        examples = read_folders(data, IMAGES, labels=labels)
        names = [example.file.relative_to(data).as_posix() for example in examples]
        truth = np.array([labels.index(example.label) for example in examples])
        return ImageSequence(examples), truth, read_groups(groups, names) if groups else {}
    if groups:
        raise DataInvalid("Groups are for images in a folder for each label; name such a folder.")
    part = muxspace.read_muxspace(data, labels, "valid") if is_muxspace else read_split(data, "valid", labels=labels)
    return part.images, part.truth, {}


def summarize(report: FaceEvaluation) -> str:
    """Describe all metrics of an evaluation in a few lines of text."""
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
        "recall " + ", ".join(f"{label} {value:.3f}" for label, value in metrics.recall.items()),
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
