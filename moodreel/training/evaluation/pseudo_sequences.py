"""Evaluate a face model on pseudo-sequences, which are made from the faces of single images."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from moodreel.emotions import FIVE
from moodreel.faces.features import CROP_SIDE, FaceFeatures
from moodreel.faces.landmarker import BLENDSHAPES, NUM_LANDMARKS
from moodreel.models.networks.two_stream import TwoStreamNet
from moodreel.models.predictor import FacePredictor
from moodreel.training.augmentation.pseudo_sequences import (
    PseudoSequenceGenerator,
    SequenceBatch,
    SequenceKind,
    fit_deformation,
    speech_offsets,
)
from moodreel.training.data.face_cache import FaceTable
from moodreel.training.evaluation.calibration import expected_calibration_error

SEQUENCES = 400
"""Pseudo-sequences of each kind."""


class SequenceAccuracy(NamedTuple):
    """Accuracy of the model on sequences, and of the mean of its per-frame predictions."""

    model: float
    frame_mean: float


@dataclass(frozen=True)
class SequenceMetrics:
    """Calibration error on all pseudo-sequences together, and accuracy on each kind, by its name in lower case."""

    ece: float
    by_kind: dict[str, SequenceAccuracy]


def evaluate_sequences(predictor: FacePredictor, faces: FaceTable, truth: np.ndarray, seed: int) -> SequenceMetrics:
    """Evaluate a model of five labels on pseudo-sequences made from faces; truth: (N,), -1 for no label."""
    targets = np.zeros((len(truth), len(FIVE)), np.float32)
    targets[truth >= 0, truth[truth >= 0]] = 1
    network = predictor.network
    appearance = speech = None
    if isinstance(network, TwoStreamNet):
        appearance = appearance_logits(network, faces.crops)
        neutral = faces.found & (truth == FIVE.index("Neutral"))
        speech = speech_offsets(faces.blendshapes[neutral], appearance[neutral])
    studio = PseudoSequenceGenerator(faces, targets, fit_deformation(faces), appearance, speech=speech)
    by_kind, probabilities, labels = {}, [], []
    for kind in SequenceKind:
        clips = studio.generate(SEQUENCES, np.random.default_rng((seed, int(kind))), kind=kind)
        joined, frame_mean = _predict(predictor, clips)
        probabilities.append(joined)
        labels.append(clips.targets.argmax(axis=1))
        accuracies = [float((each.argmax(axis=1) == labels[-1]).mean()) for each in (joined, frame_mean)]
        by_kind[kind.name.lower()] = SequenceAccuracy(*accuracies)
    return SequenceMetrics(expected_calibration_error(np.concatenate(probabilities), np.concatenate(labels)), by_kind)


def to_tracks(sequences: SequenceBatch) -> list[list[FaceFeatures | None]]:
    """Return pseudo-sequences as the predictor takes them."""
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


def appearance_logits(network: TwoStreamNet, crops: np.ndarray) -> np.ndarray:
    """Return the logits of the appearance stream for crops, uint8 (N, 48, 48): float32 (N, heads x labels)."""
    device = next(network.parameters()).device
    with torch.inference_mode():
        return network.appearance.predict_batched(torch.from_numpy(crops).to(device)).flatten(1).cpu().numpy()


def sequence_logits(network: TwoStreamNet, clips: SequenceBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of sequences (B, 5), and of their frames (B, T, 5), on the network's device."""
    device = next(network.parameters()).device
    seen, appearance, faces, lengths = (
        torch.from_numpy(array).to(device)
        for array in (clips.face_mask, clips.appearance, clips.features, clips.lengths)
    )
    streams = torch.zeros(*seen.shape, 2, len(FIVE), device=device)
    with torch.no_grad():
        streams[seen] = network.stream_log_probs(appearance[seen], faces[seen])
    logits, _ = network.temporal_pool(streams, appearance, faces, seen, lengths)
    return logits, network.frame_logits(streams)


def _predict(predictor: FacePredictor, clips: SequenceBatch) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities (B, 5) of sequences, and the mean of those of their frames."""
    if not isinstance(predictor.network, TwoStreamNet):
        predictions = predictor.predict(to_tracks(clips))
        frame_means = [np.nanmean(prediction.per_frame, axis=0) for prediction in predictions]
        return np.stack([prediction.probabilities for prediction in predictions]), np.stack(frame_means)
    # A two-stream network is given the logits of its appearance stream: the sequences have no crops.
    with torch.inference_mode():
        logits, frame_logits = sequence_logits(predictor.network, clips)
    joined, per_frame = (
        predictor.calibrate_clip(logits, frame_logits.shape[1]),
        predictor.calibrate_frames(frame_logits),
    )
    return joined, np.stack(
        [frames[seen].mean(axis=0) for frames, seen in zip(per_frame, clips.face_mask, strict=True)]
    )
