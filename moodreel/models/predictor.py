"""People's features in, calibrated probabilities out: arrays on the outside, tensors within."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from moodreel.emotions import FIVE, SEVEN
from moodreel.errors import MoodreelError
from moodreel.faces.features import FaceFeatures
from moodreel.models.model_card import ModelCard
from moodreel.models.networks.base import FaceNetwork, Track, TrackLogits


@dataclass(frozen=True)
class ModelInfo:
    """Which model answers.

    labels: in the order of `Verdict.probabilities`, which for a model of those labels is `moodreel.emotions.FIVE` or
        `SEVEN` whatever order its checkpoint has.
    sha256: of the weights file.
    card: all of its model.json.
    """

    name: str
    version: str
    sha256: str
    architecture: str
    labels: tuple[str, ...]
    card: ModelCard


def label_probabilities(labels: Sequence[str], probabilities: np.ndarray) -> dict[str, float]:
    """Map each of C labels to its probability, from an array of shape (C,)."""
    return {label: float(probability) for label, probability in zip(labels, probabilities, strict=True)}


@dataclass(frozen=True, eq=False)
class TrackPrediction:
    """What a model says of one person in one clip, in the order of `ModelInfo.labels`.

    probabilities: float32 (C,), adding up to 1, calibrated by the card's temperature, then scaled where it says so.
    moments: float32 (T, C), each moment by itself; NaN rows where there is no face, and everywhere when moments were
        not asked for.
    weights: float32 (T,), adding up to 1: how far each moment decided; 0 where there is no face.
    """

    probabilities: np.ndarray
    per_frame: np.ndarray
    weights: np.ndarray


class FacePredictor:
    """One loaded model. Safe to use from any number of threads: it is never changed after it is made."""

    def __init__(self, network: FaceNetwork, card: ModelCard, *, sha256: str, device: str = "cpu") -> None:
        self.network = network.eval()
        # Convolutions over images are a sixth faster in this memory format; torch's stubs do not know the argument.
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._card = card
        labels = next((known for known in (FIVE, SEVEN) if set(known) == set(card.labels)), card.labels)
        self._scales = label_scales(card, labels)
        self._order = [card.labels.index(label) for label in labels]
        self.info = ModelInfo(
            name=card.name,
            version=card.version,
            sha256=sha256,
            architecture=card.architecture,
            labels=tuple(labels),
            card=card,
        )

    @property
    def requires_rgb_crop(self) -> bool:
        """Whether the features that it reads need `Features.portrait`."""
        return self.network.requires_rgb_crop

    def predict(self, tracks: Sequence[Track], *, per_frame: bool = True) -> list[TrackPrediction]:
        """Say what each person showed, all of them in one batch.

        tracks: for each person, features at T >= 1 equally spaced times, None where the face was not seen.
        moments: whether to work out `Verdict.moments` too.
        Raises ValueError for a track without any face.
        """
        if not tracks:
            return []
        if any(all(features is None for features in track) for track in tracks):
            raise ValueError("A track needs at least one face.")
        with torch.inference_mode():
            answers = self.network.forward_tracks(tracks, per_frame=per_frame)
            return [self._verdict(track, answer) for track, answer in zip(tracks, answers, strict=True)]

    def embed_faces(self, faces: Sequence[FaceFeatures]) -> list[Any]:
        """Read faces of live video each by itself; what comes out is for `conclude`, and may be kept for seconds."""
        if not faces:
            return []
        with torch.inference_mode():
            return self.network.embed_faces(faces)

    def classify_windows(self, windows: Sequence[Sequence[Any | None]]) -> list[np.ndarray]:
        """Say what people show now, in the light of their last seconds: calibrated probabilities (C,) of each.

        windows: for each person, what `observe` gave at equally spaced moments, five a second as the networks learnt
        it, None where the face was not seen. The last moment is now, and was seen.
        """
        if not windows:
            return []
        with torch.inference_mode():
            return list(self._calibrated(self.network.classify_windows(windows), self._card.temperature))

    def _verdict(self, track: Track, answer: TrackLogits) -> TrackPrediction:
        by_moment = np.full((len(track), len(self._order)), np.nan, np.float32)
        if answer.per_frame is not None:
            seen = [features is not None for features in track]
            by_moment[seen] = self._calibrated(answer.per_frame, self._card.moment_temperature)[seen]
        return TrackPrediction(
            probabilities=self._calibrated(answer.logits, self._card.temperature),
            per_frame=by_moment,
            weights=answer.weights.cpu().numpy(),
        )

    def _calibrated(self, logits: torch.Tensor, temperature: float) -> np.ndarray:
        return calibrate(logits[..., self._order], temperature, self._scales)


def label_scales(card: ModelCard, labels: Sequence[str]) -> np.ndarray | None:
    """Give the scales of a card, float32 (C,) in the order of `labels`; None where it has none."""
    return np.array([card.scales.get(label, 1.0) for label in labels], np.float32) if card.scales else None


def calibrate(logits: torch.Tensor, temperature: float, scales: np.ndarray | None) -> np.ndarray:
    """Turn logits (..., C) into calibrated probabilities, float32 (..., C), that add up to 1."""
    probabilities = (logits.float() / temperature).softmax(dim=-1).cpu().numpy()
    if scales is None:
        return probabilities
    scaled = probabilities * scales
    return scaled / scaled.sum(axis=-1, keepdims=True)


def resolve_device(use_gpu: str) -> str:
    """Turn USE_GPU ("auto", "0" or "1") into a torch device. Raises MoodreelError for "1" where there is no GPU."""
    if use_gpu not in ("auto", "0", "1"):
        raise MoodreelError(f"USE_GPU is auto, 0 or 1, not {use_gpu!r}.")
    available = use_gpu != "0" and torch.cuda.is_available()
    if use_gpu == "1" and not available:
        raise MoodreelError(
            "USE_GPU is 1, but torch sees no GPU here; set USE_GPU=auto, or install a CUDA build of torch."
        )
    return "cuda" if available else "cpu"
