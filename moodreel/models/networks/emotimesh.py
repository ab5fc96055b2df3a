"""Define EmotiMesh-Net in its original layout, so that checkpoints trained with it load unchanged."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from moodreel.faces.features import FaceFeatures
from moodreel.models.networks.base import EmbeddingSequence, FaceNetwork, Track, TrackLogits

FRAMES = 15
"""Frames that the network reads, spread over the clip."""
POINTS = 468
"""Landmarks of the mesh without the irises, which the network was not trained on."""

_BATCH = 8
"""Tracks at a time: one takes 11 MB of activations."""


class EmotiMeshNet(FaceNetwork):
    """A convolution along the landmarks of each frame, then a bidirectional LSTM over the frames; 139 M parameters.

    It reads x, y, z of 468 landmarks relative to the image, as MediaPipe gives them (1404 values), in 15 frames spread
    over the clip.
    """

    def __init__(self, *, classes: int = 5, hidden: int = 192, channels: int = 128, dropout: float = 0.25) -> None:
        """Build the network.

        Args:
            classes: Number of labels.
            hidden: Units of the LSTM, each direction.
            channels: Channels of the convolution.
            dropout: Dropout between the layers of the LSTM and before the last layer.
        """
        super().__init__()
        size = POINTS * 3
        self.input_bn = nn.BatchNorm1d(size)
        self.conv1 = nn.Conv1d(1, channels, kernel_size=7, padding=2)
        convolved = channels * ((size + 2 * 2 - 7 + 1) // 2)
        self.lstm = nn.LSTM(convolved, hidden, num_layers=2, batch_first=True, bidirectional=True, dropout=dropout)
        self.fc1 = nn.Linear(2 * hidden, hidden)
        self.bn_fc1 = nn.BatchNorm1d(hidden)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits (B, C) of landmarks (B, T, 1404)."""
        steps = self._convolve(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return self._classify(self.lstm(steps)[0][:, -1])

    def forward_static(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits (N, C) of faces (N, 1404), as `forward` does for 15 equal frames of each.

        The first layer's input product is nearly all of the work and equal in every frame, so that it is computed once.
        A second LSTM with the same weights, but an identity matrix in place of that product, does the rest.
        """
        lstm = self.lstm
        products = torch.cat([getattr(lstm, name) for name in ("weight_ih_l0", "weight_ih_l0_reverse")])
        identity = torch.eye(len(products), device=x.device)
        with torch.device(x.device):
            narrow = nn.LSTM(len(products), lstm.hidden_size, num_layers=2, batch_first=True, bidirectional=True)
        forwards, backwards = identity.chunk(2)
        narrow.load_state_dict(lstm.state_dict() | {"weight_ih_l0": forwards, "weight_ih_l0_reverse": backwards})
        steps = F.linear(self._convolve(x), products)[:, None].expand(-1, FRAMES, -1)
        return self._classify(narrow(steps)[0][:, -1])

    def forward_tracks(self, tracks: Sequence[Track], *, per_frame: bool) -> list[TrackLogits]:
        """Compute the logits of every track; all its frames with a face have equal weight."""
        device = self.fc2.weight.device
        clips = torch.from_numpy(np.stack([_sample_frames(track) for track in tracks])).to(device)
        logits = torch.cat([self(batch) for batch in clips.split(_BATCH)])
        outputs = []
        for track, track_logits in zip(tracks, logits, strict=True):
            mask = torch.tensor([face is not None for face in track], device=device)
            frame_logits = None
            if per_frame:
                faces = torch.from_numpy(np.stack([_flat(face.landmarks) for face in track if face is not None]))
                batches = faces.to(device).split(_BATCH * FRAMES)
                frame_logits = torch.zeros(len(track), len(track_logits), device=device)
                frame_logits[mask] = torch.cat([self.forward_static(batch) for batch in batches])
            outputs.append(TrackLogits(logits=track_logits, per_frame=frame_logits, weights=mask.float() / mask.sum()))
        return outputs

    def embed_faces(self, faces: Sequence[FaceFeatures]) -> list[torch.Tensor]:
        """Return the landmarks of each face, (1404,)."""
        return [torch.from_numpy(_flat(face.landmarks)).to(self.fc2.weight.device) for face in faces]

    def classify_windows(self, windows: Sequence[EmbeddingSequence]) -> torch.Tensor:
        """Compute the logits (B, C) of the last frame of each window, repeated 15 times."""
        last = torch.stack([window[-1] for window in windows if window[-1] is not None])
        logits: torch.Tensor = self(last[:, None].expand(-1, FRAMES, -1))
        return logits

    def _convolve(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve faces (N, 1404) to (N, channels * 701)."""
        return F.max_pool1d(F.relu(self.conv1(self.input_bn(x)[:, None])), 2).flatten(1)

    def _classify(self, last: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc2(self.dropout(F.relu(self.bn_fc1(self.fc1(last)))))
        return logits


def _sample_frames(track: Track) -> np.ndarray:
    """Return the landmarks of 15 frames spread over the track, (15, 1404); the last known face fills gaps."""
    known = [np.flatnonzero([face is not None for face in track[: t + 1]]) for t in range(len(track))]
    first = next(t for t, face in enumerate(track) if face is not None)
    frames = np.linspace(0, len(track) - 1, FRAMES).round().astype(int)
    chosen = [track[known[t][-1] if len(known[t]) else first] for t in frames]
    return np.stack([_flat(face.landmarks) for face in chosen if face is not None])


def _flat(landmarks: np.ndarray) -> np.ndarray:
    return landmarks[:POINTS].reshape(-1)
