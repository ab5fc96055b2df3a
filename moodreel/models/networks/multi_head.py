"""What the networks share that read single pictures of a face: heads, their mixture, batches and mirror images."""

from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from moodreel.faces.features import CROP_SIDE, FaceFeatures
from moodreel.models.networks.base import FaceNetwork, Track, TrackLogits

_SHARE = 4
"""Pictures that are worth a thread of their own."""


class MultiHeadFaceNet(FaceNetwork):
    """A network with a head for each convention of labelling that it learnt from.

    FER+'s pictures were labelled twice: by ten people's votes, and in FER2013 by one label, which sees anger and fear
    in much that the ten call neutral or sad. Other sets have conventions of their own. What is answered is a mixture of
    the heads, less a share of the prior with which the labels came (logit adjustment, Menon et al. 2021). A network of
    a single head answers what the head says.

    shares: of each head in the mixture, adding up to 1.
    tau: strength of the adjustment, 0 none, 1 all of it; of a single head there is none.
    temperatures: what each head's logits are divided by; 1 each when none are given.
    """

    mirror_below = 16
    """Moments of a track up to which its faces are seen mirrored too: nearly a point more of accuracy for one picture,
    at twice the time; many moments make up for it themselves."""
    batch_size = 256
    """Pictures at a time: bounds the memory of activations."""

    prior: torch.Tensor
    """(H, C): how often each label came in training by each convention; only where there are several."""

    def __init__(self, *, classes: int, shares: Sequence[float], tau: float, temperatures: Sequence[float]) -> None:
        super().__init__()
        self.classes = classes
        self.head_weights = tuple(shares)
        self.logit_adjustment = tau
        self.temperatures = tuple(temperatures) or (1.0,) * len(self.head_weights)
        if len(self.head_weights) > 1:
            self.register_buffer("prior", torch.full((len(self.head_weights), classes), 1 / classes))

    @abstractmethod
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures, uint8 or float 0 to 255, crops (N, 48, 48) or portraits (N, 224, 224, 3) as `portrait` says, to
        the logits (N, H, C) of all heads."""

    def mix_heads(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (..., H, C) of the heads to one answer (..., C)."""
        cooled = logits.float() / logits.new_tensor(self.temperatures)[:, None]
        if len(self.head_weights) == 1:
            return cooled[..., 0, :]
        shares = logits.new_tensor(self.head_weights)[:, None]
        mixture = (cooled.softmax(dim=-1) * shares).sum(dim=-2).clamp_min(1e-6)
        return mixture.log() - self.logit_adjustment * (self.prior * shares).sum(dim=0).clamp_min(1e-6).log()

    def face_logits(self, tracks: Sequence[Track]) -> torch.Tensor:
        """Logits (N, H, C) of the N faces in tracks, one track after the other; of short ones the mean of what the
        faces and their mirror images give."""
        faces = [[self._picture(face) for face in track if face is not None] for track in tracks]
        device = next(self.parameters()).device
        pictures = torch.from_numpy(np.stack([picture for track in faces for picture in track])).to(device)
        few = torch.tensor([len(track) <= self.mirror_below for track in faces for _ in track])
        logits = self.predict_batched(pictures)
        if few.any():
            logits[few] = (logits[few] + self.predict_batched(pictures[few].flip(2))) / 2
        return logits

    def _picture(self, face: FaceFeatures) -> np.ndarray:
        picture = face.rgb_crop if self.requires_rgb_crop else face.crop
        if picture is None:
            raise ValueError("This network reads portraits; extract the features with with_rgb_crop=True.")
        return picture

    def embed_faces(self, faces: Sequence[FaceFeatures]) -> list[torch.Tensor]:
        """Logits (H, C) of each face, seen once: in a video the next frame comes as cheap as a mirror image."""
        device = next(self.parameters()).device
        pictures = torch.from_numpy(np.stack([self._picture(face) for face in faces])).to(device)
        return list(self.predict_batched(pictures))

    def classify_windows(self, windows: Sequence[Sequence[torch.Tensor | None]]) -> torch.Tensor:
        return self.mix_heads(torch.stack([now for *_, now in windows if now is not None]))

    def predict_batched(self, pictures: torch.Tensor) -> torch.Tensor:
        """Logits (N, H, C) of any number of pictures, as `forward` takes them, in batches, without gradients.

        On a CPU two threads share them: nothing else of a clip is left to do meanwhile.
        """
        if pictures.is_cuda or len(pictures) < 2 * _SHARE:
            return torch.cat([self._read(batch) for batch in pictures.split(self.batch_size)])
        with ThreadPoolExecutor(2) as pool:
            halves = pictures.split(min(self.batch_size, -(-len(pictures) // 2)))
            return torch.cat(list(pool.map(self._read, halves)))

    def _read(self, pictures: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return self(pictures)

    def forward_tracks(self, tracks: Sequence[Track], *, per_frame: bool) -> list[TrackLogits]:
        """Answer with the mean over the moments of a track: these networks are for pictures and for the timeline."""
        logits = self.mix_heads(self.face_logits(tracks))
        answers = []
        for track in tracks:
            seen = torch.tensor([face is not None for face in track], device=logits.device)
            own, logits = logits.split([int(seen.sum()), len(logits) - int(seen.sum())])
            by_moment = own.new_zeros(len(track), own.shape[-1])
            by_moment[seen] = own
            answers.append(
                TrackLogits(
                    logits=own.softmax(dim=-1).mean(dim=0).log(),
                    per_frame=by_moment if per_frame else None,
                    weights=seen.float() / seen.sum(),
                )
            )
        return answers


def standardize(crops: torch.Tensor) -> torch.Tensor:
    """Crops (N, 48, 48), 0 to 255, to float32 (N, 1, 48, 48) of mean 0 and deviation 1 each: light and contrast of a
    picture as a whole say nothing of a face."""
    if crops.shape[-2:] != (CROP_SIDE, CROP_SIDE):
        raise ValueError(f"Crops are {CROP_SIDE} pixels a side, not {tuple(crops.shape[-2:])}.")
    values = crops.float()[:, None]
    mean, spread = values.mean(dim=(2, 3), keepdim=True), values.std(dim=(2, 3), keepdim=True)
    # A crop of one plain grey stays plain.
    return ((values - mean) / spread.clamp_min(4)).contiguous(memory_format=torch.channels_last)
