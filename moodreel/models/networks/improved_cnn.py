"""A plain convolutional network, to compare others with: an aligned grey crop to expressions."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from moodreel.models.networks.multi_head import MultiHeadFaceNet, standardize

GRID = 7
"""Places a side that the last convolution is averaged to."""


class ImprovedCNN(MultiHeadFaceNet):
    """Convolutions, each with batch normalisation, ReLU and a pooling that halves the picture, and two linear layers.

    The last pooling is a mean over a grid of 7 × 7: halved once more, a crop would leave 6 × 6.

    channels: of the convolutions. hidden: numbers between the linear layers. dropout: share of what goes into each of
        these that training leaves out.
    """

    def __init__(
        self,
        *,
        classes: int = 7,
        channels: Sequence[int] = (32, 64, 128),
        hidden: int = 256,
        dropout: float = 0.5,
        shares: Sequence[float] = (1.0,),
        tau: float = 0.0,
        temperatures: Sequence[float] = (),
    ) -> None:
        super().__init__(classes=classes, shares=shares, tau=tau, temperatures=temperatures)
        self.layers = nn.Sequential(*(_Layer(before, after) for before, after in pairwise([1, *channels])))
        self.hidden = nn.Linear(channels[-1] * GRID**2, hidden)
        self.heads = nn.Linear(hidden, len(self.head_weights) * classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        x = standardize(pictures)
        for number, layer in enumerate(self.layers, start=1):
            x = layer(x)
            x = F.max_pool2d(x, 2) if number < len(self.layers) else F.adaptive_avg_pool2d(x, GRID)
        x = F.relu(self.hidden(self.dropout(x.flatten(1))))
        return self.heads(self.dropout(x)).unflatten(1, (len(self.head_weights), -1))


class _Layer(nn.Sequential):
    """Convolution 3 by 3, batch normalisation, ReLU."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
