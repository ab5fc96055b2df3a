"""Exponential moving average of model weights (Polyak & Juditsky 1992)."""

import copy

import torch
from torch import nn

from moodreel.training.engine.checkpoint import State


class ExponentialMovingAverage:
    """Keep an exponential moving average of a network's weights; it often generalizes better than the last weights.

    Attributes:
        network: the averaged copy, in eval mode, without gradients.
    """

    def __init__(self, network: nn.Module, decay: float, *, warmup: bool = True) -> None:
        """Copy a network.

        Args:
            network: the network to average.
            decay: weight of the average at each update, 0 to 1.
            warmup: let the decay rise from 0 to `decay`, so that the first weights are soon forgotten. Without it the
                average stays near them, which suits pretrained weights.
        """
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self._decay, self._warmup, self._updates = decay, warmup, 0
        self.follow(network)

    def follow(self, network: nn.Module) -> None:
        """Average a network's trained parameters and its buffers from now on. Frozen parameters never change."""
        moving = [
            (average, current.detach())
            for average, current in zip(_tensors(self.network), _tensors(network), strict=True)
            if current.requires_grad or not isinstance(current, nn.Parameter)
        ]
        self._floating = [pair for pair in moving if pair[0].is_floating_point()]
        self._others = [pair for pair in moving if not pair[0].is_floating_point()]

    def update(self) -> None:
        """Move floating-point tensors towards those of the network, and copy the others."""
        averages, currents = (list(tensors) for tensors in zip(*self._floating, strict=True))
        torch._foreach_lerp_(averages, currents, 1 - self._next_decay())
        for average, current in self._others:
            average.copy_(current)

    def _next_decay(self) -> float:
        updates, self._updates = self._updates, self._updates + 1
        if not updates:
            return 0.0
        return min(self._decay, (1 + updates) / (10 + updates)) if self._warmup else self._decay

    def state_dict(self) -> State:
        """Return the averaged weights and the number of updates."""
        return {"network": self.network.state_dict(), "count": self._updates}

    def load_state_dict(self, state: State) -> None:
        """Load the state that `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self._updates = state["count"]


def _tensors(network: nn.Module) -> list[torch.Tensor]:
    return [*network.parameters(), *network.buffers()]
