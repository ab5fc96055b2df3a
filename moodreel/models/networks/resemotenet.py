"""ResEmoteNet (Roy et al. 2024, arXiv:2409.10545), at full width in the layout of its public checkpoints."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from moodreel.models.networks.multi_head import MultiHeadFaceNet, standardize
from moodreel.models.networks.resnet18 import IMAGENET_MEAN, IMAGENET_STD, LUMA_WEIGHTS

INPUT_SIDE = 64
"""Pixels a side that it reads."""


class ResEmoteNet(MultiHeadFaceNet):
    """Three convolutions, squeeze-and-excitation, three residual blocks and four linear layers.

    width: of all layers, in those of the published network, which has 80 M parameters.
    portrait: whether to read a portrait as the published network does, grey but normalised as ImageNet's colours are;
        otherwise the aligned crop, enlarged.
    blank: share of the values between the first convolutions that training leaves out; dropout: of those between the
        linear layers.
    """

    def __init__(
        self,
        *,
        classes: int = 7,
        width: float = 1.0,
        portrait: bool = True,
        blank: float = 0.2,
        dropout: float = 0.5,
        shares: Sequence[float] = (1.0,),
        tau: float = 0.0,
        temperatures: Sequence[float] = (),
    ) -> None:
        super().__init__(classes=classes, shares=shares, tau=tau, temperatures=temperatures)
        self.requires_rgb_crop = portrait
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
        self.fc1 = nn.Linear(sizes[5], sizes[4])
        self.fc2 = nn.Linear(sizes[4], sizes[3])
        self.fc3 = nn.Linear(sizes[3], sizes[2])
        self.fc4 = nn.Linear(sizes[2], len(self.head_weights) * classes)
        self.blank, self.dropout = nn.Dropout(blank), nn.Dropout(dropout)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        x = preprocess(pictures) if self.requires_rgb_crop else upscale_crops(standardize(pictures))
        x = self.blank(F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2))
        x = self.blank(F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2))
        x = self.se(F.max_pool2d(F.relu(self.bn3(self.conv3(x))), 2))
        x = self.res_block3(self.res_block2(self.res_block1(x))).mean(dim=(2, 3))
        for layer in (self.fc1, self.fc2, self.fc3):
            x = self.dropout(F.relu(layer(x)))
        return self.fc4(x).unflatten(1, (len(self.head_weights), -1))


def preprocess(portraits: torch.Tensor) -> torch.Tensor:
    """Portraits (N, S, S, 3), 0 to 255, to float32 (N, 3, 64, 64) as the published network reads them."""
    small = F.interpolate(portraits.movedim(-1, 1).float(), (INPUT_SIDE, INPUT_SIDE), mode="bilinear", antialias=True)
    grey = (small * small.new_tensor(LUMA_WEIGHTS)[:, None, None]).sum(dim=1, keepdim=True) / 255
    mean, std = (grey.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((grey - mean) / std).contiguous(memory_format=torch.channels_last)


def upscale_crops(crops: torch.Tensor) -> torch.Tensor:
    """Standardised crops (N, 1, 48, 48) to (N, 3, 64, 64): the size and channels that the published network reads."""
    large = F.interpolate(crops, (INPUT_SIDE, INPUT_SIDE), mode="bilinear")
    return large.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


class _SqueezeExcitation(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(width, width // 16, bias=False), nn.ReLU(), nn.Linear(width // 16, width, bias=False)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.fc(x.mean(dim=(2, 3))).sigmoid()[:, :, None, None]


class _Residual(nn.Module):
    """Two convolutions, the first of which halves the picture, and the shortcut around them."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, after, 3, 2, padding=1), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = nn.Conv2d(after, after, 3, padding=1), nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, 2), nn.BatchNorm2d(after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))
