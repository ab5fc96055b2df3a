"""Define ResEmoteNet (Roy et al. 2024, arXiv:2409.10545); at full width its public checkpoints load unchanged."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from moodreel.faces.features import CropKind
from moodreel.models.networks.multi_head import MultiHeadFaceNet, standardize
from moodreel.models.networks.resnet18 import IMAGENET_MEAN, IMAGENET_STD, LUMA_WEIGHTS

INPUT_SIDE = 64
"""Pixels a side of the input."""


class ResEmoteNet(MultiHeadFaceNet):
    """Three convolutions, squeeze-and-excitation, three residual blocks and four linear layers."""

    def __init__(
        self,
        *,
        classes: int = 7,
        width: float = 1.0,
        portrait: bool = True,
        blank: float = 0.2,
        dropout: float = 0.5,
        **pool: Any,
    ) -> None:
        """Build the network.

        Args:
            classes: Number of labels.
            width: Factor of the width of all layers; the published network, of 80 M parameters, has 1.
            portrait: Whether to read the RGB crop as the published network does, gray but normalized as ImageNet's
                colors; otherwise the aligned gray crop, upscaled.
            blank: Dropout between the first convolutions.
            dropout: Dropout between the linear layers.
            pool: Other arguments of `MultiHeadFaceNet`.
        """
        super().__init__(classes=classes, **pool)
        self.crop_kind = CropKind.SQUARE if portrait else CropKind.GRAY
        if portrait:
            self.batch_size, self.mirror_below = 32, 0
        sizes = [round(size * width) for size in (64, 128, 256, 512, 1024, 2048)]
        self.conv1, self.bn1 = nn.Conv2d(3, sizes[0], 3, padding=1), nn.BatchNorm2d(sizes[0])
        self.conv2, self.bn2 = nn.Conv2d(sizes[0], sizes[1], 3, padding=1), nn.BatchNorm2d(sizes[1])
        self.conv3, self.bn3 = nn.Conv2d(sizes[1], sizes[2], 3, padding=1), nn.BatchNorm2d(sizes[2])
        self.se = _SqueezeExcitation(sizes[2])
        self.res_block1 = _Residual(sizes[2], sizes[3])
        self.res_block2 = _Residual(sizes[3], sizes[4])
        self.res_block3 = _Residual(sizes[4], sizes[5])
        self.fc1, self.fc2 = nn.Linear(sizes[5], sizes[4]), nn.Linear(sizes[4], sizes[3])
        self.fc3, self.fc4 = nn.Linear(sizes[3], sizes[2]), nn.Linear(sizes[2], len(self.head_weights) * classes)
        self.conv_dropout, self.dropout = nn.Dropout(blank), nn.Dropout(dropout)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the logits (N, H, C) of RGB crops or gray crops, as `MultiHeadFaceNet.forward` says."""
        x = preprocess(images) if self.crop_kind is CropKind.SQUARE else upscale_crops(standardize(images))
        x = self.conv_dropout(F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2))
        x = self.conv_dropout(F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2))
        x = self.se(F.max_pool2d(F.relu(self.bn3(self.conv3(x))), 2))
        x = self.res_block3(self.res_block2(self.res_block1(x))).mean(dim=(2, 3))
        for layer in (self.fc1, self.fc2, self.fc3):
            x = self.dropout(F.relu(layer(x)))
        logits: torch.Tensor = self.fc4(x).unflatten(1, (len(self.head_weights), -1))
        return logits


def preprocess(images: torch.Tensor) -> torch.Tensor:
    """Turn RGB crops (N, S, S, 3), 0..255, into float32 (N, 3, 64, 64), gray, as the published network reads them."""
    small = F.interpolate(images.movedim(-1, 1).float(), (INPUT_SIDE, INPUT_SIDE), mode="bilinear", antialias=True)
    gray = (small * small.new_tensor(LUMA_WEIGHTS)[:, None, None]).sum(dim=1, keepdim=True) / 255
    mean, std = (gray.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((gray - mean) / std).contiguous(memory_format=torch.channels_last)


def upscale_crops(crops: torch.Tensor) -> torch.Tensor:
    """Turn standardized crops (N, 1, 48, 48) into (N, 3, 64, 64), the size and channels that the network reads."""
    large = F.interpolate(crops, (INPUT_SIDE, INPUT_SIDE), mode="bilinear")
    return large.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


class _SqueezeExcitation(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(width, width // 16, bias=False), nn.ReLU(), nn.Linear(width // 16, width, bias=False)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate: torch.Tensor = self.fc(x.mean(dim=(2, 3))).sigmoid()
        return x * gate[:, :, None, None]


class _Residual(nn.Module):
    """A residual block of two convolutions, the first with stride 2."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels_in, channels_out, 3, 2, padding=1), nn.BatchNorm2d(channels_out)
        self.conv2, self.bn2 = nn.Conv2d(channels_out, channels_out, 3, padding=1), nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, 2), nn.BatchNorm2d(channels_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))
