"""Evaluate a face model on pseudo-sequences, made from the faces of single images."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moodreel.emotions import FIVE
from moodreel.faces.features import CROP_SIDE, FaceFeatures
from moodreel.faces.landmarker import BLENDSHAPES, NUM_LANDMARKS
from moodreel.models.predictor import FacePredictor
from moodreel.training.augmentation.pseudo_sequences import (
    PseudoSequenceGenerator,
    SequenceBatch,
    SequenceKind,
    fit_deformation,
)
from moodreel.training.data.face_cache import FaceTable
from moodreel.training.evaluation.calibration import expected_calibration_error

SEED, SEQUENCES = 0, 400
"""The seed, and the number of pseudo-sequences of each kind."""


class SequenceAccuracy(NamedTuple):
    """Accuracy of the model on sequences, and of the mean of its per-frame predictions."""

    model: float
    frame_mean: float


@dataclass(frozen=True)
class SequenceMetrics:
    """Calibration error on all pseudo-sequences together, and accuracy on each kind, by its name in lower case."""

    ece: float
    by_kind: dict[str, SequenceAccuracy]


def evaluate_sequences(predictor: FacePredictor, faces: FaceTable, truth: np.ndarray) -> SequenceMetrics:
    """Evaluate a model of five labels on pseudo-sequences made from faces; truth: (N,), -1 for no label."""
    targets = np.zeros((len(truth), len(FIVE)), np.float32)
    targets[truth >= 0, truth[truth >= 0]] = 1
    generator = PseudoSequenceGenerator(faces, targets, fit_deformation(faces))
    by_kind, probabilities, labels = {}, [], []
    for kind in SequenceKind:
        clips = generator.generate(SEQUENCES, np.random.default_rng((SEED, int(kind))), kind=kind)
        predictions = predictor.predict(to_tracks(clips))
        whole = np.stack([prediction.probabilities for prediction in predictions])
        frame_mean = np.stack([np.nanmean(prediction.per_frame, axis=0) for prediction in predictions])
        probabilities.append(whole)
        labels.append(clips.targets.argmax(axis=1))
        accuracies = [float((each.argmax(axis=1) == labels[-1]).mean()) for each in (whole, frame_mean)]
        by_kind[kind.name.lower()] = SequenceAccuracy(*accuracies)
    return SequenceMetrics(expected_calibration_error(np.concatenate(probabilities), np.concatenate(labels)), by_kind)


def to_tracks(sequences: SequenceBatch) -> list[list[FaceFeatures | None]]:
    """Return pseudo-sequences in the predictor's format."""
    unknown = np.full((NUM_LANDMARKS, 3), np.nan, np.float32)
    return [
        [
            FaceFeatures(
                landmarks=unknown,
                normalized_landmarks=face[: -len(BLENDSHAPES)].reshape(NUM_LANDMARKS, 3),
                blendshapes=face[-len(BLENDSHAPES) :],
                pose=np.zeros(3, np.float32),
                crop=np.zeros((CROP_SIDE, CROP_SIDE), np.uint8),
            )
            if visible
            else None
            for face, visible in zip(clip[:length], seen[:length], strict=True)
        ]
        for clip, seen, length in zip(sequences.features, sequences.face_mask, sequences.lengths, strict=True)
    ]
