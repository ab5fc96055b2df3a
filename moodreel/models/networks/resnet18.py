"""ResNet-18 (He et al. 2016, arXiv:1512.03385) as a trunk: pictures to 512 numbers each.

The layout is torchvision's `resnet18`, key for key (`conv1.weight`, `layer2.0.downsample.1.running_var` …), so that
its published ImageNet weights load by path, and any that were trained from them.
"""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from moodreel.models.checkpoint import load_state_dict, read_weights

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's colours, 0 to 1."""
LUMA_WEIGHTS = 0.299, 0.587, 0.114
"""Shares of red, green and blue in grey (ITU-R BT.601)."""
INPUT_SIDE = 112
"""Pixels a side that faces are read at: half of ImageNet's 224, a quarter of the time, and all that most faces have."""
FEATURE_DIM = 512
"""Numbers for each picture."""
_COUNTER = "num_batches_tracked"


class ResNet18(nn.Module):
    """Pictures to what is in them, without the layer that names classes: 11,176,512 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False), nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(_Block(64, 64), _Block(64, 64))
        self.layer2 = nn.Sequential(_Block(64, 128, stride=2), _Block(128, 128))
        self.layer3 = nn.Sequential(_Block(128, 256, stride=2), _Block(256, 256))
        self.layer4 = nn.Sequential(_Block(256, FEATURE_DIM, stride=2), _Block(FEATURE_DIM, FEATURE_DIM))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures (N, 3, S, S), normalised as `normalise` does, to float32 (N, 512)."""
        x = F.relu(self.bn1(self.conv1(pictures)))
        x = F.max_pool2d(x, 3, 2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(dim=(2, 3))


class _Block(nn.Module):
    """Two convolutions and the shortcut around them."""

    def __init__(self, before: int, after: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample = None
        if before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def normalize(
    images: torch.Tensor, side: int = INPUT_SIDE, *, grayscale: bool = False, detail_side: int = 0
) -> torch.Tensor:
    """Pictures (N, S, S, 3), red first, 0 to 255, to float32 (N, 3, side, side), normalised as ImageNet's colours are.

    grey: without colours (ITU-R BT.601). detail: pixels a side that larger ones are shrunk to first; 0 for none.
    """
    x = images.movedim(-1, 1).float()
    if grayscale:
        x = (x * x.new_tensor(LUMA_WEIGHTS)[:, None, None]).sum(dim=1, keepdim=True)
    if detail_side and x.shape[-1] > detail_side:
        x = F.interpolate(x, (detail_side, detail_side), mode="bilinear", antialias=True)
    if x.shape[-2:] != (side, side):
        x = F.interpolate(x, (side, side), mode="bilinear", antialias=True)
    mean, std = (x.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((x.expand(-1, 3, -1, -1) / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def load_torchvision_weights(trunk: ResNet18, path: Path) -> None:
    """Put the weights of a torchvision `resnet18` into a trunk; the layer that names classes is left out.

    Raises ModelInvalid where the file is no checkpoint, or not of this network.
    """
    weights = {key: tensor for key, tensor in read_weights(path).items() if not key.startswith("fc.")}
    # Files older than torch 0.4.1, as torchvision's first ones are, do not count batches.
    counters = {key: tensor for key, tensor in trunk.state_dict().items() if key.endswith(_COUNTER)}
    load_state_dict(trunk, counters | weights, path.name)
