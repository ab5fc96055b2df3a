"""Small vision transformers (Dosovitskiy et al. 2021): patches of an aligned grey crop to expressions."""

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from moodreel.faces.features import CROP_SIDE
from moodreel.models.networks.multi_head import MultiHeadFaceNet, standardize

INPUT_SIDES = (48, 96, 112, 224)
"""Pixels a side at which a crop may be read."""


class ViTNet(MultiHeadFaceNet):
    """Patches, a learnt place for each, and transformer layers with normalisation first.

    side: pixels a side that the crop is enlarged to, one of `SIDES`.
    stem: channels of convolutions before the patches, each of which halves the picture: a transformer learns sooner,
        and from fewer pictures, with a few of them (Xiao et al. 2021). None of them leaves the crop itself.
    patch: pixels a side of what the stem gives. width: numbers for each patch. heads: of attention, in each of the
        layers. dropout: share of the values that training leaves out.
    token: whether a class token of its own reads the patches, as first published, and is answered from; otherwise the
        mean of all patches is, which serves small sets better (Beyer et al. 2022).
    """

    def __init__(
        self,
        *,
        classes: int = 7,
        side: int = CROP_SIDE,
        stem: Sequence[int] = (24, 48, 96),
        patch: int = 1,
        width: int = 192,
        heads: int = 4,
        layers: int = 5,
        dropout: float = 0.0,
        token: bool = False,
        shares: Sequence[float] = (0.8, 0.2),
        tau: float = 0.3,
        temperatures: Sequence[float] = (),
    ) -> None:
        super().__init__(classes=classes, shares=shares, tau=tau, temperatures=temperatures)
        if side not in INPUT_SIDES:
            raise ValueError(f"A crop is read at {', '.join(map(str, INPUT_SIDES))} pixels a side, not at {side}.")
        grid, rest = divmod(side, patch * 2 ** len(stem))
        if rest or width % heads:
            raise ValueError(f"Patches do not fill {side} pixels, or {heads} heads do not share {width} numbers.")
        channels = [1, *stem]
        self.side, self.grid, self.width = side, grid, width
        self.stem = nn.Sequential(*(_Halve(before, after) for before, after in pairwise(channels)))
        self.patches = nn.Conv2d(channels[-1], width, patch, patch)
        self.token = nn.Parameter(torch.randn(width) * 0.02) if token else None
        self.place = nn.Parameter(torch.randn(grid**2 + token, width) * 0.02)
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
        self.heads = nn.Linear(width, len(self.head_weights) * classes)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.head_logits(self.embed(pictures))

    def embed(self, pictures: torch.Tensor) -> torch.Tensor:
        """Crops (N, 48, 48), 0 to 255, to what the layers make of each (N, width)."""
        crops = standardize(pictures)
        if self.side != CROP_SIDE:
            crops = F.interpolate(crops, (self.side, self.side), mode="bilinear")
        tokens = self.patches(self.stem(crops)).flatten(2).transpose(1, 2)
        if self.token is not None:
            tokens = torch.cat([self.token.expand(len(tokens), 1, -1), tokens], dim=1)
        # A CPU learns from so few patches in two thirds of the time without what is made for long sequences. Only then:
        # the setting is the whole process's, not the thread's.
        with sdpa_kernel(SDPBackend.MATH) if self.training else nullcontext():
            read = self.norm(self.layers(self.dropout(tokens + self.place)))
        return read.mean(dim=1) if self.token is None else read[:, 0]

    def head_logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Embeddings (N, width) to the logits (N, H, C) of all heads."""
        return self.heads(self.dropout(embeddings)).unflatten(1, (len(self.head_weights), -1))


class ViTScratch(ViTNet):
    """The same as first published, at a size to learn from scratch: patches of 16 pixels, a class token, no stem.

    A crop of 48 pixels would have nine such patches; it is enlarged to `side`, of which 96 has 36.
    """

    def __init__(
        self,
        *,
        classes: int = 7,
        side: int = 96,
        patch: int = 16,
        width: int = 192,
        heads: int = 3,
        layers: int = 4,
        dropout: float = 0.1,
        shares: Sequence[float] = (1.0,),
        tau: float = 0.0,
        temperatures: Sequence[float] = (),
    ) -> None:
        super().__init__(
            classes=classes,
            side=side,
            stem=(),
            patch=patch,
            width=width,
            heads=heads,
            layers=layers,
            dropout=dropout,
            token=True,
            shares=shares,
            tau=tau,
            temperatures=temperatures,
        )


class _Halve(nn.Sequential):
    """Convolution that halves the picture, batch normalisation, ReLU."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
