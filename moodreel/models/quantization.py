"""Store weights in fewer bytes: as float16, or as int8 with a scale for each output channel."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

SCALE_SUFFIX = ".scale"
"""Suffix of the name of the scales that belong to int8 weights."""
_INT8_MAX = 127
_MIN_ROW_SIZE = 16
"""Values of a row from which int8 pays: in a shorter one, such as a row of priors, the scale takes what is saved."""


def to_float32(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights unchanged."""
    return {name: tensor.contiguous() for name, tensor in state.items()}


def to_float16(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Convert floating-point weights to float16; a tensor with values too large for that stays unchanged."""
    halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    return {
        name: (tensor if torch.isfinite(tensor).all() else state[name]).contiguous() for name, tensor in halved.items()
    }


def to_int8(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Quantize matrices and convolutions symmetrically to int8, -127..127, with a scale for each output channel.

    Everything else, and what has only one or very short rows, becomes float16. The scales are stored under the name of
    the weights and `SCALE_SUFFIX`.
    """
    quantized = {}
    for name, tensor in to_float16(state).items():
        if tensor.ndim < 2 or len(tensor) < 2 or tensor[0].numel() < _MIN_ROW_SIZE or not tensor.is_floating_point():
            quantized[name] = tensor
            continue
        exact = state[name].float().flatten(1)
        scale = (exact.abs().amax(dim=1) / _INT8_MAX).clamp_min(1e-12)
        quantized[name] = (exact / scale[:, None]).round().to(torch.int8).reshape(tensor.shape).contiguous()
        quantized[name + SCALE_SUFFIX] = scale
    return quantized


class QuantizedEmbedding(nn.Module):
    """A table of int8 rows with a scale each, as `to_int8` stores it. A row becomes float16 when it is looked up.

    Rows of a mapped file stay there: the processes that read it share them.

    Attributes:
        num_embeddings: Number of rows.
    """

    values: torch.Tensor
    scales: torch.Tensor

    def __init__(self, values: torch.Tensor, scales: torch.Tensor) -> None:
        """Wrap a table.

        Args:
            values: int8 (V, D).
            scales: (V,).
        """
        super().__init__()
        self.num_embeddings = len(values)
        self.register_buffer("values", values, persistent=False)
        self.register_buffer("scales", scales.float(), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Look up rows: float16 (..., D) for ids (...)."""
        return (self.values[ids].float() * self.scales[ids][..., None]).half()


PRECISIONS: dict[str, Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "float32": to_float32,
    "float16": to_float16,
    "int8": to_int8,
}
"""Conversions of a state dict by the name of the precision."""


def dequantize(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return int8 weights of `to_int8` as float32; others unchanged."""
    quantized = {name.removesuffix(SCALE_SUFFIX) for name in weights if name.endswith(SCALE_SUFFIX)} & weights.keys()
    others = {name: tensor for name, tensor in weights.items() if name.removesuffix(SCALE_SUFFIX) not in quantized}
    return others | {name: _scaled(weights[name].float(), weights[name + SCALE_SUFFIX].float()) for name in quantized}


def _scaled(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return values * scale.reshape(-1, *[1] * (values.ndim - 1))
