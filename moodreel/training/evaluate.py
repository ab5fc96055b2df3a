"""Measure a model on pictures and on pseudo-sequences made from them, by the predictor that serves."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from moodreel.emotions import FIVE, SEVEN, SEVEN_TO_FIVE
from moodreel.errors import MoodreelError
from moodreel.faces import BLENDSHAPES, LANDMARKS
from moodreel.features import CROP, Features
from moodreel.models.joint import JointNet
from moodreel.models.predictor import Predictor
from moodreel.training import muxspace
from moodreel.training.faces import Found, find_all
from moodreel.training.ferplus import read_split
from moodreel.training.joint import join, look
from moodreel.training.sequences import Kind, Sequences, Studio, fit_deformation, listen

SEQUENCES = 400
"""Pseudo-sequences of each kind."""


@dataclass(frozen=True, eq=False)
class Report:
    """Shares are 0 to 1.

    labels: of the model. pictures: how many with a majority over half. found: share of them with a face found.
    accuracy, mean_recall: a picture without a found face counts as wrong. accuracy_found: of those with one.
    ece: expected calibration error over 15 bins of equal width (Guo et al. 2017), pictures with a face.
    recall: by label. confusion: int (C, C), rows true, columns answered, pictures with a face.
    ece_sequences: the same of the pseudo-sequences, all kinds together; only of a model that joins moments.
    by_kind: for each kind of pseudo-sequence, the share right, and the share that the mean of its moments gets right.
    five: of a seven-label model, the same pictures with its probabilities added up to five labels.
    """

    labels: tuple[str, ...]
    pictures: int
    found: float
    accuracy: float
    accuracy_found: float
    mean_recall: float
    ece: float
    recall: dict[str, float]
    confusion: np.ndarray
    ece_sequences: float = float("nan")
    by_kind: dict[str, tuple[float, float]] = field(default_factory=dict)
    five: "Report | None" = None


def evaluate(
    predictor: Predictor, data: Path, landmarker: Path, cache: Path, *, split: str = "valid", seed: int = 0
) -> Report:
    """Measure a model of five or seven labels on the pictures of a split that have a majority over half.

    data: a folder of FER+, or one of muxspace (`faces.npz`), which has no splits.
    Raises MoodreelError for a model with other labels, or one that reads raw landmarks, which are not kept.
    """
    labels = predictor.info.labels
    if labels not in (FIVE, SEVEN) or predictor.info.architecture == "emotimesh":
        raise MoodreelError(
            "Only models of five or seven labels that read pose-normalised faces can be evaluated; choose another."
        )
    other = (data / muxspace.FILE).exists()
    pictures = muxspace.read_muxspace(data, labels, "valid") if other else read_split(data, split, labels=labels)
    faces = find_all(pictures.images, landmarker, cache, seed=seed)
    judged = pictures.truth >= 0
    truth, found = pictures.truth[judged], faces.found[judged]
    shown = [[still(faces, row)] for row in np.flatnonzero(judged & faces.found)]
    probabilities = np.stack([verdict.probabilities for verdict in predictor.predict(shown, moments=False)])
    if labels == SEVEN:
        merge = np.array([[SEVEN_TO_FIVE[label] == five for five in FIVE] for label in SEVEN])
        five = Report(**_figures(probabilities @ merge, merge.argmax(axis=1)[truth], found, FIVE))
        return Report(**_figures(probabilities, truth, found, SEVEN), five=five)
    targets = np.zeros((len(pictures.truth), 5), np.float32)
    targets[judged, pictures.truth[judged]] = 1
    net = predictor.module
    appearance = speech = None
    if isinstance(net, JointNet):
        appearance = look(net, faces.crop)
        calm = faces.found & (pictures.truth == FIVE.index("Neutral"))
        speech = listen(faces.blendshapes[calm], appearance[calm])
    studio = Studio(faces, targets, fit_deformation(faces), appearance, speech=speech)
    by_kind, joined, expected = {}, [], []
    for kind in Kind:
        clips = studio.make(SEQUENCES, np.random.default_rng((seed, int(kind))), kind=kind)
        whole, mean = (
            _by_opinions(predictor, net, clips) if isinstance(net, JointNet) else _by_features(predictor, clips)
        )
        joined.append(whole)
        expected.append(clips.targets.argmax(axis=1))
        by_kind[kind.name.lower()] = (_share(whole, expected[-1]), _share(mean, expected[-1]))
    return Report(
        **_figures(probabilities, truth, found, labels),
        ece_sequences=calibration_error(np.concatenate(joined), np.concatenate(expected)),
        by_kind=by_kind,
    )


def _figures(probabilities: np.ndarray, truth: np.ndarray, found: np.ndarray, labels: tuple[str, ...]) -> dict:
    """Fields of a `Report`, of probabilities (M, C) for the M of N pictures (truth (N,)) with a face found (N,)."""
    answered = probabilities.argmax(axis=1)
    right = np.zeros(len(truth), bool)
    right[found] = answered == truth[found]
    recall = {label: float(right[truth == i].mean()) for i, label in enumerate(labels) if (truth == i).any()}
    confusion = np.zeros((len(labels), len(labels)), int)
    np.add.at(confusion, (truth[found], answered), 1)
    return {
        "labels": labels,
        "pictures": len(truth),
        "found": float(found.mean()),
        "accuracy": float(right.mean()),
        "accuracy_found": float(right[found].mean()),
        "mean_recall": float(np.mean(list(recall.values()))),
        "ece": calibration_error(probabilities, truth[found]),
        "recall": recall,
        "confusion": confusion,
    }


def _by_features(predictor: Predictor, clips: Sequences) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (B, 5) of sequences as wholes, and the mean of their moments'."""
    verdicts = predictor.predict(tracks(clips))
    whole = np.stack([verdict.probabilities for verdict in verdicts])
    return whole, np.stack([np.nanmean(verdict.moments, axis=0) for verdict in verdicts])


