"""Define EfficientNet-Lite0, which classifies expressions from an aligned color crop."""

import threading
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from moodreel.faces.features import COLOR_CROP_SIDE, CropKind
from moodreel.models.networks.multi_head import MultiHeadFaceNet
from moodreel.models.networks.resnet18 import IMAGENET_MEAN, IMAGENET_STD

_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, kernel size, stride of the first block, expansion factor and output channels of each stage."""
_STEM_CHANNELS, _TOP_CHANNELS = 32, 1280
_BATCHNORM_MOMENTUM = 0.01
_ONEDNN_BATCH = 16
"""Images from which torch computes 1 × 1 convolutions with oneDNN on one thread of a CPU. It is faster from 2."""
_cpu_lock = threading.Lock()
"""One batch at a time on a CPU: four threads that called oneDNN at once hung twice in native code. Why is not known."""


class EfficientNetLiteNet(MultiHeadFaceNet):
    """EfficientNet-Lite0: inverted residual blocks without squeeze-and-excitation, with ReLU6.

    Tan & Le 2019, arXiv:1905.11946; Lite: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite.
    Paddings are those of TensorFlow's SAME, so that published ImageNet weights fit.
    """

    crop_kind = CropKind.COLOR
    batch_size = 8
    """On a CPU a larger batch is no faster, and takes more memory."""

    def __init__(
        self,
        *,
        classes: int = 7,
        dropout: float = 0.3,
        shares: Sequence[float] = (0.5, 0.25, 0.25, 0.0),
        tau: float = 0.0,
        temperatures: Sequence[float] = (),
    ) -> None:
        """Build the network.

        Args:
            classes: Number of labels.
            dropout: Dropout before the heads.
            shares: See `MultiHeadFaceNet`.
            tau: See `MultiHeadFaceNet`.
            temperatures: See `MultiHeadFaceNet`.
        """
        super().__init__(classes=classes, shares=shares, tau=tau, temperatures=temperatures)
        self.stem = _Convolution(3, _STEM_CHANNELS, 3, stride=2)
        blocks: list[nn.Module] = []
        channels = _STEM_CHANNELS
        for count, kernel, stride, expansion, channels_out in _STAGES:
            for number in range(count):
                blocks.append(_Block(channels, channels_out, kernel, 1 if number else stride, expansion))
                channels = channels_out
        self.blocks = nn.Sequential(*blocks)
        self.top = _Convolution(channels, _TOP_CHANNELS, 1)
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.Linear(_TOP_CHANNELS, len(self.head_weights) * classes)

    def _predict(self, images: torch.Tensor) -> torch.Tensor:
        if images.device.type != "cpu":
            return super()._predict(images)
        with _cpu_lock:
            return super()._predict(images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the logits (N, H, C) of crops (N, 96, 96, 3), RGB, 0..255."""
        embedding = self.top(self.blocks(self.stem(_preprocess(images)))).mean(dim=(2, 3))
        logits: torch.Tensor = self.heads(self.dropout(embedding)).unflatten(1, (len(self.head_weights), -1))
        return logits


class _Convolution(nn.Module):
    """A convolution, batch normalization, and ReLU6 unless it is linear."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        # TensorFlow's SAME pads an even side less at the top and the left where the stride is 2.
        self.padding = ((kernel - 2) // 2, (kernel - 1) // 2) if stride == 2 else (kernel // 2, kernel // 2)
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(channels_out, eps=1e-3, momentum=_BATCHNORM_MOMENTUM)
        self.linear = linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm(self._convolve(x))
        return y if self.linear else F.relu6(y, inplace=torch.is_inference_mode_enabled())

    def _convolve(self, x: torch.Tensor) -> torch.Tensor:
        before, after = self.padding
        if before != after:
            x, before = F.pad(x, (before, after, before, after)), 0
        conv = self.conv
        if torch.is_inference_mode_enabled() and 1 < len(x) < _ONEDNN_BATCH and _has_onednn(x):
            return torch.mkldnn_convolution(
                x, conv.weight, conv.bias, (before, before), conv.stride, (1, 1), conv.groups
            )
        return F.conv2d(x, conv.weight, conv.bias, conv.stride, before, groups=conv.groups)


class _Block(nn.Module):
    """An inverted residual block (MobileNetV2, Sandler et al. 2018)."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = channels_in * expansion
        self.layers = nn.Sequential(
            *([_Convolution(channels_in, width, 1)] if expansion > 1 else []),
            _Convolution(width, width, kernel, stride=stride, groups=width),
            _Convolution(width, channels_out, 1, linear=True),
        )
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return x + y if self.residual else y


def _has_onednn(x: torch.Tensor) -> bool:
    onednn = torch.backends.mkldnn
    return x.device.type == "cpu" and bool(onednn.enabled) and onednn.is_available()


def _preprocess(images: torch.Tensor) -> torch.Tensor:
    """Turn RGB crops (N, 96, 96, 3), 0..255, into float32 (N, 3, 96, 96), channels last, normalized as ImageNet's."""
    if images.shape[-3:] != (COLOR_CROP_SIDE, COLOR_CROP_SIDE, 3):
        raise ValueError(f"Crops are ({COLOR_CROP_SIDE}, {COLOR_CROP_SIDE}, 3), not {tuple(images.shape[-3:])}.")
    colors = images.movedim(-1, 1).float() / 255
    mean, std = (colors.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((colors - mean) / std).contiguous(memory_format=torch.channels_last)
