"""The face's appearance: an aligned grey crop to seven expressions."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from moodreel.models.networks.multi_head import MultiHeadFaceNet, standardize


class FaceExpressionNet(MultiHeadFaceNet):
    """A residual network with squeeze-and-excitation (He et al. 2016, Hu et al. 2018)."""

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
        super().__init__(classes=classes, shares=shares, tau=tau, temperatures=temperatures)
        layers: list[nn.Module] = [_Convolution(1, widths[0], stride=2), nn.ReLU()]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            before = widths[max(stage - 1, 0)]
            layers += [_Block(before if i == 0 else width, width, 2 if stage and i == 0 else 1) for i in range(depth)]
        self.body = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.Linear(widths[-1], len(self.head_weights) * classes)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        embedding = self.body(standardize(pictures)).mean(dim=(2, 3))
        return self.heads(self.dropout(embedding)).unflatten(1, (len(self.head_weights), -1))


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
