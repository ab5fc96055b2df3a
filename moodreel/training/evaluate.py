"""Measure a model on FER+ pictures and on pseudo-sequences made from them, by the predictor that serves."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moodreel.emotions import FIVE
from moodreel.errors import MoodreelError
from moodreel.faces import BLENDSHAPES, LANDMARKS
from moodreel.features import Features
from moodreel.models.predictor import Predictor
from moodreel.training.faces import Found, find_all
from moodreel.training.ferplus import read_split
from moodreel.training.sequences import Kind, Sequences, Studio, fit_deformation

SEQUENCES = 400
"""Pseudo-sequences of each kind."""


@dataclass(frozen=True, eq=False)
class Report:
    """Shares are 0 to 1.

    pictures: how many with a majority over half. found: share of them with a face found.
    accuracy, mean_recall: a picture without a found face counts as wrong. accuracy_found: of those with one.
    ece: expected calibration error over 15 bins of equal width (Guo et al. 2017), pictures with a face.
    recall: by label. confusion: int (5, 5), rows true, columns answered, in the order of FIVE, pictures with a face.
    ece_sequences: the same of the pseudo-sequences, all kinds together.
    by_kind: for each kind of pseudo-sequence, the share right, and the share that the mean of its moments gets right.
    """

    pictures: int
    found: float
    accuracy: float
    accuracy_found: float
    mean_recall: float
    ece: float
    ece_sequences: float
    recall: dict[str, float]
    confusion: np.ndarray
    by_kind: dict[str, tuple[float, float]]


def evaluate(
    predictor: Predictor, data: Path, landmarker: Path, cache: Path, *, split: str = "valid", seed: int = 0
) -> Report:
    """Measure a five-label model on the pictures of a split that have a majority over half.

    Raises MoodreelError for a model with other labels, or one that reads raw landmarks, which are not kept.
    """
    if predictor.info.labels != FIVE or predictor.info.architecture == "emotimesh":
        raise MoodreelError("Only five-label models that read pose-normalised faces can be evaluated; choose another.")
    pictures = read_split(data, split)
    faces = find_all(pictures.images, landmarker, cache, seed=seed)
    judged = pictures.truth >= 0
    truth, found = pictures.truth[judged], faces.found[judged]
    shown = [[still(faces, row)] for row in np.flatnonzero(judged & faces.found)]
    probabilities = np.stack([verdict.probabilities for verdict in predictor.predict(shown, moments=False)])
    right = np.zeros(len(truth), bool)
    right[found] = probabilities.argmax(axis=1) == truth[found]
    recall = {label: float(right[truth == i].mean()) for i, label in enumerate(FIVE)}
    confusion = np.zeros((5, 5), int)
    np.add.at(confusion, (truth[found], probabilities.argmax(axis=1)), 1)
    targets = np.zeros((len(pictures.truth), 5), np.float32)
    targets[judged, pictures.truth[judged]] = 1
    studio = Studio(faces, targets, fit_deformation(faces))
    by_kind, joined, expected = {}, [], []
    for kind in Kind:
        clips = studio.make(SEQUENCES, np.random.default_rng((seed, int(kind))), kind=kind)
        verdicts = predictor.predict(tracks(clips))
        joined.append(np.stack([verdict.probabilities for verdict in verdicts]))
        expected.append(clips.targets.argmax(axis=1))
        mean = np.stack([np.nanmean(verdict.moments, axis=0) for verdict in verdicts])
        by_kind[kind.name.lower()] = (_share(joined[-1], expected[-1]), _share(mean, expected[-1]))
    return Report(
        pictures=len(truth),
        found=float(found.mean()),
        accuracy=float(right.mean()),
        accuracy_found=float(right[found].mean()),
        mean_recall=float(np.mean(list(recall.values()))),
        ece=calibration_error(probabilities, truth[found]),
        recall=recall,
        confusion=confusion,
        ece_sequences=calibration_error(np.concatenate(joined), np.concatenate(expected)),
        by_kind=by_kind,
    )


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
            )
            if visible
            else None
            for face, visible in zip(clip[:length], seen[:length], strict=True)
        ]
        for clip, seen, length in zip(sequences.faces, sequences.seen, sequences.lengths, strict=True)
    ]


def _share(probabilities: np.ndarray, truth: np.ndarray) -> float:
    return float((probabilities.argmax(axis=1) == truth).mean())
