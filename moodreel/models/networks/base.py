"""Define what every face network has in common: face features in, logits before calibration out."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.nn.utils.rnn import pad_sequence

from moodreel.faces.features import CropKind, FaceFeatures

Track = Sequence[FaceFeatures | None]
"""One person's features in T >= 1 equally spaced frames; None where the face was not found."""

EmbeddingSequence = Sequence[torch.Tensor | None]
"""One person's embeddings, as `embed_faces` makes them, in T >= 1 equally spaced frames; None where the face was not
found. Live video classifies a sliding window of them."""


@dataclass(frozen=True, eq=False)
class TrackLogits:
    """Output of a network for one track, before calibration.

    Attributes:
        logits: (C,), for the whole track.
        per_frame: (T, C), for each frame by itself; rows without a face are undefined. None if not requested.
        weights: (T,), share of each frame in `logits`, adding up to 1; 0 where there is no face.
    """

    logits: torch.Tensor
    per_frame: torch.Tensor | None
    weights: torch.Tensor


class FaceNetwork(nn.Module, ABC):
    """Base class of the networks that a `model.json` of the kind `face` can name.

    A BatchNorm2d that is registered right behind a Conv2d must read that convolution's output, and nothing else may
    read it: `fuse_batchnorm` joins the two.
    """

    crop_kind = CropKind.GRAY
    """Kind of `FaceFeatures.crop` that the network reads, if it reads any."""

    @abstractmethod
    def forward_tracks(self, tracks: Sequence[Track], *, per_frame: bool) -> list[TrackLogits]:
        """Compute the logits of every track, each with at least one face, in one batch."""

    @abstractmethod
    def embed_faces(self, faces: Sequence[FaceFeatures]) -> list[torch.Tensor]:
        """Compute the embedding of each face: what the network derives from that face alone.

        Live video caches embeddings for `classify_windows`, so that it encodes each face only once.
        """

    @abstractmethod
    def classify_windows(self, windows: Sequence[EmbeddingSequence]) -> torch.Tensor:
        """Compute the current logits (B, C) of B windows of live video; the last frame of each always has a face.

        A network that pools over time reads the whole window, any other one the last frame alone.
        """


class TemporalFaceNet(FaceNetwork):
    """Base class of networks that embed each face by itself and then pool the frames over time."""

    @abstractmethod
    def forward_embeddings(
        self, embeddings: torch.Tensor, mask: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pool the frames of B sequences.

        Args:
            embeddings: (B, T, D), of `embed_faces`.
            mask: bool (B, T), False where there is no face or the sequence has ended; every row has a True.
            lengths: int64 (B,) on the CPU, frames of each sequence.

        Returns:
            Logits (B, C), logits of each frame (B, T, C), and weights of the frames (B, T).
        """

    def embed_tracks(self, tracks: Sequence[Track]) -> list[torch.Tensor]:
        """Embed the faces of tracks, one track after the other."""
        return self.embed_faces([face for track in tracks for face in track if face is not None])

    def forward_tracks(self, tracks: Sequence[Track], *, per_frame: bool) -> list[TrackLogits]:
        """Embed all faces of the tracks, then pool each track."""
        embeddings = iter(self.embed_tracks(tracks))
        windows = [[None if face is None else next(embeddings) for face in track] for track in tracks]
        logits, frame_logits, weights = self.forward_embeddings(*pad_windows(windows))
        return [
            TrackLogits(
                logits=logits[i],
                per_frame=frame_logits[i, : len(track)] if per_frame else None,
                weights=weights[i, : len(track)],
            )
            for i, track in enumerate(tracks)
        ]

    def classify_windows(self, windows: Sequence[EmbeddingSequence]) -> torch.Tensor:
        """Compute the logits (B, C) of each window as a whole."""
        return self.forward_embeddings(*pad_windows(windows))[0]


def pad_windows(windows: Sequence[EmbeddingSequence]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Stack windows of different lengths.

    Returns:
        Embeddings (B, T, D), zeros where there are none; mask, bool (B, T), where there are; and lengths, int64 (B,) on
        the CPU.
    """
    faces = torch.stack([embedding for window in windows for embedding in window if embedding is not None])
    present = [torch.tensor([embedding is not None for embedding in window]) for window in windows]
    mask = pad_sequence(present, batch_first=True).to(faces.device)
    embeddings = faces.new_zeros(*mask.shape, faces.shape[-1])
    embeddings[mask] = faces
    return embeddings, mask, torch.tensor([len(window) for window in windows])


def fuse_batchnorm(network: nn.Module) -> None:
    """Fuse every batch normalization into the convolution before it, in place, for inference only.

    In inference it multiplies each channel by a constant and adds another one, which the convolution's weights and
    bias can do as well. Outputs change by rounding alone.
    """
    network.eval()
    for parent in list(network.modules()):
        for (_, conv), (norm_name, norm) in itertools.pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                assert norm.running_mean is not None and norm.running_var is not None
                # Not fuse_conv_bn_eval: it copies the layer, and a large network would be in memory twice.
                conv.weight, conv.bias = fuse_conv_bn_weights(
                    conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
                )
                setattr(parent, norm_name, nn.Identity())