def _by_opinions(predictor: Predictor, net: JointNet, clips: Sequences) -> tuple[np.ndarray, np.ndarray]:
    """The same for a joint network: the sequences have opinions of appearance, but no crops."""
    card = predictor.info.card
    with torch.inference_mode():
        logits, moments = join(net, clips)
    whole = (logits / card.temperature).softmax(dim=-1).numpy()
    each = (moments / card.moment_temperature).softmax(dim=-1).numpy()
    return whole, np.stack([own[seen].mean(axis=0) for own, seen in zip(each, clips.seen, strict=True)])


def calibration_error(probabilities: np.ndarray, truth: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of probabilities (N, C) against labels (N,)."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(confidence[which == b].mean() - right[which == b].mean()) * (which == b).mean() for b in set(which)]
    return float(sum(gaps))


def still(faces: Found, row: int | np.integer) -> Features:
    """One picture's face as the predictor takes it, but without the raw landmarks."""
    return Features(
        landmarks=np.full((LANDMARKS, 3), np.nan, np.float32),
        shape=faces.shape[row],
        blendshapes=faces.blendshapes[row],
        pose=faces.pose[row],
        crop=faces.crop[row],
    )


def tracks(sequences: Sequences) -> list[list[Features | None]]:
    """Pseudo-sequences as the predictor takes them."""
    unknown = np.full((LANDMARKS, 3), np.nan, np.float32)
    return [
        [
            Features(
                landmarks=unknown,
                shape=face[: -len(BLENDSHAPES)].reshape(LANDMARKS, 3),
                blendshapes=face[-len(BLENDSHAPES) :],
                pose=np.zeros(3, np.float32),
                crop=np.zeros((CROP, CROP), np.uint8),
            )
            if visible
            else None
            for face, visible in zip(clip[:length], seen[:length], strict=True)
        ]
        for clip, seen, length in zip(sequences.faces, sequences.seen, sequences.lengths, strict=True)
    ]


def _share(probabilities: np.ndarray, truth: np.ndarray) -> float:
    return float((probabilities.argmax(axis=1) == truth).mean())
