"""Define an SE-ResNet that classifies expressions from an aligned gray crop."""

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
        """Build the network.

        Args:
            classes: Number of labels.
            widths: Channels of each stage.
            depths: Residual blocks of each stage.
            dropout: Dropout before the heads.
            shares: As of `MultiHeadFaceNet`.
            tau: As of `MultiHeadFaceNet`.
            temperatures: As of `MultiHeadFaceNet`.
        """
        super().__init__(classes=classes, shares=shares, tau=tau, temperatures=temperatures)
        layers: list[nn.Module] = [_Convolution(1, widths[0], stride=2), nn.ReLU()]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            channels_in = widths[max(stage - 1, 0)]
            layers += [
                _SEBlock(channels_in if i == 0 else width, width, 2 if stage and i == 0 else 1) for i in range(depth)
            ]
        self.body = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.Linear(widths[-1], len(self.head_weights) * classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the logits (N, H, C) of crops (N, 48, 48), gray, 0..255."""
        embedding = self.body(standardize(images)).mean(dim=(2, 3))
        logits: torch.Tensor = self.heads(self.dropout(embedding)).unflatten(1, (len(self.head_weights), -1))
        return logits


class _Convolution(nn.Sequential):
    """A 3×3 convolution and batch normalization."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__(nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False), nn.BatchNorm2d(channels_out))


class _SEBlock(nn.Module):
    """A residual block of two convolutions with squeeze-and-excitation."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.first = _Convolution(channels_in, channels_out, stride)
        self.second = _Convolution(channels_out, channels_out)
        self.squeeze = nn.Linear(channels_out, channels_out // 8)
        self.excite = nn.Linear(channels_out // 8, channels_out)
        self.around: nn.Module = nn.Identity()
        if stride > 1 or channels_in != channels_out:
            self.around = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True),
                nn.Conv2d(channels_in, channels_out, 1, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(F.relu(self.first(x)))
        gate = self.excite(F.relu(self.squeeze(y.mean(dim=(2, 3))))).sigmoid()
        return F.relu(y * gate[:, :, None, None] + self.around(x))
