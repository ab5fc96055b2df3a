"""The face's appearance: an aligned grey crop to seven expressions."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from moodreel.features import CROP
from moodreel.models.architecture import Answer, Architecture, Track

FEW = 16
"""Moments of a track up to which its faces are seen mirrored too: nearly a point more of accuracy for one picture, at
twice the time; many moments make up for it themselves."""
_BATCH = 256
"""Crops at a time: one costs 0.2 MB of activations."""
_SHARE = 4
"""Crops that are worth a thread of their own."""


class FaceExpressionNet(Architecture):
    """A residual network with squeeze-and-excitation (He et al. 2016, Hu et al. 2018) and a head for each convention of
    labelling that it learnt from.

    FER+'s pictures were labelled twice: by ten people's votes, and in FER2013 by one label, which sees anger and fear
    in much that the ten call neutral or sad. Other sets have conventions of their own. What is answered is a mixture of
    the heads, less a share of the prior with which the labels came (logit adjustment, Menon et al. 2021).

    shares: of each head in the mixture, adding up to 1.
    tau: strength of the adjustment, 0 none, 1 all of it.
    temperatures: what each head's logits are divided by; 1 each when none are given.
    """

    prior: torch.Tensor
    """(H, C): how often each label came in training by each convention."""

    def __init__(
        self,
        *,
        classes: int = 7,
        widths: Sequence[int] = (24, 48, 128, 256),
        depths: Sequence[int] = (1, 1, 3, 2),
        dropout: float = 0.3,
        shares: Sequence[float] = (0.8, 0.2),
        tau: float = 0.3,
        temperatures: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.shares = tuple(shares)
        self.tau = tau
        self.temperatures = tuple(temperatures) or (1.0,) * len(self.shares)
        self.register_buffer("prior", torch.full((len(self.shares), classes), 1 / classes))
        layers: list[nn.Module] = [_Convolution(1, widths[0], stride=2), nn.ReLU()]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            before = widths[max(stage - 1, 0)]
            layers += [_Block(before if i == 0 else width, width, 2 if stage and i == 0 else 1) for i in range(depth)]
        self.body = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.Linear(widths[-1], len(self.shares) * classes)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Crops (N, 48, 48), uint8 or float 0 to 255, to the logits (N, H, C) of all heads."""
        embedding = self.body(standardise(crops)).mean(dim=(2, 3))
        return self.heads(self.dropout(embedding)).unflatten(1, (len(self.shares), -1))

    def mix(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (..., H, C) of the heads to one answer (..., C)."""
        shares = logits.new_tensor(self.shares)[:, None]
        cooled = logits.float() / logits.new_tensor(self.temperatures)[:, None]
        mixture = (cooled.softmax(dim=-1) * shares).sum(dim=-2).clamp_min(1e-6)
        return mixture.log() - self.tau * (self.prior * shares).sum(dim=0).clamp_min(1e-6).log()

    def look(self, tracks: Sequence[Track]) -> torch.Tensor:
        """Logits (N, H, C) of the N faces in tracks, one track after the other; of short ones the mean of what the
        faces and their mirror images give."""
        faces = [[face.crop for face in track if face is not None] for track in tracks]
        crops = torch.from_numpy(np.stack([crop for track in faces for crop in track])).to(self.heads.weight.device)
        few = torch.tensor([len(track) <= FEW for track in faces for _ in track])
        logits = self.read(crops)
        if few.any():
            logits[few] = (logits[few] + self.read(crops[few].flip(-1))) / 2
        return logits

    def read(self, crops: torch.Tensor) -> torch.Tensor:
        """Logits (N, H, C) of any number of crops (N, 48, 48), in batches, without gradients.

        On a CPU two threads share them: nothing else of a clip is left to do meanwhile.
        """
        if crops.is_cuda or len(crops) < 2 * _SHARE:
            return torch.cat([self._read(batch) for batch in crops.split(_BATCH)])
        with ThreadPoolExecutor(2) as pool:
            return torch.cat(list(pool.map(self._read, crops.split(min(_BATCH, -(-len(crops) // 2))))))

    def _read(self, crops: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return self(crops)

    def answer(self, tracks: Sequence[Track], *, moments: bool) -> list[Answer]:
        """Answer with the mean over the moments of a track: seven labels are for pictures and for the timeline."""
        logits = self.mix(self.look(tracks))
        answers = []
        for track in tracks:
            seen = torch.tensor([face is not None for face in track], device=logits.device)
            own, logits = logits.split([int(seen.sum()), len(logits) - int(seen.sum())])
            by_moment = own.new_zeros(len(track), own.shape[-1])
            by_moment[seen] = own
            answers.append(
                Answer(
                    logits=own.softmax(dim=-1).mean(dim=0).log(),
                    moments=by_moment if moments else None,
                    weights=seen.float() / seen.sum(),
                )
            )
        return answers


def standardise(crops: torch.Tensor) -> torch.Tensor:
    """Crops (N, 48, 48), 0 to 255, to float32 (N, 1, 48, 48) of mean 0 and deviation 1 each: light and contrast of a
    picture as a whole say nothing of a face."""
    if crops.shape[-2:] != (CROP, CROP):
        raise ValueError(f"Crops are {CROP} pixels a side, not {tuple(crops.shape[-2:])}.")
    values = crops.float()[:, None]
    mean, spread = values.mean(dim=(2, 3), keepdim=True), values.std(dim=(2, 3), keepdim=True)
    # A crop of one plain grey stays plain.
    return ((values - mean) / spread.clamp_min(4)).contiguous(memory_format=torch.channels_last)


class _Convolution(nn.Sequential):
    """Convolution 3 by 3 and batch normalisation."""

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after))


class _Block(nn.Module):
    """Two convolutions, squeeze-and-excitation, and the shortcut around them."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = _Convolution(before, after, stride)
        self.second = _Convolution(after, after)
        self.squeeze = nn.Linear(after, after // 8)
        self.excite = nn.Linear(after // 8, after)
        self.around: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.around = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True), nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(F.relu(self.first(x)))
        gate = self.excite(F.relu(self.squeeze(y.mean(dim=(2, 3))))).sigmoid()
        return F.relu(y * gate[:, :, None, None] + self.around(x))
