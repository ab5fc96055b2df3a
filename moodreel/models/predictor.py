"""Turn face features into calibrated probabilities: NumPy arrays outside, tensors inside."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from moodreel.emotions import FIVE, SEVEN
from moodreel.errors import MoodreelError
from moodreel.faces.features import CropKind, FaceFeatures
from moodreel.faces.quality import MIN_CONFIDENCE
from moodreel.models.model_card import BALANCED, DIARY, ModelCard, Prior
from moodreel.models.networks.base import EmbeddingSequence, FaceNetwork, Track, TrackLogits


@dataclass(frozen=True)
class ModelInfo:
    """Identity of a loaded model.

    Attributes:
        name: As in its card.
        version: As in its card.
        sha256: Of the weights file.
        architecture: As in its card.
        labels: In the order of the predictor's probabilities. That is the order of the label set in `moodreel.emotions`
            with the same labels, where there is one, and the card's otherwise.
        card: The whole model.json.
    """

    name: str
    version: str
    sha256: str
    architecture: str
    labels: tuple[str, ...]
    card: ModelCard

    @classmethod
    def of(cls, card: ModelCard, labels: Sequence[str], *, sha256: str) -> "ModelInfo":
        """Make the identity of the model with this card."""
        return cls(
            name=card.name,
            version=card.version,
            sha256=sha256,
            architecture=card.architecture,
            labels=tuple(labels),
            card=card,
        )


def label_probabilities(labels: Sequence[str], probabilities: np.ndarray) -> dict[str, float]:
    """Map each of C labels to its probability, from an array of shape (C,)."""
    return {label: float(probability) for label, probability in zip(labels, probabilities, strict=True)}


@dataclass(frozen=True, eq=False)
class TrackPrediction:
    """Prediction for one person in one clip, labels in the order of `ModelInfo.labels`.

    Attributes:
        probabilities: float32 (C,), calibrated, adding up to 1.
        per_frame: float32 (T, C), for each frame by itself; NaN rows where there is no face, or if not requested.
        weights: float32 (T,), share of each frame in `probabilities`, adding up to 1; 0 where there is no face.
    """

    probabilities: np.ndarray
    per_frame: np.ndarray
    weights: np.ndarray


class FacePredictor:
    """A loaded model that reads faces. Immutable, so safe to use from any number of threads.

    Attributes:
        network: The network, in eval mode.
        info: Which model it is.
        certain_from: Confidence from which a prediction counts as certain, 0 to 1.
    """

    def __init__(
        self, network: FaceNetwork, card: ModelCard, *, sha256: str, device: str = "cpu", prior: str = DIARY
    ) -> None:
        """Wrap a network with its weights.

        Args:
            network: Its outputs are in the order of the card's labels.
            card: The labels and the calibration.
            sha256: Of the weights file.
            device: Torch device to compute on.
            prior: One of `PRIORS`; makes no difference to a model whose card has no priors.
        """
        self.network = network.eval()
        # Convolutions over images are a sixth faster in this memory format; torch's stubs do not know the argument.
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        labels = next((known for known in (FIVE, SEVEN) if set(known) == set(card.labels)), card.labels)
        self._scales = label_scales(card, labels)
        self._order = [card.labels.index(label) for label in labels]
        self.info = ModelInfo.of(card, labels, sha256=sha256)
        self._prior = card.priors.get(prior) or Prior({}, card.temperature, card.moment_temperature, MIN_CONFIDENCE)
        # Cards without priors were fitted with one temperature for clips and pictures.
        self._picture_prior = card.priors.get(BALANCED) or replace(self._prior, moment_temperature=card.temperature)
        self.certain_from = self._prior.certain_from

    @property
    def crop_kind(self) -> CropKind:
        """Kind of `FaceFeatures.crop` that the model reads, if it reads any."""
        return self.network.crop_kind

    def predict(self, tracks: Sequence[Track], *, per_frame: bool = True) -> list[TrackPrediction]:
        """Predict what each person showed, all of them in one batch.

        Args:
            tracks: For each person, features in T >= 1 equally spaced frames, None where the face was not found.
            per_frame: Whether to compute `TrackPrediction.per_frame` too.

        Raises:
            ValueError: A track has no face.
        """
        if not tracks:
            return []
        if any(all(face is None for face in track) for track in tracks):
            raise ValueError("A track needs at least one face.")
        with torch.inference_mode():
            outputs = self.network.forward_tracks(tracks, per_frame=per_frame)
            return [self._to_prediction(track, output) for track, output in zip(tracks, outputs, strict=True)]

    def embed_faces(self, faces: Sequence[FaceFeatures]) -> list[torch.Tensor]:
        """Compute the embedding of each face of live video, for `classify_windows`."""
        if not faces:
            return []
        with torch.inference_mode():
            return self.network.embed_faces(faces)

    def classify_windows(self, windows: Sequence[EmbeddingSequence]) -> list[np.ndarray]:
        """Classify the last frame of each window.

        Args:
            windows: For each person, embeddings of `embed_faces` in equally spaced frames, five a second as in
                training, None where the face was not found. The last frame has a face.

        Returns:
            Calibrated probabilities, float32 (C,), of each window.
        """
        if not windows:
            return []
        with torch.inference_mode():
            logits = self.network.classify_windows(windows)
            return [
                self._calibrate_clip(row) if len(window) > 1 else self._calibrate_picture(row)
                for row, window in zip(logits, windows, strict=True)
            ]

    def _to_prediction(self, track: Track, output: TrackLogits) -> TrackPrediction:
        per_frame = np.full((len(track), len(self._order)), np.nan, np.float32)
        if output.per_frame is not None:
            mask = [face is not None for face in track]
            per_frame[mask] = self._calibrate(output.per_frame, self._prior, self._prior.moment_temperature)[mask]
        calibrate_track = self._calibrate_clip if len(track) > 1 else self._calibrate_picture
        return TrackPrediction(calibrate_track(output.logits), per_frame, output.weights.cpu().numpy())

    def _calibrate_clip(self, logits: torch.Tensor) -> np.ndarray:
        return self._calibrate(logits, self._prior, self._prior.temperature)

    def _calibrate_picture(self, logits: torch.Tensor) -> np.ndarray:
        return self._calibrate(logits, self._picture_prior, self._picture_prior.moment_temperature)

    def _calibrate(self, logits: torch.Tensor, prior: Prior, temperature: float) -> np.ndarray:
        offsets = torch.tensor([prior.offsets.get(label, 0.0) for label in self.info.labels], device=logits.device)
        return calibrate(logits[..., self._order] + offsets, temperature, self._scales)


def label_scales(card: ModelCard, labels: Sequence[str]) -> np.ndarray | None:
    """Return the scales of a card, float32 (C,) in the order of `labels`; None where it has none."""
    return np.array([card.scales.get(label, 1.0) for label in labels], np.float32) if card.scales else None


def calibrate(logits: torch.Tensor, temperature: float | torch.Tensor, scales: np.ndarray | None) -> np.ndarray:
    """Turn logits into probabilities: divide by the temperature, apply softmax, multiply by the scales.

    Args:
        logits: (..., C).
        temperature: Above 0; one number, or a tensor that broadcasts to the logits.
        scales: float32 (C,), or None.

    Returns:
        float32 (..., C), adding up to 1.
    """
    probabilities: np.ndarray = (logits.float() / temperature).softmax(dim=-1).cpu().numpy()
    if scales is None:
        return probabilities
    probabilities = probabilities * scales
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    return probabilities


def resolve_device(use_gpu: str) -> str:
    """Return the torch device that USE_GPU ("auto", "0" or "1") selects.

    Raises:
        MoodreelError: The value is another one, or is "1" and torch sees neither CUDA nor MPS.
    """
    if use_gpu not in ("auto", "0", "1"):
        raise MoodreelError(f"USE_GPU is auto, 0 or 1, not {use_gpu!r}.")
    if use_gpu != "0":
        for name, is_available in (("cuda", torch.cuda.is_available), ("mps", torch.backends.mps.is_available)):
            if is_available():
                return name
    if use_gpu == "1":
        raise MoodreelError(
            "USE_GPU is 1, but torch sees no GPU here; set USE_GPU=auto, or install a CUDA build of torch."
        )
    return "cpu"
