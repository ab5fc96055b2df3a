"""Weights in fewer bytes: half precision, or eight bits with a scale for each row of a matrix."""

from collections.abc import Callable, Mapping

import torch

SCALE = ".scale"
"""After the name of a matrix of eight bits: what its rows are multiplied by."""
_MOST = 127


def in_full(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in state.items()}


def in_half(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous() for name, tensor in state.items()
    }


def in_eight_bits(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Matrices as whole numbers of -127 to 127 times a scale a row; what is no matrix in half precision."""
    small = {}
    for name, tensor in in_half(state).items():
        if tensor.ndim != 2 or not tensor.is_floating_point():
            small[name] = tensor
            continue
        exact = state[name].float()
        scale = (exact.abs().amax(dim=1) / _MOST).clamp_min(1e-12)
        small[name] = (exact / scale[:, None]).round().to(torch.int8).contiguous()
        small[name + SCALE] = scale
    return small


PRECISIONS: dict[str, Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "float32": in_full,
    "float16": in_half,
    "int8": in_eight_bits,
}
"""Ways to store weights, by name."""


def restore(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Undo what `in_eight_bits` did; weights that were stored otherwise stay as they are."""
    matrices = {name.removesuffix(SCALE) for name in weights if name.endswith(SCALE)} & weights.keys()
    kept = {name: tensor for name, tensor in weights.items() if name.removesuffix(SCALE) not in matrices}
    return kept | {name: weights[name].float() * weights[name + SCALE].float()[:, None] for name in matrices}
