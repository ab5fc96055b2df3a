"""Define small vision transformers (Dosovitskiy et al. 2021) that classify expressions from an aligned gray crop."""

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from moodreel.faces.features import CROP_SIDE
from moodreel.models.networks.multi_head import MultiHeadFaceNet, standardize

INPUT_SIDES = (48, 96, 112, 224)
"""Pixels a side to which a crop may be upscaled."""


class ViTNet(MultiHeadFaceNet):
    """Patches with learned positional embeddings, and pre-norm transformer layers."""

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
        """Build the network.

        Args:
            classes: Number of labels.
            side: Pixels a side to which the crop is upscaled, one of `INPUT_SIDES`.
            stem: Channels of stride-2 convolutions before the patches, possibly none. With a few of them a transformer
                learns faster, and from fewer images (Xiao et al. 2021).
            patch: Side of a patch, in pixels of the stem's output.
            width: Values of each token.
            heads: Attention heads of each layer.
            layers: Number of transformer layers.
            dropout: Dropout of the layers and before the heads.
            token: Whether to classify from a class token, as first published; otherwise from the mean of all patches,
                which is better for small data sets (Beyer et al. 2022).
            shares: See `MultiHeadFaceNet`.
            tau: See `MultiHeadFaceNet`.
            temperatures: See `MultiHeadFaceNet`.
        """
        super().__init__(classes=classes, shares=shares, tau=tau, temperatures=temperatures)
        if side not in INPUT_SIDES:
            raise ValueError(f"A crop is read at {', '.join(map(str, INPUT_SIDES))} pixels a side, not at {side}.")
        grid, rest = divmod(side, patch * 2 ** len(stem))
        if rest or width % heads:
            raise ValueError(f"Patches do not fill {side} pixels, or {heads} heads do not divide the width {width}.")
        channels = [1, *stem]
        self.side, self.grid, self.width = side, grid, width
        self.stem = nn.Sequential(
            *(_Halve(channels_in, channels_out) for channels_in, channels_out in pairwise(channels))
        )
        self.patches = nn.Conv2d(channels[-1], width, patch, patch)
        self.token = nn.Parameter(nn.init.normal_(torch.empty(width), std=0.02)) if token else None
        self.place = nn.Parameter(nn.init.normal_(torch.empty(grid**2 + token, width), std=0.02))
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

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the logits (N, H, C) of crops (N, 48, 48), gray, 0..255."""
        return self.head_logits(self.embed(images))

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the embedding (N, width) of crops (N, 48, 48), gray, 0..255."""
        crops = standardize(images)
        if self.side != CROP_SIDE:
            crops = F.interpolate(crops, (self.side, self.side), mode="bilinear")
        tokens = self.patches(self.stem(crops)).flatten(2).transpose(1, 2)
        if self.token is not None:
            tokens = torch.cat([self.token.expand(len(tokens), 1, -1), tokens], dim=1)
        # On a CPU, training on so few patches takes two thirds of the time without the kernels for long sequences. Only
        # in training: the setting holds for the whole process, not for the thread.
        with sdpa_kernel(SDPBackend.MATH) if self.training else nullcontext():
            encoded: torch.Tensor = self.norm(self.layers(self.dropout(tokens + self.place)))
        return encoded.mean(dim=1) if self.token is None else encoded[:, 0]

    def head_logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Compute the logits (N, H, C) of all heads from embeddings (N, width)."""
        logits: torch.Tensor = self.heads(self.dropout(embeddings)).unflatten(1, (len(self.head_weights), -1))
        return logits


class ViTScratch(ViTNet):
    """A vision transformer as first published, small enough to train from scratch.

    It has patches of 16 pixels, a class token and no stem. A crop of 48 pixels has nine such patches; upscaled to 96
    it has 36.
    """

    def __init__(self, **arguments: Any) -> None:
        """Build the network; the arguments are those of `ViTNet` but for `stem` and `token`."""
        defaults: dict[str, Any] = {
            "side": 96,
            "patch": 16,
            "heads": 3,
            "layers": 4,
            "dropout": 0.1,
            "shares": (1.0,),
            "tau": 0.0,
        }
        super().__init__(stem=(), token=True, **(defaults | arguments))


class _Halve(nn.Sequential):
    """A 3×3 convolution with stride 2, batch normalization and ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, 2, 1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU()
        )
