"""Appearance and landmarks joined: two opinions of each moment, then time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from moodreel.emotions import FIVE, SEVEN, SEVEN_TO_FIVE
from moodreel.faces.features import FaceFeatures
from moodreel.faces.landmarker import BLENDSHAPES
from moodreel.models.networks.base import FaceNetwork, Track, TrackLogits
from moodreel.models.networks.compact_emotimesh import CompactEmotiMeshNet, to_input
from moodreel.models.networks.se_resnet import FaceExpressionNet


class TwoStreamNet(FaceNetwork):
    """A face-expression network and the encoder of a compact EmotiMesh-Net, and a GRU that weighs the moments.

    A moment's answer is a product of the two opinions, each to a power of its own (`trust`): so few numbers that
    pictures neither network has learnt from suffice to fit them. The GRU reads the opinions, not what led to them:
    pseudo-sequences can be made of opinions, not of pictures, and it has nothing to know single faces by. Blendshapes
    are passed on to it, since speech shows in nothing else.

    appearance, landmarks: keyword arguments of the two networks. hidden: size of the GRU.
    temperature: what the answer of more than one moment is divided by, so that it is as sure of itself as one moment's.
    """

    merge: torch.Tensor
    """(7, C): which of the seven labels counts for which of the five."""

    def __init__(
        self,
        *,
        classes: int = len(FIVE),
        appearance: Mapping[str, Any] | None = None,
        landmarks: Mapping[str, Any] | None = None,
        hidden: int = 48,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if classes != len(FIVE):
            raise ValueError(f"A joint network answers {len(FIVE)} labels, not {classes}.")
        self.temperature = temperature
        self.appearance = FaceExpressionNet(classes=len(SEVEN), **(appearance or {}))
        self.landmarks = CompactEmotiMeshNet(classes=classes, **(landmarks or {}))
        # Time is read here, from both.
        del self.landmarks.time, self.landmarks.weigh, self.landmarks.adjust, self.landmarks.absent
        merge = [[SEVEN_TO_FIVE[label] == five for five in FIVE] for label in SEVEN]
        self.register_buffer("merge", torch.tensor(merge, dtype=torch.float32))
        self.trust = nn.Parameter(torch.tensor([1.0, 0.5]))
        read_on = self.appearance_dim + 2 * classes + len(BLENDSHAPES)
        self.absent = nn.Parameter(torch.zeros(read_on))
        self.dropout = nn.Dropout(0.2)
        self.time = nn.GRU(read_on, hidden, batch_first=True, bidirectional=True)
        self.weigh = nn.Linear(2 * hidden, 1)
        self.adjust = nn.Linear(2 * hidden, classes)

    @property
    def appearance_dim(self) -> int:
        """Numbers a face: what all heads of the appearance network say of it."""
        return len(self.appearance.head_weights) * len(SEVEN)

    def stream_logits(self, appearance: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
        """Logits (..., 2, C) of moments: what the appearance says, then what the landmarks say.

        appearance: (..., `looks`), the heads of the face-expression network one after the other.
        faces: (..., INPUT), as `compact_emotimesh.read` lays them out.
        """
        seven = self.appearance.mix_heads(appearance.unflatten(-1, (-1, len(SEVEN)))).softmax(dim=-1)
        seen = (seven @ self.merge).clamp_min(1e-6).log()
        return torch.stack([seen, self.landmarks.moment(self.landmarks.encode(faces)).log_softmax(dim=-1)], dim=-2)

    def frame_logits(self, opinions: torch.Tensor) -> torch.Tensor:
        """Opinions (..., 2, C) to one logit for each label (..., C)."""
        return (opinions * self.trust[:, None]).sum(dim=-2)

    def temporal_pool(
        self,
        opinions: torch.Tensor,
        appearance: torch.Tensor,
        faces: torch.Tensor,
        seen: torch.Tensor,
        lengths: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weigh the moments of B clips.

        opinions: (B, T, 2, C), of appearance (B, T, `looks`) and faces (B, T, INPUT), as in `opinions`.
        seen: bool (B, T), False where there is no face or past the clip's end; every row has a True.
        lengths: int64 (B,) on the CPU, moments of each clip.
        Returns logits (B, C) and weights (B, T).
        """
        blend = slice(-len(BLENDSHAPES), None)
        net = self.landmarks
        standard = ((faces[..., blend] - net.mean[blend]) / net.std[blend]).clamp(-6, 6) / 2
        heads = appearance.unflatten(-1, (-1, len(SEVEN))).log_softmax(dim=-1).flatten(-2)
        # Bounded, so that one extreme moment cannot throw the state.
        words = torch.cat([heads.clamp_min(-8) / 4, opinions.flatten(-2).clamp_min(-8) / 4, standard], dim=-1)
        moments = self.dropout(torch.where(seen[..., None], words, self.absent))
        packed = pack_padded_sequence(moments, lengths, batch_first=True, enforce_sorted=False)
        context, _ = pad_packed_sequence(self.time(packed)[0], batch_first=True, total_length=seen.shape[1])
        scores = self.weigh(context)[..., 0].masked_fill(~seen, -torch.inf)
        weights = scores.softmax(dim=1)
        # One moment has no time: it speaks for itself.
        several = (lengths > 1).to(weights)[:, None]
        adjusted = self.frame_logits(opinions) + several[..., None] * self.adjust(context)
        decided = (weights[..., None] * adjusted).sum(dim=1)
        return decided / (1 + several * (self.temperature - 1)), weights

    def forward_tracks(self, tracks: Sequence[Track], *, per_frame: bool) -> list[TrackLogits]:
        device = self.trust.device
        lengths = [len(track) for track in tracks]
        present = [torch.tensor([features is not None for features in track]) for track in tracks]
        seen = pad_sequence(present, batch_first=True).to(device)
        flat = [features for track in tracks for features in track if features is not None]
        appearance = torch.zeros(*seen.shape, self.appearance_dim, device=device)
        appearance[seen] = self.appearance.face_logits(tracks).flatten(1)
        faces = torch.zeros(*seen.shape, len(self.landmarks.mean), device=device)
        faces[seen] = torch.from_numpy(np.stack([to_input(features) for features in flat])).to(device)
        opinions = self.stream_logits(appearance, faces)
        logits, weights = self.temporal_pool(opinions, appearance, faces, seen, torch.tensor(lengths))
        by_moment = self.frame_logits(opinions)
        return [
            TrackLogits(
                logits=logits[i], per_frame=by_moment[i, :length] if per_frame else None, weights=weights[i, :length]
            )
            for i, length in enumerate(lengths)
        ]

    def embed_faces(self, faces: Sequence[FaceFeatures]) -> list["FrameEmbedding"]:
        appearance = torch.stack(self.appearance.embed_faces(faces)).flatten(1)
        landmarks = torch.from_numpy(np.stack([to_input(face) for face in faces])).to(self.trust.device)
        opinions = self.stream_logits(appearance, landmarks)
        return [FrameEmbedding(*of_one) for of_one in zip(appearance, landmarks, opinions, strict=True)]

    def classify_windows(self, windows: Sequence[Sequence["FrameEmbedding | None"]]) -> torch.Tensor:
        device, lengths = self.trust.device, [len(window) for window in windows]
        seen = pad_sequence([torch.tensor([moment is not None for moment in window]) for window in windows], True)
        flat = [moment for window in windows for moment in window if moment is not None]
        seen = seen.to(device)

        def laid_out(parts: list[torch.Tensor]) -> torch.Tensor:
            laid = torch.zeros(*seen.shape, *parts[0].shape, device=device)
            laid[seen] = torch.stack(parts)
            return laid

        appearance = laid_out([moment.appearance for moment in flat])
        faces = laid_out([moment.landmarks for moment in flat])
        opinions = laid_out([moment.opinions for moment in flat])
        return self.temporal_pool(opinions, appearance, faces, seen, torch.tensor(lengths))[0]


@dataclass(frozen=True, eq=False)
class FrameEmbedding:
    """One face by itself: `appearance` (`looks`,), `landmarks` (INPUT,) and `opinions` (2, C)."""

    appearance: torch.Tensor
    landmarks: torch.Tensor
    opinions: torch.Tensor
