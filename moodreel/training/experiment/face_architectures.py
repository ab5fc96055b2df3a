"""Adapters of the architectures that read faces, and their inputs: aligned crops, RGB squares, or tracks of a face."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from moodreel.errors import DataInvalid
from moodreel.faces.features import SQUARE_SIDE, CropKind, FaceFeatures
from moodreel.models.checkpoint import file_sha256
from moodreel.models.face_registry import ARCHITECTURES
from moodreel.models.huggingface.image import HF_WEIGHTS_FILE, HuggingFaceNet
from moodreel.models.huggingface.pretrained import build_pretrained, save_pretrained
from moodreel.models.networks.base import FaceNetwork
from moodreel.models.networks.compact_emotimesh import CompactEmotiMeshNet, to_input
from moodreel.models.networks.efficientnet_lite import EfficientNetLiteNet
from moodreel.training.augmentation.image import augment_crop, augment_crops, augment_face_square
from moodreel.training.data.clip_cache import load_tracks
from moodreel.training.data.dataset import CLIPS, IMAGES, Dataset
from moodreel.training.data.face_cache import crop_image
from moodreel.training.data.images import Images, ImageSequence
from moodreel.training.data.loading import load_face_crops
from moodreel.training.engine.schedule import Phase
from moodreel.training.evaluation.predict import single_frame
from moodreel.training.experiment.adapter import ArchitectureAdapter, ClassificationRequest, checked_build
from moodreel.training.experiment.classification import InputAdapter
from moodreel.training.experiment.efficientnet_init import load_pretrained
from moodreel.training.export.model_folder import write_json

LANDMARK_NOISE = 0.05
"""Standard deviation of the noise on normalized landmarks in training, in centimeters. Networks that read raw landmarks
or crops are not affected."""
DROPPED_FRAMES = 0.1
"""Mean fraction of a track's frames that lose their face in training."""


class CropInputs(InputAdapter):
    """Aligned crops, uint8 (N, 48, 48) or (N, 96, 96, 3), for a `MultiHeadFaceNet` with one head."""

    def __init__(self, crops: np.ndarray, *, clean_prob: float) -> None:
        self.crops, self.clean_prob = crops, clean_prob

    def batch(self, rows: np.ndarray, rng: np.random.Generator | None) -> torch.Tensor:
        """Return the inputs of some examples, augmented if there is an `rng`."""
        crops = self.crops[rows]
        return torch.from_numpy(crops if rng is None else augment_crops(crops, rng, clean_prob=self.clean_prob))

    def mixup(self, inputs: torch.Tensor, order: np.ndarray, weight: float) -> torch.Tensor:
        """Mix each input with another one of the batch."""
        return inputs.float().lerp(inputs[torch.from_numpy(order)].float(), 1 - weight)

    def forward(self, network: nn.Module, inputs: torch.Tensor, phase: Phase | None = None) -> torch.Tensor:
        """Return the network's logits (B, C)."""
        logits: torch.Tensor = network(inputs.to(next(network.parameters()).device))
        return logits[:, 0]


class PortraitInputs(CropInputs):
    """Squares around faces, uint8 (S, S, 3) RGB or (S, S) gray, resized to `side` pixels."""

    def __init__(self, portraits: Images, *, side: int) -> None:
        self.portraits, self.side = portraits, side

    def batch(self, rows: np.ndarray, rng: np.random.Generator | None) -> torch.Tensor:
        """Return the inputs of some examples, augmented if there is an `rng`."""
        return torch.from_numpy(np.stack([augment_face_square(self.portraits[row], self.side, rng) for row in rows]))


