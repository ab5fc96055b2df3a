"""Define a two-stream network: appearance and landmarks give logits for each frame, a GRU pools them over time."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from moodreel.emotions import FIVE, SEVEN, SEVEN_TO_FIVE
from moodreel.faces.features import FaceFeatures
from moodreel.faces.landmarker import BLENDSHAPES
from moodreel.models.model_card import Arguments
from moodreel.models.networks.base import TemporalFaceNet, Track
from moodreel.models.networks.compact_emotimesh import CompactEmotiMeshNet, to_input
from moodreel.models.networks.se_resnet import FaceExpressionNet

_STREAMS = 2


class TwoStreamNet(TemporalFaceNet):
    """A face-expression network, the encoder of a Compact EmotiMesh-Net, and a GRU that weighs the frames.

    The logits of a frame are a weighted sum of the log-probabilities of both streams (`trust`): two weights, which few
    images suffice to fit. The GRU reads the streams' logits instead of their features, because synthetic sequences can
    be made of logits but not of images, and because logits cannot identify a person. It also reads the blendshapes,
    which alone show speech.

    Attributes:
        merge: float32 (7, C), a buffer: which of the seven appearance labels counts for which of the five.
        trust: float32 (2,), a parameter: weight of the appearance and of the landmark stream.
    """

    merge: torch.Tensor

    def __init__(
        self,
        *,
        classes: int = len(FIVE),
        appearance: Arguments | None = None,
        landmarks: Arguments | None = None,
        hidden: int = 48,
        temperature: float = 1.0,
    ) -> None:
        """Build the network.

        Args:
            classes: Number of labels, always five.
            appearance: Keyword arguments of `FaceExpressionNet`.
            landmarks: Keyword arguments of `CompactEmotiMeshNet`.
            hidden: Units of the GRU, each direction.
            temperature: Divides the logits of sequences of more than one frame, so that their confidence is calibrated
                as that of single frames is.
        """
        super().__init__()
        if classes != len(FIVE):
            raise ValueError(f"A joint network answers {len(FIVE)} labels, not {classes}.")
        self.temperature = temperature
        self.appearance = FaceExpressionNet(classes=len(SEVEN), **(appearance or {}))
        self.landmarks = CompactEmotiMeshNet(classes=classes, **(landmarks or {}))
        # Only the encoder and its frame logits are used; this network's own GRU reads both streams.
        del self.landmarks.time, self.landmarks.weigh, self.landmarks.adjust, self.landmarks.absent
        merge = [[SEVEN_TO_FIVE[label] == five for five in FIVE] for label in SEVEN]
        self.register_buffer("merge", torch.tensor(merge, dtype=torch.float32))
        # Names of attributes are keys of the state dict: shipped weights need them as they are.
        self.trust = nn.Parameter(torch.tensor([1.0, 0.5]))  # weights of the streams
        input_dim = self.appearance_dim + _STREAMS * classes + len(BLENDSHAPES)
        self.absent = nn.Parameter(torch.zeros(input_dim))  # input of a frame without a face
        self.dropout = nn.Dropout(0.2)
        self.time = nn.GRU(input_dim, hidden, batch_first=True, bidirectional=True)
        self.weigh = nn.Linear(2 * hidden, 1)  # attention: logit of a frame's weight
        self.adjust = nn.Linear(2 * hidden, classes)  # what temporal context adds to a frame's logits

    @property
    def appearance_dim(self) -> int:
        """Values of one face: the logits of all heads of the appearance network."""
        return len(self.appearance.head_weights) * len(SEVEN)

    def stream_log_probs(self, appearance: torch.Tensor, landmarks: torch.Tensor) -> torch.Tensor:
        """Compute the log-probabilities of each stream for each face.

        Args:
            appearance: (..., appearance_dim), logits of the heads of the appearance network, one head after the other.
            landmarks: (..., INPUT_DIM), as `compact_emotimesh.to_input` makes them.

        Returns:
            (..., 2, C): the appearance stream, then the landmark stream.
        """
        seven = self.appearance.mix_heads(appearance.unflatten(-1, (-1, len(SEVEN)))).softmax(dim=-1)
        five = (seven @ self.merge).clamp_min(1e-6).log()
        return torch.stack([five, self.landmarks.moment(self.landmarks.encode(landmarks)).log_softmax(dim=-1)], dim=-2)

    def frame_logits(self, streams: torch.Tensor) -> torch.Tensor:
        """Combine the streams (..., 2, C) to the logits of each frame (..., C)."""
        return (streams * self.trust[:, None]).sum(dim=-2)

    def temporal_pool(
        self,
        streams: torch.Tensor,
        appearance: torch.Tensor,
        landmarks: torch.Tensor,
        mask: torch.Tensor,
        lengths: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pool the frames of B clips.

        Args:
            streams: (B, T, 2, C), as `stream_log_probs` returns them.
            appearance: (B, T, appearance_dim), as of `stream_log_probs`.
            landmarks: (B, T, INPUT_DIM), as of `stream_log_probs`.
            mask: bool (B, T), False where there is no face or the clip has ended; every row has a True.
            lengths: int64 (B,) on the CPU, frames of each clip.

        Returns:
            Logits (B, C) and weights of the frames (B, T).
        """
        blendshapes = slice(-len(BLENDSHAPES), None)
        mean, std = self.landmarks.mean[blendshapes], self.landmarks.std[blendshapes]
        standardized = ((landmarks[..., blendshapes] - mean) / std).clamp(-6, 6) / 2
        heads = appearance.unflatten(-1, (-1, len(SEVEN))).log_softmax(dim=-1).flatten(-2)
        # Bounded, so that one extreme frame cannot dominate the GRU's state; /2 and /4 bring all inputs to about -3..3.
        inputs = torch.cat([heads.clamp_min(-8) / 4, streams.flatten(-2).clamp_min(-8) / 4, standardized], dim=-1)
        inputs = self.dropout(torch.where(mask[..., None], inputs, self.absent))
        packed = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
        context, _ = pad_packed_sequence(self.time(packed)[0], batch_first=True, total_length=mask.shape[1])
        weights: torch.Tensor = self.weigh(context)[..., 0].masked_fill(~mask, -torch.inf).softmax(dim=1)
        # A single frame has no temporal context: its own logits are used.
        several = (lengths > 1).to(weights)[:, None]
        adjusted = self.frame_logits(streams) + several[..., None] * self.adjust(context)
        logits = (weights[..., None] * adjusted).sum(dim=1)
        return logits / (1 + several * (self.temperature - 1)), weights

    def forward_embeddings(
        self, embeddings: torch.Tensor, mask: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pool the frames of B sequences; see `TemporalFaceNet`."""
        sizes = [self.appearance_dim, len(self.landmarks.mean), _STREAMS * len(FIVE)]
        appearance, landmarks, streams = embeddings.split(sizes, dim=-1)
        streams = streams.unflatten(-1, (_STREAMS, -1))
        logits, weights = self.temporal_pool(streams, appearance, landmarks, mask, lengths)
        return logits, self.frame_logits(streams), weights

    def embed_tracks(self, tracks: Sequence[Track]) -> list[torch.Tensor]:
        """Embed the faces of tracks; those of short tracks are averaged with their mirror images."""
        faces = [face for track in tracks for face in track if face is not None]
        return self._embed(self.appearance.face_logits(tracks), faces)

    def embed_faces(self, faces: Sequence[FaceFeatures]) -> list[torch.Tensor]:
        """Embed each face: appearance logits, landmark input and stream log-probabilities, one after the other."""
        return self._embed(torch.stack(self.appearance.embed_faces(faces)), faces)

    def _embed(self, head_logits: torch.Tensor, faces: Sequence[FaceFeatures]) -> list[torch.Tensor]:
        appearance = head_logits.flatten(1)
        landmarks = torch.from_numpy(np.stack([to_input(face) for face in faces])).to(self.trust.device)
        streams = self.stream_log_probs(appearance, landmarks).flatten(1)
        return list(torch.cat([appearance, landmarks, streams], dim=1))
