"""Data sets as networks for faces read them: aligned crops, RGB squares, or tracks of a face."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from moodreel.faces.features import FaceFeatures
from moodreel.models.networks.base import FaceNetwork
from moodreel.training.augmentation.image import augment_crop, augment_crops, augment_face_square
from moodreel.training.data.images import Images
from moodreel.training.engine.schedule import Phase
from moodreel.training.experiment.classification import InputAdapter


class CropInputs(InputAdapter):
    """Aligned crops, uint8 (N, 48, 48), for a `MultiHeadFaceNet` with one head."""

    def __init__(self, crops: np.ndarray, *, clean_prob: float = 0.3) -> None:
        self.crops, self.clean_prob = torch.from_numpy(crops), clean_prob

    def __len__(self) -> int:
        return len(self.crops)

    def setup(self, device: torch.device) -> None:
        """Put all crops on the device, where they are augmented."""
        self.crops = self.crops.to(device)

    def batch(self, rows: np.ndarray, rng: np.random.Generator | None, phase: Phase | None = None) -> torch.Tensor:
        """Return the inputs of some examples, augmented if there is an `rng`."""
        crops = self.crops[torch.from_numpy(rows)]
        return crops if rng is None else augment_crops(crops, rng, clean_prob=self.clean_prob)

    def mixup(self, inputs: torch.Tensor, order: np.ndarray, weight: float) -> torch.Tensor:
        """Mix each input with another one of the batch."""
        return inputs.float().lerp(inputs[torch.from_numpy(order)].float(), 1 - weight)

    def forward(self, network: nn.Module, inputs: torch.Tensor, phase: Phase | None = None) -> torch.Tensor:
        """Return the network's logits (B, C)."""
        logits: torch.Tensor = network(inputs.to(_device(network)))
        return logits[:, 0]


class PortraitInputs(CropInputs):
    """Squares around faces, uint8 (S, S, 3) RGB or (S, S) gray, resized to `side` pixels."""

    def __init__(self, portraits: Images, *, side: int) -> None:
        self.portraits, self.side = portraits, side

    def __len__(self) -> int:
        return len(self.portraits)

    def setup(self, device: torch.device) -> None:
        """Leave the images where they are: they are augmented on the CPU."""

    def batch(self, rows: np.ndarray, rng: np.random.Generator | None, phase: Phase | None = None) -> torch.Tensor:
        """Return the inputs of some examples, augmented if there is an `rng`."""
        return torch.from_numpy(np.stack([augment_face_square(self.portraits[row], self.side, rng) for row in rows]))


class TrackInputs(InputAdapter):
    """People's faces over time, for networks that classify tracks.

    Attributes:
        tracks: N tracks, with None for frames without a face.
        noise: Standard deviation of the noise on landmarks, in centimeters.
        drop_frames: The fraction of frames that lose their face in training.
    """

    supports_mixup = False  # two people's faces over time have no mean

    def __init__(
        self, tracks: Sequence[Sequence[FaceFeatures | None]], *, noise: float = 0.05, drop_frames: float = 0.1
    ) -> None:
        self.tracks, self.noise, self.drop_frames = tracks, noise, drop_frames

    def __len__(self) -> int:
        return len(self.tracks)

    def batch(
        self, rows: np.ndarray, rng: np.random.Generator | None, phase: Phase | None = None
    ) -> list[list[FaceFeatures | None]]:
        """Return the inputs of some examples, augmented if there is an `rng`."""
        chosen = [list(self.tracks[row]) for row in rows]
        return chosen if rng is None else [self._augment(track, rng) for track in chosen]

    def _augment(self, track: list[FaceFeatures | None], rng: np.random.Generator) -> list[FaceFeatures | None]:
        """Return two thirds of a track or more, with noise, dropped frames and one augmentation of all crops."""
        length = int(rng.integers(-(-2 * len(track) // 3), len(track) + 1))
        start = int(rng.integers(0, len(track) - length + 1))
        part = track[start : start + length]
        part = part if any(part) else track
        faces = [i for i, face in enumerate(part) if face is not None]
        dropped = set(rng.permutation(faces)[: int(self.drop_frames * len(faces) * 2 * rng.random())].tolist())
        seed = int(rng.integers(2**31))
        return [None if i in dropped or face is None else self._jitter(face, rng, seed) for i, face in enumerate(part)]

    def _jitter(self, face: FaceFeatures, rng: np.random.Generator, seed: int) -> FaceFeatures:
        return replace(
            face,
            normalized_landmarks=face.normalized_landmarks
            + rng.normal(0, self.noise, face.normalized_landmarks.shape).astype(np.float32),
            crop=augment_crop(face.crop, np.random.default_rng(seed)),
        )

    def forward(self, network: nn.Module, inputs: Any, phase: Phase | None = None) -> torch.Tensor:
        """Return the network's logits (B, C)."""
        assert isinstance(network, FaceNetwork)
        return torch.stack([track.logits for track in network.forward_tracks(inputs, per_frame=False)])


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
