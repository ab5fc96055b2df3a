"""Define ResNet-18 (He et al. 2016, arXiv:1512.03385) without its classifier: 512 features an image.

The state dict has the keys of torchvision's `resnet18` (`conv1.weight`, `layer2.0.downsample.1.running_var` …), so that
its published ImageNet weights, and weights trained from them, load unchanged.
"""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from moodreel.faces.features import SMALL_SQUARE_SIDE
from moodreel.models.checkpoint import load_state_dict, read_weights

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's red, green and blue, 0..1."""
LUMA_WEIGHTS = 0.299, 0.587, 0.114
"""Weights of red, green and blue in gray (ITU-R BT.601)."""
INPUT_SIDE = SMALL_SQUARE_SIDE
"""Pixels a side of the input: half of ImageNet's 224, at a quarter of the time; most faces have no more detail."""
FEATURE_DIM = 512
"""Features of each image."""
_COUNTER = "num_batches_tracked"


class ResNet18(nn.Module):
    """The convolutional part of ResNet-18: 11,176,512 parameters."""

    def __init__(self) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False), nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(_ResidualBlock(64, 64), _ResidualBlock(64, 64))
        self.layer2 = nn.Sequential(_ResidualBlock(64, 128, stride=2), _ResidualBlock(128, 128))
        self.layer3 = nn.Sequential(_ResidualBlock(128, 256, stride=2), _ResidualBlock(256, 256))
        self.layer4 = nn.Sequential(
            _ResidualBlock(256, FEATURE_DIM, stride=2), _ResidualBlock(FEATURE_DIM, FEATURE_DIM)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the features, float32 (N, 512), of images (N, 3, S, S) as `normalize` returns them."""
        x: torch.Tensor = F.relu(self.bn1(self.conv1(images)))
        x = F.max_pool2d(x, 3, 2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(dim=(2, 3))


class _ResidualBlock(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.downsample = None
        if channels_in != channels_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def normalize(
    images: torch.Tensor, side: int = INPUT_SIDE, *, grayscale: bool = False, detail_side: int = 0
) -> torch.Tensor:
    """Resize RGB images and normalize them with ImageNet's mean and standard deviation.

    Args:
        images: (N, S, S, 3), RGB, 0..255.
        side: Pixels a side of the result.
        grayscale: Whether to drop the colors (ITU-R BT.601).
        detail_side: Pixels a side to which larger images are shrunk first; 0 for none.

    Returns:
        float32 (N, 3, side, side), channels last.
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
    """Load the weights of a torchvision `resnet18`, except its classifier.

    Raises:
        ModelInvalid: The file is not a checkpoint of this network.
    """
    weights = {key: tensor for key, tensor in read_weights(path).items() if not key.startswith("fc.")}
    # Files older than torch 0.4.1, such as torchvision's first ones, lack the batch counters.
    counters = {key: tensor for key, tensor in trunk.state_dict().items() if key.endswith(_COUNTER)}
    load_state_dict(trunk, counters | weights, path.name)