class TrackInputs(InputAdapter):
    """People's faces over time, for networks that classify tracks.

    Attributes:
        tracks: N tracks, with None for frames without a face.
    """

    supports_mixup = False  # the faces of two tracks cannot be averaged

    def __init__(self, tracks: Sequence[Sequence[FaceFeatures | None]]) -> None:
        self.tracks = tracks

    def batch(self, rows: np.ndarray, rng: np.random.Generator | None) -> list[list[FaceFeatures | None]]:
        """Return the inputs of some examples, augmented if there is an `rng`."""
        chosen = [list(self.tracks[row]) for row in rows]
        return chosen if rng is None else [self._augment(track, rng) for track in chosen]

    def _augment(self, track: list[FaceFeatures | None], rng: np.random.Generator) -> list[FaceFeatures | None]:
        """Return two thirds or more of a track, with noise, dropped frames and one augmentation for all crops."""
        length = int(rng.integers(-(-2 * len(track) // 3), len(track) + 1))
        start = int(rng.integers(0, len(track) - length + 1))
        part = track[start : start + length]
        part = part if any(part) else track
        faces = [i for i, face in enumerate(part) if face is not None]
        dropped = set(rng.permutation(faces)[: int(DROPPED_FRAMES * len(faces) * 2 * rng.random())].tolist())
        seed = int(rng.integers(2**31))
        return [None if i in dropped or face is None else self._jitter(face, rng, seed) for i, face in enumerate(part)]

    def _jitter(self, face: FaceFeatures, rng: np.random.Generator, seed: int) -> FaceFeatures:
        return replace(
            face,
            normalized_landmarks=face.normalized_landmarks
            + rng.normal(0, LANDMARK_NOISE, face.normalized_landmarks.shape).astype(np.float32),
            crop=augment_crop(face.crop, np.random.default_rng(seed)),
        )

    def forward(self, network: nn.Module, inputs: Any, phase: Phase | None = None) -> torch.Tensor:
        """Return the network's logits (B, C)."""
        assert isinstance(network, FaceNetwork)
        return torch.stack([track.logits for track in network.forward_tracks(inputs, per_frame=False)])

    def init_statistics(self, network: nn.Module, rows: np.ndarray) -> None:
        """Set the network's input normalization from the training rows."""
        if isinstance(network, CompactEmotiMeshNet):
            faces = np.stack([to_input(face) for row in rows for face in self.tracks[row] if face is not None])
            network.mean.copy_(torch.from_numpy(faces.mean(axis=0)))
            network.std.copy_(torch.from_numpy(faces.std(axis=0)).clamp_min(1e-3))


class FaceAdapter(ArchitectureAdapter):
    """Networks of `ARCHITECTURES`, trained from scratch."""

    def build(self, labels: tuple[str, ...], arguments: Mapping[str, Any], pretrained: Path | None) -> nn.Module:
        """Build a network with its initial weights."""
        if pretrained:
            raise DataInvalid(f"{self.name} is trained from scratch; omit --pretrained.")
        return checked_build(self.name, ARCHITECTURES[self.name], classes=len(labels), **self.arguments(arguments))


class CropAdapter(FaceAdapter):
    """Networks that read single aligned crops (`MultiHeadFaceNet`), with one head."""

    media = (IMAGES,)
    input_description = "the aligned crop of a face (moodreel.faces.features.align_crop)"

    def load_inputs(self, data: Dataset, request: ClassificationRequest) -> tuple[InputAdapter, np.ndarray]:
        """Load the examples of a data set."""
        images, clean_prob = ImageSequence(data.examples), request.config.clean_prob
        kind = ARCHITECTURES[self.name].crop_kind
        if kind is CropKind.GRAY:
            # Where no face is found, the crop is the whole image, which is good enough to train on.
            crops = request.context.extract_faces(images).crops
            return CropInputs(crops, clean_prob=clean_prob), np.ones(len(data.examples), bool)
        faces = request.context.extract_faces(images)
        crops = np.stack([crop_image(images[row], points, kind) for row, points in enumerate(faces.landmarks)])
        return CropInputs(crops, clean_prob=clean_prob), faces.found

    def build(self, labels: tuple[str, ...], arguments: Mapping[str, Any], pretrained: Path | None) -> nn.Module:
        """Build a network with its initial weights, or with pretrained ones if it takes them."""
        network = super().build(labels, arguments, None if self.name == "efficientnet-lite" else pretrained)
        if pretrained and isinstance(network, EfficientNetLiteNet):
            load_pretrained(network, pretrained)
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all arguments of the network except its number of classes."""
        return {"shares": [1.0], "tau": 0.0, **given}


class TrackAdapter(FaceAdapter):
    """Networks that classify a person's faces over time; an image is a track of one frame."""

    media = (IMAGES, CLIPS)
    input_description = "a person's faces over time, as moodreel.faces.features.extract_features returns them"

    def load_inputs(self, data: Dataset, request: ClassificationRequest) -> tuple[InputAdapter, np.ndarray]:
        """Load the examples of a data set."""
        if data.media == CLIPS:
            tracks = load_tracks(data.examples, request.context)
            return TrackInputs([track or [] for track in tracks]), np.array([track is not None for track in tracks])
        faces = request.context.extract_faces(ImageSequence(data.examples))
        return TrackInputs([[single_frame(faces, row)] for row in range(len(faces.found))]), faces.found


class PortraitAdapter(ArchitectureAdapter):
    """Networks of the transformers library, which read RGB face crops; written as Hugging Face folders."""

    media = (IMAGES,)
    input_description = "the square around a face, uint8 (224, 224, 3), RGB (moodreel.faces.features.crop_square)"
    normalization = "as preprocessor_config.json says"

    def load_inputs(self, data: Dataset, request: ClassificationRequest) -> tuple[InputAdapter, np.ndarray]:
        """Load the examples of a data set."""
        squares, found = load_face_crops(data.examples, request.context)
        return PortraitInputs(squares, side=SQUARE_SIDE), found

    def build(self, labels: tuple[str, ...], arguments: Mapping[str, Any], pretrained: Path | None) -> nn.Module:
        """Build a network with its initial weights."""
        return build_pretrained(self.name, labels, pretrained=pretrained, **arguments)

    def write(self, out: Path, network: nn.Module, fields: dict[str, Any], weights: str, **statement: str) -> None:
        """Write the weights and model.json."""
        assert isinstance(network, HuggingFaceNet)
        save_pretrained(out, network, weights)
        # config.json holds the architecture and its arguments.
        rest = {name: value for name, value in fields.items() if name not in ("architecture", "arguments")}
        digest = file_sha256(out / HF_WEIGHTS_FILE)
        write_json(out, {"name": out.name, "version": "1", **rest, **statement, "sha256": digest})
