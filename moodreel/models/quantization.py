"""Weights in fewer bytes: half precision, or eight bits with a scale for each row of a matrix, or each output channel
of a convolution."""

from collections.abc import Callable, Mapping

import torch

SCALE_SUFFIX = ".scale"
"""After the name of weights of eight bits: what their rows, or output channels, are multiplied by."""
_MOST = 127
_SHORTEST = 16
"""Numbers of a row that eight bits are worth it for: a shorter one, as of a table of priors, has most to lose by them,
and its scale takes as many bytes as they save."""


def to_float32(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in state.items()}


def to_float16(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Half precision; what has numbers too large for it stays as it is."""
    halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    return {
        name: (tensor if torch.isfinite(tensor).all() else state[name]).contiguous() for name, tensor in halved.items()
    }


def to_int8(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Matrices and convolutions as whole numbers of -127 to 127 times a scale for each row or output channel; what is
    neither, or has but one row, in half precision."""
    small = {}
    for name, tensor in to_float16(state).items():
        if tensor.ndim < 2 or len(tensor) < 2 or tensor[0].numel() < _SHORTEST or not tensor.is_floating_point():
            small[name] = tensor
            continue
        exact = state[name].float().flatten(1)
        scale = (exact.abs().amax(dim=1) / _MOST).clamp_min(1e-12)
        small[name] = (exact / scale[:, None]).round().to(torch.int8).reshape(tensor.shape).contiguous()
        small[name + SCALE_SUFFIX] = scale
    return small


PRECISIONS: dict[str, Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "float32": to_float32,
    "float16": to_float16,
    "int8": to_int8,
}
"""Ways to store weights, by name."""


def dequantize(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Undo what `in_eight_bits` did; weights that were stored otherwise stay as they are."""
    rows = {name.removesuffix(SCALE_SUFFIX) for name in weights if name.endswith(SCALE_SUFFIX)} & weights.keys()
    kept = {name: tensor for name, tensor in weights.items() if name.removesuffix(SCALE_SUFFIX) not in rows}
    return kept | {name: _scaled(weights[name].float(), weights[name + SCALE_SUFFIX].float()) for name in rows}


def _scaled(whole: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return whole * scale.reshape(-1, *[1] * (whole.ndim - 1))
