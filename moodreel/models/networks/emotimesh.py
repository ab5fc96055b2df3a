"""EmotiMesh-Net in its original layout, so that checkpoints trained with it load as they are."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from moodreel.models.networks.base import FaceNetwork, Track, TrackLogits

FRAMES = 15
POINTS = 468
"""Points of the mesh without the irises, which the network was not trained on."""

_BATCH = 8
"""Tracks at a time: one costs 11 MB of activations."""


class EmotiMeshNet(FaceNetwork):
    """A convolution along the landmarks of each moment, then a bidirectional LSTM over the moments; 139 M parameters.

    Reads x, y, z of 468 points as MediaPipe gives them, relative to the picture, one after the other (1404 numbers),
    at 15 moments spread over the clip.
    """

    def __init__(self, *, classes: int = 5, hidden: int = 192, channels: int = 128, dropout: float = 0.25) -> None:
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
        """Landmarks (B, T, 1404) to logits (B, C)."""
        steps = self._convolve(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return self._classify(self.lstm(steps)[0][:, -1])

    def forward_static(self, x: torch.Tensor) -> torch.Tensor:
        """Landmarks (N, 1404) to logits (N, C): what `forward` says of each face shown for 15 moments.

        The first layer's input product, nearly all of the work, is the same at every moment and done once. The LSTM
        that takes it from there has this one's weights, but an identity in that product's place.
        """
        own = self.lstm
        products = torch.cat([getattr(own, name) for name in ("weight_ih_l0", "weight_ih_l0_reverse")])
        identity = torch.eye(len(products), device=x.device)
        with torch.device(x.device):
            narrow = nn.LSTM(len(products), own.hidden_size, num_layers=2, batch_first=True, bidirectional=True)
        to, back = identity.chunk(2)
        narrow.load_state_dict(own.state_dict() | {"weight_ih_l0": to, "weight_ih_l0_reverse": back})
        shown = F.linear(self._convolve(x), products)[:, None].expand(-1, FRAMES, -1)
        return self._classify(narrow(shown)[0][:, -1])

    def forward_tracks(self, tracks: Sequence[Track], *, per_frame: bool) -> list[TrackLogits]:
        device = self.fc2.weight.device
        clips = torch.from_numpy(np.stack([_spread(track) for track in tracks])).to(device)
        logits = torch.cat([self(batch) for batch in clips.split(_BATCH)])
        answers = []
        for track, clip_logits in zip(tracks, logits, strict=True):
            seen = torch.tensor([features is not None for features in track], device=device)
            by_moment = None
            if per_frame:
                faces = torch.from_numpy(np.stack([_flat(f.landmarks) for f in track if f is not None])).to(device)
                by_moment = torch.zeros(len(track), len(clip_logits), device=device)
                by_moment[seen] = torch.cat([self.forward_static(batch) for batch in faces.split(_BATCH * FRAMES)])
            answers.append(TrackLogits(logits=clip_logits, per_frame=by_moment, weights=seen.float() / seen.sum()))
        return answers

    def _convolve(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1404) to (N, channels * 701)."""
        return F.max_pool1d(F.relu(self.conv1(self.input_bn(x)[:, None])), 2).flatten(1)

    def _classify(self, last: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.dropout(F.relu(self.bn_fc1(self.fc1(last)))))


def _spread(track: Track) -> np.ndarray:
    """Landmarks (15, 1404) at moments spread over the track, the last known face standing in where there is none."""
    known = [np.flatnonzero([f is not None for f in track[: t + 1]]) for t in range(len(track))]
    first = next(t for t, features in enumerate(track) if features is not None)
    moments = np.linspace(0, len(track) - 1, FRAMES).round().astype(int)
    chosen = [track[known[t][-1] if len(known[t]) else first] for t in moments]
    return np.stack([_flat(features.landmarks) for features in chosen if features is not None])


def _flat(landmarks: np.ndarray) -> np.ndarray:
    return landmarks[:POINTS].reshape(-1)
