"""Define what single-image face networks share: several heads and their pool, batches, and mirror images."""

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch

from moodreel.faces.features import CROP_SIDE, FaceFeatures
from moodreel.models.networks.base import EmbeddingSequence, FaceNetwork, Track, TrackLogits

GPU_BATCH_SIZE = 64
"""Images at a time on a GPU, where small batches leave most of it idle: all sampled frames of a clip of 12 seconds."""


class MultiHeadFaceNet(FaceNetwork):
    """A network with one head for each labeling convention that it was trained on.

    The images of FER+ were labeled twice: by the votes of ten people, and in FER2013 by one label, which often says
    anger or fear where the ten say neutral or sad. Other data sets have conventions of their own. The output is the
    weighted geometric mean of the heads (logarithmic opinion pool, Genest & Zidek 1986), less a share of the prior of
    the training labels (logit adjustment, Menon et al. 2021). A network with a single head returns its logits, without
    adjustment.

    Attributes:
        prior: float32 (H, C), a buffer: frequency of each training label for each head; only with several heads.
    """

    mirror_below = 16
    """Tracks of up to this many frames average each face with its mirror image: nearly one point of accuracy for a
    single image, at twice the time. In a longer track the errors of single frames average out."""
    batch_size = 256
    """Images at a time: bounds the memory of activations."""

    prior: torch.Tensor

    def __init__(
        self, *, classes: int, shares: Sequence[float] = (1.0,), tau: float = 0.0, temperatures: Sequence[float] = ()
    ) -> None:
        """Set up the pool of heads.

        Args:
            classes: Number of labels C.
            shares: Weight of each of the H heads in the pool, adding up to 1.
            tau: Strength of the logit adjustment: 0 for none, 1 for the whole prior.
            temperatures: Divides each head's logits; empty for 1 each.
        """
        super().__init__()
        self.classes = classes
        # model.json names these two `shares` and `tau`.
        self.head_weights = tuple(shares)
        self.logit_adjustment = tau
        self.temperatures = tuple(temperatures) or (1.0,) * len(self.head_weights)
        if len(self.head_weights) > 1:
            self.register_buffer("prior", torch.full((len(self.head_weights), classes), 1 / classes))

    @abstractmethod
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the logits (N, H, C) of all heads.

        Args:
            images: uint8 or float 0..255: N crops of the network's `crop_kind`.
        """

    def mix_heads(self, logits: torch.Tensor) -> torch.Tensor:
        """Combine the logits (..., H, C) of the heads to one set of logits (..., C)."""
        scaled = logits.float() / logits.new_tensor(self.temperatures)[:, None]
        if len(self.head_weights) == 1:
            return scaled[..., 0, :]
        weights = logits.new_tensor(self.head_weights)[:, None]
        pool = (scaled.softmax(dim=-1).clamp_min(1e-6).log() * weights).sum(dim=-2)
        return pool - self.logit_adjustment * (self.prior * weights).sum(dim=0).clamp_min(1e-6).log()

    def face_logits(self, tracks: Sequence[Track]) -> torch.Tensor:
        """Compute the logits (N, H, C) of the N faces in tracks, one track after the other.

        In short tracks (`mirror_below`) they are the mean over each face and its mirror image.
        """
        faces = [[face for face in track if face is not None] for track in tracks]
        images = self._images([face for track in faces for face in track])
        short = torch.tensor([len(track) <= self.mirror_below for track in faces for _ in track])
        logits = self.predict_batched(images)
        if short.any():
            logits[short] = (logits[short] + self.predict_batched(images[short].flip(2))) / 2
        return logits

    def _images(self, faces: Sequence[FaceFeatures]) -> torch.Tensor:
        return torch.from_numpy(np.stack([face.crop for face in faces])).to(next(self.parameters()).device)

    def embed_faces(self, faces: Sequence[FaceFeatures]) -> list[torch.Tensor]:
        """Compute the logits (H, C) of each face, without mirror images: live video soon brings another frame."""
        return list(self.predict_batched(self._images(faces)))

    def classify_windows(self, windows: Sequence[EmbeddingSequence]) -> torch.Tensor:
        """Compute the logits (B, C) of the last frame of each window by itself."""
        return self.mix_heads(torch.stack([last for *_, last in windows if last is not None]))

    def predict_batched(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the logits (N, H, C) of any number of images, as for `forward`, in batches, without gradients."""
        size = self.batch_size if images.device.type == "cpu" else max(self.batch_size, GPU_BATCH_SIZE)
        return torch.cat([self._predict(batch) for batch in images.split(size)])

    def _predict(self, images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = self(images)
        return logits

    def forward_tracks(self, tracks: Sequence[Track], *, per_frame: bool) -> list[TrackLogits]:
        """Compute the logits of every track: the mean probability of its faces."""
        logits = self.mix_heads(self.face_logits(tracks))
        outputs = []
        for track in tracks:
            mask = torch.tensor([face is not None for face in track], device=logits.device)
            own, logits = logits.split([int(mask.sum()), len(logits) - int(mask.sum())])
            frame_logits = own.new_zeros(len(track), own.shape[-1])
            frame_logits[mask] = own
            outputs.append(
                TrackLogits(
                    logits=own.softmax(dim=-1).mean(dim=0).log(),
                    per_frame=frame_logits if per_frame else None,
                    weights=mask.float() / mask.sum(),
                )
            )
        return outputs


def standardize(crops: torch.Tensor) -> torch.Tensor:
    """Scale each crop to mean 0 and standard deviation 1, so that lighting and contrast do not count.

    Args:
        crops: (N, 48, 48), gray, 0..255.

    Returns:
        float32 (N, 1, 48, 48), channels last. A crop of one plain gray stays plain.
    """
    if crops.shape[-2:] != (CROP_SIDE, CROP_SIDE):
        raise ValueError(f"Crops are {CROP_SIDE} pixels a side, not {tuple(crops.shape[-2:])}.")
    values = crops.float()[:, None]
    mean, deviation = values.mean(dim=(2, 3), keepdim=True), values.std(dim=(2, 3), keepdim=True)
    return ((values - mean) / deviation.clamp_min(4)).contiguous(memory_format=torch.channels_last)
