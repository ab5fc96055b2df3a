"""A small vision transformer (Dosovitskiy et al. 2021): patches of an aligned grey crop to seven expressions."""

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from moodreel.features import CROP
from moodreel.models.expression import ExpressionNet, standardise


class ViTNet(ExpressionNet):
    """Patches, a learnt place for each, transformer layers with normalisation first, and the mean of all patches, which
    serves small sets better than a class token (Beyer et al. 2022).

    stem: channels of convolutions before the patches, each of which halves the picture: a transformer learns sooner,
        and from fewer pictures, with a few of them (Xiao et al. 2021). None of them leaves the crop itself.
    patch: pixels a side of what the stem gives. width: numbers for each patch. heads: of attention, in each of the
        layers. dropout: share of the values that training leaves out.
    """

    def __init__(
        self,
        *,
        classes: int = 7,
        stem: Sequence[int] = (24, 48, 96),
        patch: int = 1,
        width: int = 192,
        heads: int = 4,
        layers: int = 5,
        dropout: float = 0.0,
        shares: Sequence[float] = (0.8, 0.2),
        tau: float = 0.3,
        temperatures: Sequence[float] = (),
    ) -> None:
        super().__init__(classes=classes, shares=shares, tau=tau, temperatures=temperatures)
        side, rest = divmod(CROP, patch * 2 ** len(stem))
        if rest or width % heads:
            raise ValueError(f"Patches do not fill {CROP} pixels, or {heads} heads do not share {width} numbers.")
        channels = [1, *stem]
        self.stem = nn.Sequential(*(_Halve(before, after) for before, after in pairwise(channels)))
        self.patches = nn.Conv2d(channels[-1], width, patch, patch)
        self.place = nn.Parameter(torch.randn(side**2, width) * 0.02)
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
                )
                for _ in range(layers)
            )
        )
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.Linear(width, len(self.shares) * classes)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(self.stem(standardise(pictures))).flatten(2).transpose(1, 2) + self.place
        # A CPU learns from so few patches in two thirds of the time without what is made for long sequences. Only then:
        # the setting is the whole process's, not the thread's.
        with sdpa_kernel(SDPBackend.MATH) if self.training else nullcontext():
            embedding = self.norm(self.layers(self.dropout(tokens))).mean(dim=1)
        return self.heads(self.dropout(embedding)).unflatten(1, (len(self.shares), -1))


class _Halve(nn.Sequential):
    """Convolution that halves the picture, batch normalisation, ReLU."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
