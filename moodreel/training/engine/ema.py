"""The mean of a network's last weights (Polyak & Juditsky 1992), which often knows better than the last of them."""

import copy
from typing import Any

import torch
from torch import nn


class ExponentialMovingAverage:
    """A network of the mean of another's last weights, which soon forgets the first ones, unless it is anchored."""

    def __init__(self, network: nn.Module, kept: float, *, anchored: bool = False) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self._kept, self._anchored, self._count = kept, anchored, 0

    def restart(self) -> None:
        self._count = 0

    def update(self, network: nn.Module) -> None:
        """Move what learns, and the state of normalisations, towards the network's; the rest is the same in both."""
        moving = [
            (mean, now.detach())
            for mean, now in zip(self._tensors(self.network), self._tensors(network), strict=True)
            if now.requires_grad or not isinstance(now, nn.Parameter)
        ]
        means, nows = (
            list(tensors) for tensors in zip(*[pair for pair in moving if pair[0].is_floating_point()], strict=True)
        )
        before, self._count = self._count, self._count + 1
        kept = min(self._kept, 1.0 if self._anchored else (1 + before) / (10 + before)) if before else 0.0
        torch._foreach_lerp_(means, nows, 1 - kept)
        for mean, now in moving:
            if not mean.is_floating_point():
                mean.copy_(now)

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self._count = state["count"]

    @staticmethod
    def _tensors(network: nn.Module) -> list[torch.Tensor]:
        return [*network.parameters(), *network.buffers()]
