"""Define a plain convolutional baseline that classifies expressions from an aligned gray crop."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from moodreel.models.networks.multi_head import MultiHeadFaceNet, standardize

GRID = 7
"""Cells a side of the grid that the last convolution is pooled to."""


class ImprovedCNN(MultiHeadFaceNet):
    """Convolutions, each with batch normalization, ReLU and pooling by two, and two linear layers.

    The last pooling averages over a grid of 7 × 7; pooling by two would leave 6 × 6 of a crop.
    """

    def __init__(
        self,
        *,
        classes: int = 7,
        channels: Sequence[int] = (32, 64, 128),
        hidden: int = 256,
        dropout: float = 0.5,
        **pool: Any,
    ) -> None:
        """Build the network.

        Args:
            classes: Number of labels.
            channels: Channels of each convolution.
            hidden: Units between the linear layers.
            dropout: Dropout before each linear layer.
            pool: Other arguments of `MultiHeadFaceNet`.
        """
        super().__init__(classes=classes, **pool)
        self.layers = nn.Sequential(
            *(_Layer(channels_in, channels_out) for channels_in, channels_out in pairwise([1, *channels]))
        )
        self.hidden = nn.Linear(channels[-1] * GRID**2, hidden)
        self.heads = nn.Linear(hidden, len(self.head_weights) * classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the logits (N, H, C) of crops (N, 48, 48), gray, 0..255."""
        x = standardize(images)
        for number, layer in enumerate(self.layers, start=1):
            x = layer(x)
            x = F.max_pool2d(x, 2) if number < len(self.layers) else F.adaptive_avg_pool2d(x, GRID)
        x = F.relu(self.hidden(self.dropout(x.flatten(1))))
        logits: torch.Tensor = self.heads(self.dropout(x)).unflatten(1, (len(self.head_weights), -1))
        return logits


class _Layer(nn.Sequential):
    """A 3×3 convolution, batch normalization and ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU()
        )
